"""What a finished data set of latents says of itself; read without the libraries that make one."""

from pathlib import Path, PurePosixPath
from typing import Any

from vidtwin.checked import fact, read_json
from vidtwin.files import first_line
from vidtwin.latent_sets.plan import Plan
from vidtwin.latent_sets.statistics import Statistics

DAMAGED = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)  # of values of JSON that are not what they should be


def read_manifest(folder: Path) -> dict[str, Any]:
    """Of a finished data set. Raises FileNotFoundError or ValueError for a folder without one."""
    path = folder / "manifest.json"
    if not path.is_file():
        begun = (folder / "plan.json").is_file()
        raise FileNotFoundError(
            f"{folder}: is not finished; run the same vidtwin encode-dataset again"
            if begun
            else f"{folder}: is no data set of latents; make one with vidtwin encode-dataset"
        )
    try:
        manifest: dict[str, Any] = read_json(path)
        files = fact(manifest, "files", list)
        for file in files:
            name = PurePosixPath(fact(file, "file", str))
            fact(file, "rows", int, 0), fact(file, "bytes", int, 0), fact(file, "sha256", str)
            if ".." in name.parts or name.is_absolute() or "\0" in str(name):
                raise ValueError("names files outside its folder")
        if len({file["file"] for file in files}) < len(files):
            raise ValueError("names a file twice")
        plan, statistics = Plan.from_dict(fact(manifest, "plan", dict)), Statistics.from_dict(fact(manifest, "statistics", dict))
        if statistics.channels != tuple(shape[0] for shape in plan.config.latent_shapes):
            raise ValueError("its statistics are of other latents")
    except DAMAGED as error:
        raise ValueError(
            f"{path}: not the manifest of a data set of latents ({first_line(error)}); run vidtwin encode-dataset again"
        ) from error
    try:
        fact(manifest, "items", int, 0), fact(manifest, "failures", int, 0)
        if fact(manifest, "rows", int, 0) != (there := sum(file["rows"] for file in files)):
            raise ValueError(f"rows is {manifest['rows']}, its files have {there}")
        if not all(isinstance(name, str) for name in fact(manifest, "columns", list)):
            raise ValueError("columns are not names")
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); run vidtwin encode-dataset again") from error
    return manifest


def stored_bytes(rows: int, size: int) -> str:
    """Bytes of all files of a data set, as text."""
    return f"{size:,} bytes" + (f", {size / rows:,.0f} a row" if rows else "")
