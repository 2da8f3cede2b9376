"""Results in words: for the terminal, the .json and the .md."""

from collections.abc import Sequence
from typing import Any

from tests.tools.odd_inputs.judging import Result, pairs, timing_error
from tests.tools.odd_inputs.media import Media, matched
from tests.tools.odd_inputs.running import Done

KINDS = {"audio": "sound", "subtitle": "subtitles"}
COLUMNS = ("input", "to", "what came out", "what was said", "exit", "s", "MiB", "as expected")


def facts(done: Done) -> dict[str, Any]:
    """Of a row, for the .json."""
    row, result = done.row, done.result
    given = {"group": done.group, "input": row.name, "options": " ".join(row.options), "output": row.out}
    if result is None:
        return given | {"skipped": row.skip(), "as_expected": None}
    ended, failed = result.ended, result.ended.code != 0
    came = {"came_out": came_out(result), "notes": result.notes, "error": result.error if failed else ""}
    measured = {"exit_code": ended.code, "seconds": ended.seconds, "peak_mib": ended.peak}
    judged = {"as_expected": None if row.expect is None and not done.faults else not done.faults, "faults": done.faults}
    return given | came | measured | judged


def came_out(result: Result) -> str:
    """A video in words; nothing for an error."""
    source, output = result.source, result.output
    if source is None or output is None:
        return ""
    words = [
        f"{len(output.times)} of {len(source.times)} frames",
        size_of(output),
        timing_of(source, output),
        *kept(source, output),
    ]
    return ", ".join(words)


def size_of(output: Media) -> str:
    """With the shape of the pixels, unless they are square."""
    width, height = output.size
    aspect = output.aspect
    return f"{width}x{height}" + ("" if aspect == 1 else f" (pixels {aspect.numerator}:{aspect.denominator})")


def timing_of(source: Media, output: Media) -> str:
    """How exact the times are."""
    error = timing_error(source, output)
    return "times exact" if error == 0 else f"times within {float(1000 * error):.2f} ms"


def kept(source: Media, output: Media) -> list[str]:
    """Sound, subtitles and chapters."""
    words = []
    for before, after in pairs(source, output):
        words.append(f"{KINDS[before.kind]} {before.codec}: {len(matched(before, after))} of {len(before.packets)} packets")
    for kind, name in KINDS.items():
        tracks = sum(track.kind == kind for track in source.tracks) - sum(track.kind == kind for track in output.tracks)
        if tracks:
            words.append(f"{name} left out" if tracks == 1 else f"{tracks} tracks of {name} left out")
    if source.chapters:
        words.append(f"{len(output.chapters)} of {len(source.chapters)} chapters")
    return words


def line(done: Done) -> str:
    """For the terminal; with its notes and faults in lines of their own."""
    told = facts(done)
    if "skipped" in told:
        return f"{done.row.name}: not run, {told['skipped']}"
    first = f"{done.row.name}: {told['came_out'] or told['error']} ({told['seconds']} s, {told['peak_mib']:.0f} MiB)"
    notes = [f"    {note}" for note in told["notes"]]
    return "\n".join([first, *notes, *(f"    NOT AS EXPECTED: {fault}" for fault in done.faults)])


def markdown(done: Sequence[Done]) -> str:
    """A table for each group."""
    lines: list[str] = []
    for group in dict.fromkeys(one.group for one in done):
        lines += ["", f"## {group}", "", row_of(COLUMNS), row_of(["---"] * len(COLUMNS))]
        lines += [row_of(cells(one)) for one in done if one.group == group]
    return "\n".join(lines) + "\n"


def cells(done: Done) -> list[str]:
    told = facts(done)
    to = f"`{done.row.out}`" + "".join(f" `{option}`" for option in [" ".join(done.row.options)] if option)
    if "skipped" in told:
        return [done.row.name, to, "", f"not run: {told['skipped']}", "", "", "", ""]
    said = " / ".join([*told["notes"], *filter(None, [told["error"]])])
    verdict = {True: "yes", False: f"**no**: {'; '.join(done.faults)}", None: "-"}[told["as_expected"]]
    came, code = told["came_out"] or "an error", told["exit_code"]
    return [done.row.name, to, came, said, str(code), f"{told['seconds']:.1f}", f"{told['peak_mib']:.0f}", verdict]


def row_of(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
