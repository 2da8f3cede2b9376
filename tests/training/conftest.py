"""Shared by the tests of training: recipes of a few steps on real videos, and whether two runs are alike to the bit."""

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import yaml

from tests.conftest import SMALL
from vidtwin.losses.lpips import LPIPS
from vidtwin.losses.objective import LossWeights
from vidtwin.model.checkpoint import read_pickle
from vidtwin.training import checkpoints
from vidtwin.training.recipe import DiscriminatorRecipe, Recipe

FIELDS = SMALL.to_dict() | {"query_dropout": 0.1}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """One thread here and in processes started from here: sums over several round differently, and runs are compared by bits."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def recipe(assets, tmp_path) -> Recipe:
    """A few steps of a small model on two real videos."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("h264_aac.mp4", "rot90.mp4"):
        (folder / name).write_bytes((assets / name).read_bytes())
    return Recipe(
        model=FIELDS,
        train_videos=str(folder),
        validation_videos=str(folder),
        perceptual="none",
        batch_size=2,
        steps=6,
        warmup_steps=2,
        workers=0,
        log_every=2,
        validate_every=4,
        checkpoint_every=2,
        validation_clips=1,
    )


@pytest.fixture
def everything(recipe, tmp_path) -> Recipe:
    """The same with every loss on: a narrow LPIPS of random weights, a learned log-variance, discriminator, LeCam, EMA."""
    torch.manual_seed(0)
    narrow = LPIPS((4, 4, 8, 8, 8)).state_dict()
    for name, tensor in narrow.items():
        if name.endswith(".bias"):
            tensor += 0.3  # where all of a few features are 0, the gradient of their direction is rounding, unlike VGG16's
    torch.save(narrow, tmp_path / "lpips.pth")
    return replace(
        recipe,
        perceptual="lpips",
        perceptual_weights=str(tmp_path / "lpips.pth"),
        loss=LossWeights(l1=1.0, l2=0.5, perceptual=0.05),
        learned_logvar=True,
        discriminator=DiscriminatorRecipe(start=2, width=4, layers=2, lecam=1e-3, warmup_steps=2),
        ema_decay=0.9,
    )


def same_checkpoints(a, b) -> bool:
    """Whether the last checkpoints of two runs hold the same bits: weights, running means, both optimizers."""
    first, second = (read_pickle(checkpoints.saved(run)[0]) for run in (a, b))
    return first["step"] == second["step"] and same_state(first["run"], second["run"])


def same_state(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_state, a, b))
    return a == b


def difference(a, b, parts=("model", "ema", "discriminator")) -> float:
    """Relative L2 of parts of the last checkpoints of two runs: weights, running means, discriminator; the worst of them."""
    first, second = (read_pickle(checkpoints.saved(run)[0])["run"] for run in (a, b))

    def flat(state):
        return torch.cat([tensor.double().flatten() for tensor in state.values()])

    pairs = [(flat(first[part]), flat(second[part])) for part in parts]
    return max(((x - y).norm() / x.norm()).item() for x, y in pairs)


def launch(recipe, out, processes):
    """`vidtwin train` on `processes` > 1 processes of this machine (gloo)."""
    out.parent.mkdir(exist_ok=True)
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(recipe.to_dict()))
    spread = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [sys.executable, "-m", *spread, "vidtwin", "train", str(path), "--device", "cpu", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr


@contextmanager
def stopping_after_saving():
    """A run inside ends right after it has written its first checkpoint."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        saved = checkpoints.save

        def save_and_stop(*arguments):
            saved(*arguments)
            raise KeyboardInterrupt

        patch.setattr(checkpoints, "save", save_and_stop)
        yield
