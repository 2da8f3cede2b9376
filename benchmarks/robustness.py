"""What comes of odd files? `vidtwin reconstruct` of what users have: each as a process under limits, against what is expected.

    python -m benchmarks.robustness [--more FOLDER] [--only WORDS] [--keep FOLDER] [--fresh]

Files are made on the spot or taken from the tests (`odd_inputs/`). Of each output the frames are counted and their times compared
with those of the source, and every packet of sound and subtitles with the source's: its bytes, and its time beside the picture.
Writes benchmarks/results/robustness.json and .md; exit code 1 if a row is not as expected.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from av.error import FFmpegError

from benchmarks.odd_inputs import broken, formats, lies, looks, sounds, timing
from benchmarks.odd_inputs.judging import Result, Row, faults, pairs, timing_error
from benchmarks.odd_inputs.launch import Job, Launcher
from benchmarks.odd_inputs.media import Media, matched, output_of, source_of

GROUPS = {
    "Time": timing.ROWS,
    "Picture": looks.ROWS,
    "Codecs, containers, pipes": formats.ROWS,
    "Sound, subtitles, chapters": sounds.ROWS,
    "Damaged, or no video": broken.ROWS,
    "Headers that lie": lies.ROWS,
}


@dataclass(frozen=True)
class Done:
    """A row and what came of it; `skipped` says why nothing did."""

    group: str
    row: Row
    result: Result | None
    skipped: str = ""

    @property
    def faults(self) -> list[str]:
        return [] if self.result is None else faults(self.row, self.result)

    def to_dict(self) -> dict[str, Any]:
        """A row of the results."""
        facts = {"group": self.group, "input": self.row.name, "options": " ".join(self.row.options), "output": self.row.out}
        if self.result is None:
            return facts | {"skipped": self.skipped, "as_expected": None}
        ended = self.result.ended
        came = {"came": came_out(self.result, self.row.out), "notes": self.result.notes, "error": self.result.error if ended.code else ""}
        measured = {"exit_code": ended.code, "seconds": ended.seconds, "peak_mib": ended.peak}
        return facts | came | measured | {"as_expected": not self.faults, "faults": self.faults}


def run_row(row: Row, launch: Launcher, folder: Path) -> Result:
    """Make the input, run the command, look at what it wrote. The folder is empty."""
    inputs, work = folder / "input", folder / "work"
    inputs.mkdir()
    work.mkdir()
    path, stdout, stderr = row.make(inputs), folder / "output", folder / "errors"
    source = "-" if row.piped else str(path)
    arguments = ["reconstruct", source, "-o", row.out, "--device", "cpu", *row.options]
    ended = launch(Job(arguments, str(work), str(stdout), str(stderr), str(path) if row.piped else None))
    files = sorted(path.name for path in work.iterdir())
    said = stderr.read_text(errors="replace")
    printed = "" if row.out == "-" else stdout.read_text(errors="replace")
    if ended.code:
        return Result(ended, printed, said, files)
    files = ["-"] if row.out == "-" and not files else files
    written = stdout if row.out == "-" else work / row.out
    try:
        return Result(ended, printed, said, files, source_of(path), output_of(written))
    except (FFmpegError, OSError, ValueError, IndexError) as error:
        return Result(ended, printed, said, files, broken=str(error))


def came_out(result: Result, out: str) -> str:
    """A video in words; nothing for an error."""
    source, output = result.source, result.output
    if source is None or output is None:
        return ""
    (width, height), aspect = output.size, "" if output.aspect == 1 else f" of {output.aspect}:1".replace("/", ":").replace(":1:", ":")
    frames = f"{len(output.times)} of {len(source.times)} frames"
    return ", ".join([frames, f"{width}x{height}{aspect}", timing_of(source, output, out), *kept(source, output)])


def timing_of(source: Media, output: Media, out: str) -> str:
    """How exact the times are."""
    error = timing_error(source, output)
    return "times exact" if error == 0 else f"times within {float(1000 * error):.2f} ms"


def kept(source: Media, output: Media) -> list[str]:
    """What else is there."""
    words = []
    for before, after in pairs(source, output):
        words.append(f"{before.codec} {len(matched(before, after))} of {len(before.packets)} packets")
    left = len(source.tracks) - len(output.tracks)
    if left > 0:
        words.append(f"{left} tracks left out")
    if source.chapters:
        words.append(f"{len(output.chapters)} of {len(source.chapters)} chapters")
    return words


def run_rows(groups: dict[str, Sequence[Row]], fresh: bool = False, keep: Path | None = None) -> list[Done]:
    """All rows, one after the other; what is not as expected is told as it comes."""
    done = []
    with ExitStack() as stack:
        launch = stack.enter_context(Launcher(fresh))
        base = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for group, rows in groups.items():
            for row in rows:
                if row.skip():
                    done.append(Done(group, row, None, row.skip()))
                    continue
                folder = base / f"{len(done):03}"
                folder.mkdir(parents=True)
                done.append(Done(group, row, run_row(row, launch, folder)))
                tell(done[-1], folder)
    return done


def tell(done: Done, folder: Path) -> None:
    facts = done.to_dict()
    print(f"{folder.name} {done.row.name}: {facts['came'] or facts['error']} ({facts['seconds']} s, {facts['peak_mib']:.0f} MiB)", flush=True)
    for note in facts["notes"]:
        print(f"    note: {note}", flush=True)
    for fault in done.faults:
        print(f"    NOT AS EXPECTED: {fault}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="run the rows whose names hold these words; no results are written")
    parser.add_argument("--keep", type=Path, help="a folder in which inputs and outputs stay")
    parser.add_argument("--fresh", action="store_true", help="start each run as a new Python, as a user does")
    options = parser.parse_args(arguments)
    groups = {g: [row for row in rows if (options.only or "") in row.name] for g, rows in GROUPS.items()}
    begun = time.perf_counter()
    done = run_rows(groups, options.fresh, options.keep)
    print(f"{len(done)} rows, {time.perf_counter() - begun:.0f} s, peak {max(d.result.ended.peak for d in done if d.result):.0f} MiB")
    return int(any(d.faults for d in done))


if __name__ == "__main__":
    sys.exit(main())
