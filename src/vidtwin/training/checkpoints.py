"""The files of a run that training goes on from: written aside and renamed, the last few kept."""

import math
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vidtwin.checked import build, plain
from vidtwin.files import clear_partial, in_line, tensor_output
from vidtwin.model.checkpoint import read_pickle, shorten
from vidtwin.training.recipe import RunRecipe

FOLDER = "checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: steps taken and skipped, the recipe, the best validation, and the state of what is trained.

    Raises:
        ValueError: numbers that a run cannot have, or a recipe of anything but plain values.
    """

    step: int
    recipe: dict[str, Any]
    best: float
    skipped: int
    run: dict[str, Any]

    def __post_init__(self) -> None:
        plain(self.recipe)
        if not 0 <= self.skipped <= self.step:
            raise ValueError(f"step={self.step}, skipped={self.skipped}: steps of a run are at least 0, and no more are skipped")
        if not self.best < math.inf:
            raise ValueError(f"best={self.best}: expected a number")


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
    for folder in (out, out / FOLDER):
        clear_partial(folder)


def _check_sums(path: Path) -> None:
    """Raise a ValueError if the bytes are not those that were written; torch reads them without looking at their sums."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged archive can raise many kinds
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split()) or type(error).__name__})") from error
    if damaged is not None:
        raise ValueError(f"{path}: damaged ({damaged} does not have its checksum)")


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint. Raises ValueError for a damaged one, or one that no run has written."""
    content = read_pickle(path)
    _check_sums(path)
    try:
        found = build(Checkpoint, content)
        if found.step != _step(path):
            raise ValueError(f"step={found.step}: not that of its name")
    except ValueError as error:
        raise ValueError(f"{path}: not a checkpoint of a training run ({in_line(error, 200)})") from None
    return dict(content)


def restore(out: Path, content: dict[str, Any], load: Callable[[dict[str, Any]], None]) -> None:
    """Give what is trained the state of a checkpoint of `latest`, which is taken out of it.

    Raises:
        ValueError: not the state of such a run, or values that are not finite.
    """
    state = content.pop("run")
    try:
        _check_values(state, "run")
        load(state)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, AssertionError, RuntimeError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        path = out / FOLDER / f"step-{content['step']:08}.pt"
        raise ValueError(f"{path}: not a state of this run ({in_line(reason)}); delete it, and the one before is used") from error


def _check_values(value: Any, name: str) -> None:
    """Raise a ValueError if there is anything but finite numbers, tensors and text in mappings and lists."""
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_values(item, f"{name}.{key}")
    elif isinstance(value, Tensor):
        if value.layout != torch.strided or value.device.type != "cpu" or value.nbytes > value.untyped_storage().nbytes():
            raise ValueError(f"{name} is a tensor of {tuple(value.shape)} of which the file does not hold all values")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} has NaN or infinite values")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value}: expected a finite number")
    elif value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{name} is of {type(value).__name__}")


def latest(out: Path, recipe: RunRecipe) -> dict[str, Any] | None:
    """The newest checkpoint of a run that can be read, None if there is none.

    A damaged one is passed over, and said. Raises ValueError when all are damaged, or the run has another recipe or more steps.
    """
    paths, reasons = saved(out), []
    for path in paths:
        try:
            content = _read(path)
            break
        except (OSError, ValueError) as error:
            reasons.append(str(error))
    else:
        if paths:
            raise ValueError(f"{reasons[0]}; choose another folder, or delete {out / FOLDER} to start over")
        return None
    for reason in reasons:
        tqdm.write(f"skipped: {in_line(reason)}")
    before, now = content["recipe"], recipe.to_dict()
    with suppress(ValueError):
        before = build(type(recipe), before, more=True).to_dict()  # keys that are newer than the run are at their defaults
    changed = [key for key in now if key not in recipe.RESUMABLE and before.get(key) != now[key]]
    if changed:
        shown = shorten([f"{k}: {before.get(k)!r}, now {now[k]!r}" for k in changed], 3)
        raise ValueError(f"{out}: holds a run with another recipe; choose another folder, or restore the recipe ({shown})")
    if content["step"] > recipe.steps:
        raise ValueError(
            f"{out}: holds a run of {content['step']} steps, more than steps={recipe.steps}; raise steps or choose another folder"
        )
    return content
