"""The files of a run that training goes on from: written aside and renamed, the last few kept."""

import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vidtwin.files import tensor_output
from vidtwin.model.checkpoint import read_pickle, shorten
from vidtwin.training.recipe import RunRecipe

FOLDER = "checkpoints"
KEYS = {"step", "recipe", "best", "skipped", "run"}


def saved(out: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    found = {path: re.fullmatch(r"step-(\d+)\.pt", path.name) for path in (out / FOLDER).glob("step-*.pt")}
    return sorted((path for path, match in found.items() if match), key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.stem[5:])


def save(out: Path, recipe: RunRecipe, step: int, best: float, skipped: int, state: dict[str, Any]) -> None:
    """Write a checkpoint after `step` steps; only when it is whole do older ones than the last `keep_checkpoints` go.

    Later ones, which were damaged if they are there, stay until they are replaced. Raises OSError when it cannot be written (a full
    disk); the earlier ones stay.
    """
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    content = {"step": step, "recipe": recipe.to_dict(), "best": best, "skipped": skipped, "run": state}
    with tensor_output(out / FOLDER / f"step-{step:08}.pt") as partial:
        torch.save(content, partial)
    for path in [path for path in saved(out) if _step(path) <= step][recipe.keep_checkpoints :]:
        path.unlink()


def clear(out: Path) -> None:
    """Remove what earlier processes were killed in writing."""
    for path in [*out.glob(".*.partial-*"), *(out / FOLDER).glob(".*.partial-*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _check_sums(path: Path) -> None:
    """Raise a ValueError if the bytes are not those that were written; torch reads them without looking at their sums."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged archive can raise many kinds
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split()) or type(error).__name__})") from error
    if damaged is not None:
        raise ValueError(f"{path}: damaged ({damaged} does not have its checksum)")


def latest(out: Path, recipe: RunRecipe) -> dict[str, Any] | None:
    """The newest checkpoint of a run that can be read, None if there is none.

    A damaged one is passed over, and said. Raises ValueError when all are damaged, or the run has another recipe or more steps.
    """
    paths, reasons = saved(out), []
    for path in paths:
        try:
            content = read_pickle(path)
            _check_sums(path)
            if not isinstance(content, dict) or set(content) != KEYS:
                raise ValueError(f"{path}: not a checkpoint of a training run")
            break
        except ValueError as error:
            reasons.append(str(error))
    else:
        if paths:
            raise ValueError(f"{reasons[0]}; choose another folder, or delete {out / FOLDER} to start over")
        return None
    for reason in reasons:
        tqdm.write(f"passed over: {reason}")
    before, now = content["recipe"], recipe.to_dict()
    changed = [key for key in now if key not in recipe.RESUMABLE and before.get(key) != now[key]]
    if changed:
        shown = shorten([f"{k}: {before.get(k)!r}, now {now[k]!r}" for k in changed], 3)
        raise ValueError(f"{out}: holds a run with another recipe; choose another folder, or restore the recipe ({shown})")
    if content["step"] > recipe.steps:
        raise ValueError(
            f"{out}: holds a run of {content['step']} steps, more than steps={recipe.steps}; raise steps or choose another folder"
        )
    return content
