"""Rows -> what came of them: make the input, run the command, look at what it wrote."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from av.error import FFmpegError

from tests.tools.odd_inputs.judging import Result, Row, faults
from tests.tools.odd_inputs.launch import Job, Launcher
from tests.tools.odd_inputs.media import is_upright, output_of, source_of


@dataclass(frozen=True)
class Done:
    """A row and what came of it; None if it cannot be run here."""

    group: str
    row: Row
    result: Result | None

    @property
    def faults(self) -> list[str]:
        """`judging.faults`."""
        return [] if self.result is None else faults(self.row, self.result)


def run_rows(groups: Mapping[str, Sequence[Row]], fresh: bool = False, keep: Path | None = None) -> Iterator[Done]:
    """All rows, one after the other. Each gets a folder of its own, in `keep` if that is given."""
    with ExitStack() as stack:
        launch = stack.enter_context(Launcher(fresh))
        base = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        number = 0
        for group, rows in groups.items():
            for row in rows:
                if row.skip():
                    yield Done(group, row, None)
                    continue
                folder = base / f"{number:03}"
                folder.mkdir(parents=True)
                number += 1
                yield Done(group, row, run_row(row, launch, folder))


def run_row(row: Row, launch: Launcher, folder: Path) -> Result:
    """`folder` is empty: it gets the input, a folder `work` in which the command is run, and what was printed."""
    inputs, work = folder / "input", folder / "work"
    inputs.mkdir()
    work.mkdir()
    path, stdout, stderr = row.make(inputs), folder / "output", folder / "errors"
    source = "-" if row.piped else str(path)
    arguments = ["reconstruct", source, "-o", row.out, "--device", "cpu", "--dtype", "float32", *row.options]
    ended = launch(Job(arguments, str(work), str(stdout), str(stderr), str(path) if row.piped else None))
    to_stdout = row.out == "-"

    def said(file: Path) -> str:
        return file.read_text(errors="replace").replace(f"{path.parent}/", "")

    result = Result(
        ended,
        stdout="" if to_stdout and not ended.code else said(stdout),
        stderr=said(stderr),
        files=sorted(file.name for file in work.iterdir()),
    )
    return result if ended.code else with_videos(row, result, path, stdout if to_stdout else work / row.out)


def with_videos(row: Row, result: Result, source: Path, output: Path) -> Result:
    """With what the input and the output hold."""
    files = result.files or (["-"] if row.out == "-" else [])
    try:
        before, after = source_of(source), output_of(output)
        upright = "tile" not in row.options or is_upright(source, output)
    except (FFmpegError, OSError, ValueError, IndexError) as error:
        return Result(result.ended, result.stdout, result.stderr, files, broken=str(error))
    return Result(result.ended, result.stdout, result.stderr, files, before, after, upright=upright)
