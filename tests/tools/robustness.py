"""What comes of odd files? `vidtwin reconstruct` of what users have, each row a process under limits, against what is expected.

    python -m tests.tools.robustness [--more FOLDER] [--only WORDS] [--keep FOLDER] [--fresh]

Files are made on the spot, or carried by the tests (`odd_inputs/`, whose rows state what is expected). The frames of an output
are counted and their times compared with the source's, and so is every packet of sound and subtitles: its bytes, and its time
beside the picture. Writes benchmarks/results/robustness.json and .md; for the files of FOLDER, robustness-more.json and .md: of
them no more is expected than a video in order or an error in order. Exit code 1 if a row is not as expected.

A run is forked from a process that has imported the package, so its seconds are without that; --fresh starts a Python for each.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.setting import RESULTS, setting, write_results
from tests.tools.odd_inputs import broken, formats, lies, looks, sounds, tables, timing
from tests.tools.odd_inputs.judging import Row
from tests.tools.odd_inputs.launch import MEMORY, SECONDS
from tests.tools.odd_inputs.running import Done, run_rows
from vidtwin.files import atomic_output

GROUPS: dict[str, Sequence[Row]] = {
    "Time": timing.ROWS,
    "Picture": looks.ROWS,
    "Codecs, containers, pipes": formats.ROWS,
    "Sound, subtitles, chapters": sounds.ROWS,
    "Damaged, or no video": broken.ROWS,
    "Headers that lie": lies.ROWS,
}
MORE = "Files of the user"


def rows_of(folder: Path) -> list[Row]:
    """A row for each file; nothing is known of it."""

    def row(path: Path) -> Row:
        return Row(path.name, lambda _: path, None)

    return [row(path) for path in sorted(folder.absolute().iterdir()) if path.is_file()]


def report(name: str, done: Sequence[Done], seconds: float, arguments: list[str] | None) -> None:
    """The two files of results."""
    facts = [tables.facts(one) for one in done]
    run = [one for one in facts if "skipped" not in one]
    counts = {
        "rows": len(run),
        "not_as_expected": sum(one["as_expected"] is False for one in run),
        "skipped": len(facts) - len(run),
        "seconds": round(seconds),
        "peak_mib": max((one["peak_mib"] for one in run), default=0),
    }
    about = setting("cpu", arguments)
    limits = {"seconds": SECONDS, "address_space_gib": MEMORY / 2**30}
    write_results(name, {"setting": about, "limits": limits, **counts, "results": facts})
    head = (
        f"# What comes of odd files\n\n`{about['command'].strip()}`, {about['date'][:10]}: {counts['rows']} rows, "
        f"{counts['not_as_expected']} not as expected, {counts['skipped']} not run here; {counts['seconds']} s in all, "
        f"at most {counts['peak_mib']:.0f} MiB. The seconds of a row are without importing the package.\n"
    )
    with atomic_output(RESULTS / f"{name}.md") as partial:
        partial.write_text(head + tables.markdown(done))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--more", type=Path, help="a folder of videos, each of which is run, too")
    parser.add_argument("--only", help="only the rows whose names hold these words; no results are written")
    parser.add_argument("--keep", type=Path, help="an empty folder in which inputs and outputs stay")
    parser.add_argument("--fresh", action="store_true", help="start a new Python for each row")
    options = parser.parse_args(arguments)
    groups = {**GROUPS, MORE: rows_of(options.more) if options.more else []}
    if options.only:
        groups = {group: [row for row in rows if options.only in row.name] for group, rows in groups.items()}
    begun = time.perf_counter()
    done: list[Done] = []
    for one in run_rows(groups, options.fresh, options.keep):
        print(f"{len(done):03} {tables.line(one)}", flush=True)
        done.append(one)
    seconds, wrong = time.perf_counter() - begun, sum(bool(one.faults) for one in done)
    print(f"{len(done)} rows, {wrong} not as expected, {seconds:.0f} s")
    if not options.only:
        report("robustness", [one for one in done if one.group != MORE], seconds, arguments)
    if options.more and not options.only:
        report("robustness-more", [one for one in done if one.group == MORE], seconds, arguments)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
