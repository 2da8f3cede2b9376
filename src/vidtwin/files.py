"""Outputs that are either whole or not there: written beside the target under a temporary name, then renamed."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix); rename it to `path` on success, delete it on any error.

    The temporary path may be written as a file or made into a folder. An existing file, or an existing folder that is
    empty or is being replaced by a folder, is replaced in one step; until then it is untouched.

    Raises:
        FileNotFoundError: the folder that should hold `path` does not exist.
        IsADirectoryError: `path` is a folder and a file was written.
        OSError: the folder cannot be written to, or the disk is full.
    """
    target = Path(path)
    check_writable(target)
    partial = target.with_name(f".{target.stem}.partial-{os.getpid()}{target.suffix}")
    try:
        yield partial
        if partial.is_dir():
            _replace_folder(partial, target)
        else:
            if target.is_dir():
                raise IsADirectoryError(f"{target}: is a folder; name a file as the output")
            os.replace(partial, target)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def tensor_output(path: str | os.PathLike[str]) -> Iterator[Path]:
    """`atomic_output` for safetensors and torch.save, whose write errors are no OSErrors: they become one, in one line."""
    with atomic_output(path) as partial:
        try:
            yield partial
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise OSError(f"{path}: writing failed ({reason}); free some space or choose another output") from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise the OSError, in one line with its remedy, that writing `path` would end in; call it before long work."""
    folder = Path(path).absolute().parent
    if not folder.exists():
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist; create it or choose another output")
    if not folder.is_dir():
        raise NotADirectoryError(f"{path}: {folder} is not a folder; choose another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the folder {folder} is not writable; choose another output")


def _replace_folder(new: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    if old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)
