"""Still photographs with free licences, and short clips of them in motion, as more data to train on.

    python scripts/moving_photos.py collect OUT  # Debian packages -> OUT/photos/*.jpg and OUT/PHOTOS.csv
    python scripts/moving_photos.py move OUT     # OUT/photos -> OUT/clips/*.mp4

collect needs Debian. moving_photos.csv, beside this file, lists the photographs, their licences and authors; more in
docs/photographs.md.
"""

import argparse
import csv
import hashlib
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from tqdm import tqdm

from vidtwin.video import Encoding, VideoWriter

LIST = Path(__file__).with_suffix(".csv")
SMALLEST, SHORT_SIDE = (1000, 600), 1080  # of photographs, in pixels
FPS, FRAMES, CLIPS = Fraction(25), 48, 2
FINER = 2  # frames are drawn at twice their size, then reduced
BICUBIC, AFFINE = Image.Resampling.BICUBIC, Image.Transform.AFFINE
TURN = np.array([[0, -1], [1, 0]])
Floats = np.ndarray


# ---------------------------------------------------------------------------------------------------------------------- collect


def collect(out: Path) -> None:
    """Write the photographs that are listed, and a table of them."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SystemExit("apt-get and dpkg-deb are not here; run collect on Debian")
    listed = list(csv.DictReader(LIST.open(encoding="utf-8", newline="")))
    (out / "photos").mkdir(parents=True, exist_ok=True)
    kept: list[dict[str, str]] = []
    with TemporaryDirectory() as folder:
        download(sorted({row["package"] for row in listed}), folder)
        for package in tqdm(sorted(Path(folder).glob("*.deb")), desc="packages"):
            name, version = (query("dpkg-deb", "--field", str(package), field) for field in ("Package", "Version"))
            with TemporaryDirectory() as root:
                subprocess.run(["dpkg-deb", "-x", str(package), root], check=True)
                for row in (row for row in listed if row["package"] == name):
                    if photo := read_photo(Path(root, row["path"])):
                        file = f"photos/{row['photo']}.jpg"
                        photo.save(out / file, quality=92)
                        kept.append({"file": file, "package": name, "version": version} | row)
    with (out / "PHOTOS.csv").open("w", encoding="utf-8", newline="") as table:
        columns = ["file", "package", "version", "path", "licence", "authors"]
        writer = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    print(f"{len(kept)} of {len(listed)} photographs written to {out / 'photos'}")


def download(packages: list[str], folder: str) -> None:
    """Get packages without installing them; if some are unknown, update the lists of packages (as root) and try again."""
    for first in (True, False):
        commands = {name: ["apt-get", "--quiet", "download", name] for name in packages}
        done = {name: subprocess.run(run, cwd=folder, stdout=subprocess.DEVNULL) for name, run in commands.items()}
        packages = [name for name in packages if done[name].returncode]
        if packages and first:
            subprocess.run(["apt-get", "--quiet", "update"])
    if packages:
        print(f"left out, because this Debian has no such packages: {', '.join(packages)}")


def query(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def read_photo(path: Path) -> Image.Image | None:
    """The photograph, made smaller where it is large; None if this version of the package has none of the size."""
    if not path.is_file():
        return None
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if max(photo.size) < SMALLEST[0] or min(photo.size) < SMALLEST[1]:
        return None
    scale = min(1, SHORT_SIDE / min(photo.size))
    return photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)


# ------------------------------------------------------------------------------------------------------------------------- move


def move(out: Path, clips: int) -> None:
    """Write clips of every photograph; the same ones each time, because their names are the seeds."""
    photos = sorted((out / "photos").glob("*.jpg"))
    if not photos:
        raise SystemExit(f"{out / 'photos'}: has no photographs; run collect first")
    (out / "clips").mkdir(exist_ok=True)
    for path, k in tqdm([(path, k) for path in photos for k in range(clips)], desc="clips", unit="clip"):
        name = f"{path.stem}_{k}"
        rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
        photo, other = (Image.open(one).convert("RGB") for one in (path, photos[rng.integers(len(photos))]))
        if min(photo.size) < SMALLEST[1]:
            size = f"{photo.width}x{photo.height}"
            raise SystemExit(f"{path}: is {size}; use photographs of at least {SMALLEST[1]} pixels a side")
        frames = draw_clip(rng, photo, other)
        with VideoWriter(out / "clips" / f"{name}.mp4", FPS, frames.shape[1:3], Encoding(fast=True)) as writer:
            writer.write(frames)


def draw_clip(rng: np.random.Generator, photo: Image.Image, other: Image.Image) -> Floats:
    """uint8 (F, 256, 256 or 320, 3): a camera moves over `photo`; in a quarter, a piece of `other` moves in front of it."""
    size = np.array([rng.choice([256, 320]), 256])
    centre, scale, angle = camera_path(rng, np.array(photo.size), size)
    reduced = max(1.0, scale.min() / FINER)
    photo = photo.resize((round(photo.width / reduced), round(photo.height / reduced)), Image.Resampling.LANCZOS)
    ground = affine(centre / reduced, scale / reduced, angle, size)
    front: Image.Image | None = None
    if rng.random() < 0.25:
        front, placed = moving_piece(rng, other, size)
    light = exposure(rng)
    frames = np.empty((FRAMES, size[1], size[0], 3), np.uint8)
    for f in range(FRAMES):
        frame = photo.transform(tuple(FINER * size), AFFINE, ground[f], BICUBIC)
        if front:
            piece = front.transform(frame.size, AFFINE, placed[f], BICUBIC)
            frame.paste(piece, mask=piece.getchannel("A"))
        frames[f] = (np.asarray(frame.reduce(FINER)) * light[f] + 0.5).clip(0, 255)
    return frames


def affine(centre: Floats, scale: Floats, angle: Floats, size: Floats) -> list[tuple[float, ...]]:
    """For each frame what Image.transform takes: where its pixels lie in a picture, `scale` pixels of that one apart."""
    cos, sin = scale * np.cos(angle) / FINER, scale * np.sin(angle) / FINER
    width, height = FINER * size
    left = centre[:, 0] - cos * width / 2 + sin * height / 2
    top = centre[:, 1] - sin * width / 2 - cos * height / 2
    return [tuple(row) for row in np.stack([cos, -sin, left, sin, cos, top], axis=1).tolist()]


def camera_path(rng: np.random.Generator, photo: Floats, size: Floats) -> tuple[Floats, Floats, Floats]:
    """Centre (F, 2), pixels of the photograph per pixel of the frame (F), and angle (F) of a view that stays inside."""
    speed, shake = log_uniform(rng, 0.05, 12), rng.random() < 0.3
    while True:
        pace, turned = motion(rng)
        progress = np.cumsum(pace) / FRAMES - 0.5
        zoom, tilt = log_uniform(rng, 0.005, 0.5), log_uniform(rng, 0.002, 0.26)
        angle = rng.normal(0, 0.06) + rng.choice([-1, 1]) * tilt * progress
        fit = (photo / np.array([[1, 0.35], [0.35, 1]]).dot(size)).min()  # at a tilt of 20 degrees
        most = (photo / size).min()
        scale = rng.uniform(min(1.5, fit), min(4, most)) * np.exp(rng.choice([-1, 1]) * zoom * progress)
        moved = np.cumsum(speed * pace[:, None] * turned, axis=0) * scale[:, None]
        if shake:
            moved += wobble(rng, rng.uniform(0.2, 1.5), 2) * scale[:, None]
            angle += wobble(rng, 0.004, 1)[:, 0]
        cos, sin = np.abs(np.cos(angle)), np.abs(np.sin(angle))
        half = scale[:, None] * np.stack([cos * size[0] + sin * size[1], sin * size[0] + cos * size[1]], axis=1) / 2
        margin = half + 2 * scale[:, None]  # bicubic sampling looks a little further
        low, high = (margin - moved).max(axis=0), (photo - margin - moved).min(axis=0)
        if (low <= high).all() and scale.min() >= 1:
            return rng.uniform(low, high) + moved, scale, angle
        speed *= 0.98


def motion(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """How fast it goes in each frame (F), 1 on average, and in which direction (F, 2): even in half of the cases."""
    time = np.linspace(-1, 1, FRAMES)
    pace, heading = np.ones(FRAMES), np.full(FRAMES, rng.uniform(0, 2 * np.pi))
    kind = rng.choice(["even", "even", "pace", "heading"])
    if kind == "pace":
        pace += rng.choice([-1, 1]) * rng.uniform(0.4, 1) * time
    if kind == "heading":
        heading += rng.uniform(-np.pi, np.pi) / (1 + np.exp((rng.uniform(-0.5, 0.5) - time) / rng.uniform(0.03, 0.3)))
    return pace, np.stack([np.cos(heading), np.sin(heading)], axis=1)


def moving_piece(rng: np.random.Generator, other: Image.Image, size: Floats) -> tuple[Image.Image, list[tuple[float, ...]]]:
    """A piece of a photograph with a soft edge, and where it is in each frame, which may be outside."""
    side = int(rng.uniform(0.3, 0.9) * size[1])  # in pixels of the frame; it is drawn finer, as frames are
    x, y = (rng.integers(0, length - 2 * side + 1) for length in np.maximum(other.size, 2 * side))
    piece = other.crop((x, y, x + 2 * side, y + 2 * side))
    mask = Image.new("L", piece.size)
    corners, uneven = (int(rng.integers(3, 9)), 0.8) if rng.random() < 0.5 else (90, 0)  # 90: an ellipse
    around = 2 * np.pi * (np.arange(corners) + rng.uniform(0, 1, corners) * uneven) / corners
    radius = 0.9 * side * rng.uniform(0.5, 1, 2)
    ImageDraw.Draw(mask).polygon(
        [tuple(point) for point in side + radius * np.stack([np.cos(around), np.sin(around)], 1)], fill=255
    )
    piece.putalpha(mask.filter(ImageFilter.GaussianBlur(rng.uniform(1, 4))))
    pace, turned = motion(rng)
    at = rng.uniform(0, 1, 2) * size + np.cumsum(log_uniform(rng, 0.2, 12) * pace[:, None] * turned, axis=0)
    at -= at[FRAMES // 2] - rng.uniform(0.2, 0.8, 2) * size  # in sight in the middle of the clip
    angle = rng.choice([-1, 1]) * log_uniform(rng, 0.01, 1) * np.linspace(-0.5, 0.5, FRAMES)
    scale = np.exp(rng.uniform(-0.3, 0.3) * np.linspace(0, 1, FRAMES))  # pixels of the piece per pixel drawn
    away = (size / 2 - at) * FINER * scale[:, None]  # of the frame's centre from the piece's, before the turn
    centre = side + np.cos(angle)[:, None] * away + np.sin(angle)[:, None] * (away @ TURN.T)
    return piece, affine(centre, FINER * scale, angle, size)


def exposure(rng: np.random.Generator) -> Floats:
    """The light of each frame (F): even in 70 % of the clips, else it drifts, swells or fades from or to black."""
    time = np.linspace(0, 1, FRAMES)
    kind = rng.choice(["even", "drift", "swell", "fade"], p=[0.7, 0.1, 0.1, 0.1])
    strength, towards = rng.uniform(-0.5, 0.4), rng.choice([-1, 1])
    if kind == "drift":
        return np.exp(strength * time)
    if kind == "swell":
        return np.exp(strength * np.sin(np.pi * time) ** 2)
    if kind == "fade":
        return np.clip((time[::towards] + 0.02) / rng.uniform(0.2, 0.9), 0, 1)
    return np.ones(FRAMES)


def wobble(rng: np.random.Generator, strength: float, columns: int) -> Floats:
    """A smooth shake (F, columns) of 1 to 6 swings a second, as of a hand."""
    time = np.arange(FRAMES)[:, None, None] / float(FPS)
    swings, phases = rng.uniform(1, 6, (4, columns)), rng.uniform(0, 2 * np.pi, (4, columns))
    return strength * (np.sin(2 * np.pi * swings * time + phases) / np.sqrt(swings)).sum(axis=1)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["collect", "move"])
    parser.add_argument("out", type=Path, help="the folder of photographs and clips")
    parser.add_argument("--clips", type=int, default=CLIPS, help="of each photograph (default: %(default)s)")
    options = parser.parse_args()
    if options.job == "collect":
        collect(options.out)
    else:
        move(options.out, options.clips)


if __name__ == "__main__":
    main()
