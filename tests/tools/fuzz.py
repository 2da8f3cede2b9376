"""Damaged files for every reader: does any crash, hang, take all memory, or say something that is no help?

    python -m tests.tools.fuzz --cases 20000 --seed 0 --json-out benchmarks/results/fuzz.json
    python -m tests.tools.fuzz --seed 0 --case 1234 --keep FOLDER    one case again, in this process, and its file

Videos, images, latent files (finished and growing), checkpoints, configs and recipes are damaged (`fuzzing/mutations.py`) and read
as a user would (`fuzzing/readers.py`) by child processes under watch (`fuzzing/workers.py`). A file may be read, with a
VideoWarning or without, or be refused by a ValueError or OSError of one line that names it. All else is a finding, and ends
the run with exit code 1. For Linux.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.setting import setting
from tests.tools.fuzzing.cases import kind_of, make_case
from tests.tools.fuzzing.readers import Finding, Outcome, run_case
from tests.tools.fuzzing.seeds import KINDS, Seed, make_seeds
from tests.tools.fuzzing.workers import GIB, Bounds, limit_memory, run_cases, watched
from vidtwin.files import write_json

RESULTS = ("read", "warned", "refused", "finding")


class Report:
    """What came of the cases so far; findings that look alike are one, with the numbers of their cases."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {}
        self.findings: dict[tuple[str, str], dict[str, Any]] = {}
        self._largest: dict[str, Outcome] = {}

    def add(self, outcome: Outcome) -> list[Finding]:
        """Returns the findings that are new."""
        self.outcomes.setdefault(outcome.kind, Counter())[outcome.result] += 1
        for measure in ("seconds", "memory"):
            if measure not in self._largest or getattr(outcome, measure) > getattr(self._largest[measure], measure):
                self._largest[measure] = outcome
        new = []
        for finding in outcome.findings:
            key = finding.problem, finding.where
            if key not in self.findings:
                new.append(finding)
                self.findings[key] = {"message": finding.message, "kinds": set(), "steps": set(), "cases": set()}
            facts = self.findings[key]
            facts["kinds"].add(outcome.kind)
            facts["steps"].add(finding.step)
            facts["cases"].add(outcome.case)
        return new

    def to_dict(self) -> dict[str, Any]:
        """For the results file."""
        slow, large = self._largest["seconds"], self._largest["memory"]
        outcomes = {kind: {result: self.outcomes[kind][result] for result in RESULTS} for kind in KINDS if kind in self.outcomes}
        return {
            "cases": sum(sum(counts.values()) for counts in outcomes.values()),
            "outcomes": outcomes,
            "slowest": {"case": slow.case, "kind": slow.kind, "seed": slow.seed, "seconds": round(slow.seconds, 2)},
            "largest": {"case": large.case, "kind": large.kind, "seed": large.seed, "GiB": round(large.memory / GIB, 3)},
            "findings": [
                {
                    "problem": problem,
                    "where": where,
                    "message": facts["message"],
                    "kinds": sorted(facts["kinds"]),
                    "steps": sorted(facts["steps"]),
                    "count": len(facts["cases"]),
                    "cases": sorted(facts["cases"])[:10],
                }
                for (problem, where), facts in self.findings.items()
            ],
        }

    def table(self) -> str:
        """For people."""
        rows = [f"{'kind':20}" + "".join(f"{result:>10}" for result in RESULTS)]
        rows += [f"{kind:20}" + "".join(f"{counts[r]:10}" for r in RESULTS) for kind, counts in self.outcomes.items()]
        return "\n".join(rows)


def fuzz(
    seeds: Sequence[Seed], start: int, numbers: Iterable[int], workers: int, bounds: Bounds, keep: Path | None = None
) -> dict[str, Any]:
    """Run the cases, tell of new findings as they come, and report."""
    report, begin = Report(), time.monotonic()
    for outcome in run_cases(seeds, start, numbers, workers, bounds):
        new = report.add(outcome)
        for finding in new:
            print(f"case {outcome.case}, {outcome.kind}, {outcome.seed}: {finding}", flush=True)
        if new and keep is not None:
            keep_case(keep, seeds, start, outcome.case)
    seconds = time.monotonic() - begin
    print(report.table())
    facts = report.to_dict()
    rate = {"seconds": round(seconds, 1), "cases_per_second": round(facts["cases"] / seconds, 1)}
    return {"cases": facts["cases"]} | rate | facts


def keep_case(folder: Path, seeds: Sequence[Seed], start: int, number: int) -> Path:
    """Write a case's file to a folder."""
    seed, data = make_case(seeds, start, number)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{start}-{number}-{seed.name}"
    path.write_bytes(data)
    return path


def show_case(seeds: Sequence[Seed], start: int, number: int) -> Outcome:
    """One case in this process."""
    seed, data = make_case(seeds, start, number)
    print(f"case {number}: {seed.kind}, {seed.name} of {len(seed.data)} bytes made {len(data)}")
    with tempfile.TemporaryDirectory() as folder:
        outcome = watched(run_case, Path(folder), number, seed, data)
    print(f"{outcome.result}, {outcome.seconds:.2f} s, {outcome.memory / GIB:.3f} GiB")
    for finding in outcome.findings:
        print(f"{finding.step}: {finding.problem}\n  {finding.where}\n  {finding.message}")
    return outcome


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of all cases; another one gives other cases")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=Bounds.seconds, help="seconds of a case, after which it counts as a hang")
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), help="only the cases of these kinds")
    parser.add_argument("--case", type=int, help="run this one only, in this process, and tell what happens")
    parser.add_argument("--keep", type=Path, help="folder for the files of findings (of the first case of each), or of --case")
    parser.add_argument("--json-out", type=Path)
    options = parser.parse_args(arguments)
    seeds, bounds = make_seeds(), Bounds(options.limit)
    if options.case is not None:
        if options.keep is not None:
            print(keep_case(options.keep, seeds, options.seed, options.case))
        limit_memory(bounds)
        return int(show_case(seeds, options.seed, options.case).result == "finding")
    numbers = (n for n in range(options.cases) if not options.kind or kind_of(options.seed, n) in options.kind)
    facts = fuzz(seeds, options.seed, numbers, options.workers, bounds, options.keep)
    print({key: facts[key] for key in ("cases", "seconds", "cases_per_second", "slowest", "largest")})
    print(f"{len(facts['findings'])} findings")
    if options.json_out is not None:
        libraries = {name: version(name) for name in ("av", "pillow", "safetensors", "numpy", "pyyaml")}
        bounded = {"seconds": bounds.seconds, "address_space_GiB": bounds.address_space / GIB}
        write_json(options.json_out, facts | {"bounds": bounded, "libraries": libraries} | setting("cpu", arguments))
    return int(bool(facts["findings"]))


if __name__ == "__main__":
    sys.exit(main())
