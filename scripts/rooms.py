"""The plan of the package: its rooms from the ground up, what each holds, and who imports whom.

    python scripts/rooms.py

prints rooms, lines, and imports. A room may import those that stand before it; `tests/test_architecture.py` holds the code to that.
"""

import ast
from functools import cache
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "vidtwin"
ROOMS = {
    "version": "the version",
    "files": "whole files or none, safe text, hashes",
    "checked": "what JSON and YAML of anybody state, held against dataclasses",
    "parquet": "what pages of Parquet files take in memory",
    "threads": "stages of work side by side in threads",
    "processes": "child processes that leave with their parent",
    "metrics": "PSNR and SSIM",
    "frames": "arithmetic on frames: fitting, tiles, windows, shots, panels",
    "video": "video files: reading and writing",
    "model": "VidTwin, its configuration, its latents, and its weights in files",
    "losses": "the objective and its terms",
    "latents": "latents as streams, files and bits",
    "onnx": "exported models: writing and running them",
    "data": "lists of recordings, training clips, checks, sprites",
    "inference": "the model at work on videos: encode, decode, reconstruct",
    "from_files": "what the commands on videos do, as functions",
    "benchmark": "how fast that is",
    "diffusers": "the model with the habits of diffusers",
    "latent_sets": "data sets of latents, written by many processes and read in training",
    "generation": "diffusion on latents, and the pipeline that generates",
    "motion": "latents of robots' camera images",
    "evaluation": "scores of reconstructions, beside codecs and linear coders",
    "analysis": "what the two latents hold",
    "training": "training of autoencoders and generators",
    "demo": "the page",
    "cli": "the command line",
    "__main__": "its entry",
    "__init__": "the public names",
}


@cache
def modules() -> tuple[Path, ...]:
    """The package's source files."""
    return tuple(sorted(SRC.rglob("*.py")))


def room_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    """The dotted name of a file below the package: "model.vidtwin"."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names that a file imports, anywhere in it.

    Raises:
        ValueError: a relative import.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}: relative import")
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def own(path: Path) -> set[str]:
    """Those of the package's modules that a file imports."""
    known = {name_of(other) for other in modules()} - {""}
    named = {name.removeprefix("vidtwin.") for name in imports(path) if name.startswith("vidtwin.")}
    return named & known - {name_of(path)}


def main() -> None:
    for room, text in ROOMS.items():
        files = [path for path in modules() if room_of(path) == room]
        lines = sum(len(path.read_text().splitlines()) for path in files)
        below = {name.split(".")[0] for path in files for name in own(path)} - {room}
        print(f"{room:12} {len(files):3} files {lines:6} lines  {text}\n{'':12} imports {', '.join(sorted(below)) or 'none'}")
    print(f"{sum(len(path.read_text().splitlines()) for path in modules())} lines in all")


if __name__ == "__main__":
    main()
