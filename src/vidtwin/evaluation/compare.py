"""Two evaluations of the same clips: what differs, clip by clip, and how far the difference can be trusted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtwin.checked import build, fact, read_json
from vidtwin.evaluation.bootstrap import Interval, bootstrap_mean
from vidtwin.evaluation.results import digits, unit
from vidtwin.files import in_line
from vidtwin.latents.stream import with_hash

SAME = ("list_sha256", "sample_fps", "tail", "latents", "resize", "range", "mean", "dtype")  # what two protocols should share


@dataclass(frozen=True)
class Comparison:
    """B less A.

    Attributes:
        names: of the weights of A and B. clips: how many both have.
        differences: of each metric that both have, the mean over clips of B - A and its 95 % interval (videos are drawn).
        protocol: fields in which the two protocols differ, with both values.
        left_out: clips that only one of them has.
    """

    names: tuple[str, str]
    clips: int
    differences: dict[str, Interval]
    protocol: dict[str, tuple[Any, Any]]
    left_out: int

    def table(self) -> str:
        """As aligned lines."""
        first, second = self.names
        lines = [f"{second} less {first}, {self.clips} clips of both", f"{'':24}{'mean':>10}{'95 % interval':>24}"]
        for name, (mean, low, high) in self.differences.items():
            sure = "" if low <= 0 <= high else "  differs"
            lines.append(f"{name:24}{mean:+10.4f}{f'{low:+.4f} to {high:+.4f}':>24}{sure}")
        lines += [f"note: {name} differs: {in_line(a)} and {in_line(b)}" for name, (a, b) in self.protocol.items()]
        if self.left_out:
            lines.append(f"note: {self.left_out} clips are in one of them only, and left out")
        return "\n".join(lines)


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Paired differences of two files that `Result.to_dict` was written to; clips are the same if their pixels are.

    Raises:
        FileNotFoundError: no such file. ValueError: not such a file, or no clip in common.
    """
    first, second = read_result(Path(a)), read_result(Path(b))
    rows = [{_key(clip): clip for clip in record["clips"]} for record in (first, second)]
    shared = [key for key in rows[0] if key in rows[1]]
    if not shared:
        raise ValueError(f"{a} and {b}: have no clip in common; evaluate the same videos by the same protocol")
    pairs = [(rows[0][key], rows[1][key]) for key in shared]
    metrics = [name for name, value in pairs[0][0].items() if isinstance(value, float) and name in pairs[0][1]]
    for file, row in ((file, row) for pair in pairs for file, row in zip((a, b), pair, strict=True)):
        if wrong := next((name for name in metrics if type(row.get(name)) not in (int, float)), None):
            raise ValueError(f"{file}: {in_line(wrong)}={in_line(repr(row.get(wrong)), 80)} of a clip: expected a number")
    videos = [video for video, _, _ in shared]
    differences = {name: bootstrap_mean([y[name] - x[name] for x, y in pairs], videos) for name in metrics}
    protocols = first["protocol"], second["protocol"]
    differing = {name: tuple(p.get(name) for p in protocols) for name in SAME if protocols[0].get(name) != protocols[1].get(name)}
    names = tuple(in_line(f"{p['weights']} ({p['weights_hash'][:8]})") for p in protocols)
    return Comparison(
        names=(names[0], names[1]),
        clips=len(shared),
        differences=differences,
        protocol={name: (x, y) for name, (x, y) in differing.items()},
        left_out=len(rows[0].keys() ^ rows[1].keys()),
    )


@dataclass(frozen=True)
class _Result:
    """What is read of a file."""

    protocol: dict[str, Any]
    clips: list[dict[str, Any]]


@dataclass(frozen=True)
class _Weights:
    """What every protocol says."""

    weights: str
    weights_hash: str


@dataclass(frozen=True)
class _Clip:
    """What every clip says, beside its scores."""

    video: str
    first_frame: int
    sha256: str


def _key(clip: dict[str, Any]) -> tuple[str, int, str]:
    return clip["video"], clip["first_frame"], clip["sha256"]


def card_figures(path: str | Path, weights_hash: str) -> dict[str, str]:
    """What `vidtwin evaluate` measured of weights, as the figures of their model card: mean, and 95 % interval over videos.

        model.save_pretrained("folder", figures=card_figures("scores.json", weights_hash(model)))

    Raises:
        FileNotFoundError, ValueError: as `read_result`; it is of other weights, or has no intervals.
    """
    record = read_result(Path(path))
    protocol = record["protocol"]
    if protocol["weights_hash"] != weights_hash:
        theirs = in_line(f"{protocol['weights']!r} ({protocol['weights_hash'][:12]})")
        raise ValueError(f"{path}: is of weights {theirs}, not of these ({weights_hash[:12]}); evaluate these")
    rows = {}
    try:
        for name, interval in fact(record, "intervals", dict).items():
            mean, low, high = (f"{fact(interval, end, float):.{digits(name)}f}" for end in Interval._fields)
            rows[in_line(name, 40) + unit(name).replace("  ", ", ")] = f"{mean} ({low} to {high})"
    except ValueError as error:
        raise ValueError(f"{path}: not a file that `vidtwin evaluate` wrote ({in_line(error, 200)}); give one of those") from None
    facts = ("clips", "videos", "sample_fps", "tail", "latents", "dtype", "device")
    return rows | {"protocol": in_line(", ".join(f"{name} {protocol[name]}" for name in facts if name in protocol))}


def read_result(path: Path) -> dict[str, Any]:
    """What `Result.to_dict` was written to a file. Raises FileNotFoundError or ValueError for another."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `vidtwin evaluate` writes one")
    try:
        record: dict[str, Any] = read_json(path)
        found = build(_Result, record, more=True)
        record["protocol"] = with_hash(found.protocol)
        build(_Weights, record["protocol"], "protocol.", more=True)
        for clip in found.clips:
            build(_Clip, clip, "clips.", more=True)
        if len({_key(clip) for clip in found.clips}) < len(found.clips):
            raise ValueError("a clip appears twice")
    except ValueError as error:
        raise ValueError(f"{path}: not a file that `vidtwin evaluate` wrote ({in_line(error, 200)}); give one of those") from None
    return record
