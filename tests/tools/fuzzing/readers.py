"""A file read as its user would read it, and a verdict on what came of it.

Good: it is read (with a VideoWarning or without), or refused by a ValueError or OSError whose message is one line, of moderate
length, that names the file. All else is a finding.
"""

import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import vidtwin
from tests.tools.fuzzing.seeds import CONFIG, FRAMES, Seed
from vidtwin.cli.inspection import describe
from vidtwin.latents.file import LatentVideo, LatentWriter, partial_path
from vidtwin.latents.records import PREFIX
from vidtwin.latents.stream import Header
from vidtwin.model.loading import load_released, load_weights
from vidtwin.training.recipe import read_recipe
from vidtwin.video.read.decode import TarMember, VideoFile, VideoWarning
from vidtwin.video.read.reader import frame_count, iter_frames, probe, read_clip

MOST_FRAMES, MOST_SECONDS = 300, 3.0  # read of a video; a user can stop there, so what is long is not a hang
LONGEST_MESSAGE = 4000  # characters

Step = tuple[str, Callable[[], object]]


@dataclass(frozen=True)
class Finding:
    """What went wrong: in which call, what, where in vidtwin, and the message."""

    step: str
    problem: str
    where: str = ""
    message: str = ""


@dataclass(frozen=True)
class Outcome:
    """result: "read", "warned", "refused" or "finding". memory: bytes that the case took at most, beyond those before it."""

    case: int
    kind: str
    seed: str
    result: str
    seconds: float = 0.0
    memory: int = 0
    findings: list[Finding] = field(default_factory=list)

    def but(self, finding: Finding) -> "Outcome":
        """With one finding more."""
        return replace(self, result="finding", findings=[*self.findings, finding])


def place(folder: Path, number: int, seed: Seed, data: bytes) -> tuple[VideoFile, Path]:
    """Write a case to an empty folder: what its user would name, and the damaged file."""
    for name, intact in seed.beside.items():
        (folder / name).write_bytes(intact)
    if seed.kind == "video in a tar":
        member = TarMember(folder / f"case{number}.tar", seed.name, 512, len(data))
        member.tar.write_bytes(b"\xa5" * 512 + data + b"\x5a" * 512)
        return member, member.tar
    file = folder / (seed.name if seed.kind in ("folder, weights", "folder, config") else f"case{number}{seed.suffix}")
    file.write_bytes(data)
    return (folder if seed.kind in ("folder, weights", "folder, config", "image in a folder") else file), file


def steps(seed: Seed, name: VideoFile) -> list[Step]:
    """The calls that a user makes."""
    if "video" in seed.kind or "image" in seed.kind:
        first: list[Step] = [("probe", lambda: probe(name))]
        if seed.kind in ("video", "image"):
            first.append(("describe", lambda: _printed(describe(_path(name)))))
        return [*first, ("iter_frames", lambda: _read(name)), ("frame_count", lambda: _first_clip(name))]
    path = _path(name)
    if "latents" in seed.kind:
        found: list[Step] = [("describe", lambda: _printed(describe(path))), ("windows", lambda: _windows(path))]
        return [*found, ("resume", lambda: _resume(path, seed))] if seed.kind == "growing latents" else found
    if seed.kind == "released":
        return [("describe", lambda: _printed(describe(path))), ("load_released", lambda: load_released(path, CONFIG))]
    if seed.kind == "config":
        return [("load_weights", lambda: load_weights(path.parent / "model.safetensors", str(path)))]
    if seed.kind == "recipe":
        return [("read_recipe", lambda: read_recipe(path, train_videos="a", validation_videos="b").to_dict())]
    return [("describe", lambda: _printed(describe(path))), ("load_weights", lambda: load_weights(path))]


def _path(name: VideoFile) -> Path:
    assert isinstance(name, Path)
    return name


def _printed(facts: dict[str, str]) -> None:
    for key, value in facts.items():
        assert value.isprintable(), f"what describe says of {key} cannot be printed in one line: {value[:200]!r}"


def _read(name: VideoFile) -> None:
    """All frames, within MOST_FRAMES and MOST_SECONDS; they must be as `iter_frames` promises."""
    begin, last, size = time.monotonic(), None, None
    with closing(iter_frames(name)) as frames:  # type: ignore[type-var]
        for frame in islice(frames, MOST_FRAMES):
            assert last is None or frame.time > last, f"time {frame.time} follows {last}"
            assert size in (None, frame.image.shape), f"size {frame.image.shape} follows {size}"
            last, size = frame.time, frame.image.shape
            if time.monotonic() - begin > MOST_SECONDS:
                break


def _first_clip(name: VideoFile) -> None:
    if frame_count(name) > 0:
        read_clip(name, 0, 1)


def _windows(path: Path) -> None:
    video = LatentVideo.load(path)
    for index in range(video.window_count):
        video.window(index)
    video.time_of(video.frames - 1)
    list(video.stream(video.frames - 1).windows)


def _resume(path: Path, seed: Seed) -> None:
    """What `encode --resume` does with it, given the options that the intact file was begun with."""
    _, length, _ = PREFIX.unpack_from(seed.data)
    header = Header.from_dict(json.loads(seed.data[PREFIX.size : PREFIX.size + length]))
    path.rename(partial_path(path))
    with LatentWriter(path, header, resume=True) as writer:
        assert writer.count in range(header.windows(FRAMES) + 1)
        if writer.count > 0:
            assert len(writer.ticks) > 0 or not writer.finished
    LatentVideo.load(path)


def run_case(folder: Path, number: int, seed: Seed, data: bytes) -> Outcome:
    """Read it, in `folder`, which is left empty."""
    name, file = place(folder, number, seed, data)
    names = (str(file), str(name), str(partial_path(file)), *(str(folder / beside) for beside in seed.beside))
    begin, before = time.monotonic(), _memory()
    try:
        results, findings = [], []
        for step, call in steps(seed, name):
            result, found = judge(step, call, names)
            results.append(result)
            findings += found
    finally:
        for path in folder.iterdir():
            path.unlink()
    worst = next((kind for kind in ("finding", "refused", "warned") if kind in results), "read")
    grown = _memory(peak=True) - before
    return Outcome(number, seed.kind, seed.name, worst, time.monotonic() - begin, grown, findings)


def judge(step: str, call: Callable[[], object], names: tuple[str, ...]) -> tuple[str, list[Finding]]:
    """How a call ended, and what is wrong with it; one of `names` has to be in every message."""
    result = "read"
    findings = []

    def blame(problem: str, where: str, message: str) -> None:
        shown = message if len(message) <= 600 else f"{message[:500]} ... {message[-80:]}"
        findings.append(Finding(step, problem, where, shown.replace(f"{Path(names[0]).parent}/", "")))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
        except (ValueError, OSError) as error:
            result = "refused"
            for wrong in faults(str(error), names):
                blame(f"{type(error).__name__}, {wrong}", place_in_code(error), str(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # panics of Rust are no Exceptions
            blame(type(error).__name__, place_in_code(error), str(error))
    for warning in caught:
        text, where = str(warning.message), f"{Path(warning.filename).name}:{warning.lineno}"
        if issubclass(warning.category, VideoWarning):
            result = "warned" if result == "read" else result
            for wrong in faults(text, names):
                blame(f"VideoWarning, {wrong}", where, text)
        else:
            blame(warning.category.__name__, where, text)
    return "finding" if findings else result, findings


def faults(message: str, names: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with a message."""
    if len(message.splitlines()) != 1:
        yield "not one line"
    elif not message.isprintable():
        yield "not printable"
    if not any(name in message for name in names):
        yield "does not name the file"
    if len(message) > LONGEST_MESSAGE:
        yield "too long"


def place_in_code(error: BaseException) -> str:
    """The last line of vidtwin's that it passed, and the one it was raised at."""
    frames = traceback.extract_tb(error.__traceback__)
    root = Path(vidtwin.__file__).parent
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(root)]
    texts = [f"{Path(frame.filename).relative_to(root)}:{frame.lineno} {frame.name}" for frame in ours[-1:]]
    if frames and frames[-1] not in ours:
        texts.append(f"{'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno} {frames[-1].name}")
    return ", ".join(texts)


def _memory(peak: bool = False) -> int:
    """Bytes of memory that this process has now, or has had at most since this was last asked without `peak`."""
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM" if peak else "VmRSS"].split()[0])
