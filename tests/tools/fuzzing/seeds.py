"""Small intact files of every kind that vidtwin reads, to be damaged: the videos of the tests, and files that are made here."""

import io
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vidtwin import VidTwin, VidTwinConfig, export_released
from vidtwin.frames.orientation import Orientation
from vidtwin.frames.tiles import plan_fit
from vidtwin.latents.file import LatentWriter, partial_path
from vidtwin.latents.stream import Header, Identity, Window
from vidtwin.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from vidtwin.model.latents import Latents
from vidtwin.video.read.images import SUFFIXES

ROOT = Path(__file__).parents[3]
ASSETS, RECIPES = ROOT / "tests" / "assets", ROOT / "src/vidtwin/recipes"

CONFIG = VidTwinConfig(
    frames=4, height=16, width=16, patch=8, hidden=8, depth=1, heads=2, num_queries=2, query_dim=8, query_layers=1, query_heads=2,
    query_mlp=8, structure_channels=2, structure_width=4, dynamics_channels=2,
)  # fmt: skip

FRAMES = 18  # of a latent file

# Kinds, and how many of 100 cases are of each.
KINDS = {
    "video": 40,
    "video in a tar": 4,
    "image": 8,
    "image in a folder": 6,
    "latents": 8,
    "growing latents": 8,
    "compressed latents": 8,
    "folder, weights": 4,
    "folder, config": 5,
    "released": 3,
    "config": 2,
    "recipe": 4,
}


@dataclass(frozen=True)
class Seed:
    """An intact file: its kind and name, its bytes, and by name the intact files that it is read together with."""

    kind: str
    name: str
    data: bytes
    beside: dict[str, bytes] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix


def make_seeds() -> list[Seed]:
    """All of them; the same bytes in every call, as long as the libraries that write them are the same."""
    seeds = []
    for path in sorted(ASSETS.iterdir()):
        if path.suffix != ".md":
            seeds += [Seed(kind, path.name, path.read_bytes()) for kind in ("video", "video in a tar")]
    y4m = b"YUV4MPEG2 W16 H16 F25:1\n" + b"".join(b"FRAME\n" + bytes([level]) * 384 for level in (50, 90, 200))
    seeds += [Seed(kind, "raw.y4m", y4m) for kind in ("video", "video in a tar")]
    for name, data in _images():
        seeds.append(Seed("image", name, data))
        if Path(name).suffix in SUFFIXES:
            seeds.append(Seed("image in a folder", name, data))
    with tempfile.TemporaryDirectory() as folder:
        seeds += [*_latents(Path(folder)), *_checkpoints(Path(folder))]
    return seeds + [Seed("recipe", path.name, path.read_bytes()) for path in sorted(RECIPES.glob("*.yaml"))]


def _images() -> Iterator[tuple[str, bytes]]:
    rows, columns = np.mgrid[0:24, 0:32]
    picture = np.stack([8 * columns, 10 * rows, 5 * (rows + columns) % 256], axis=-1).astype(np.uint8)
    colour, wide = Image.fromarray(picture), Image.fromarray(257 * picture[..., 0].astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: tuple[tuple[str, Image.Image, dict[str, Any]], ...] = (
        ("colour.png", colour, {}),
        ("alpha.png", colour.convert("RGBA"), {}),
        ("palette.png", colour.convert("P"), {"transparency": 3}),
        ("16bit.png", wide, {}),
        ("turned.jpg", colour, {"exif": turned}),
        ("gray.jpg", colour.convert("L"), {}),
        ("cmyk.jpg", colour.convert("CMYK"), {}),
        ("progressive.jpg", colour, {"progressive": True}),
        ("still.webp", colour, {}),
        ("lossless.webp", colour.convert("RGBA"), {"lossless": True}),
        ("still.gif", colour, {}),
        ("moving.gif", colour, {"save_all": True, "append_images": [colour.rotate(90), colour.rotate(180)], "duration": 40}),
        ("colour.bmp", colour, {}),
        ("lzw.tiff", colour, {"compression": "tiff_lzw"}),
    )
    for name, image, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, name.split(".")[1].upper().replace("JPG", "JPEG"), **options)
        yield name, buffer.getvalue()


class _StopError(Exception):
    """Ends writing a latent file in the middle."""


def _latents(folder: Path) -> Iterator[Seed]:
    for name, policy, overlap, logvar in (("plain", "crop", 0, False), ("tiles", "tile", 1, True), ("padded", "pad", 2, False)):
        header = Header(
            fps=Fraction(30000, 1001),
            clock=Fraction(1, 90000),
            geometry=plan_fit(policy, (20, 28), (CONFIG.height, CONFIG.width)),
            overlap=overlap,
            pixel_aspect=Fraction(1),
            orientation=Orientation(),
            config=CONFIG,
            weights=Identity("small", "0" * 64),
            precision="float32",
            logvar=logvar,
            source="in.mp4",
            source_bytes=1234,
            first_frame=0,
        )
        for kind, stop in (("latents", None), ("growing latents", 3), ("growing latents", 5)):
            path = folder / f"{name}{stop or ''}.vidtwin"
            with suppress(_StopError), LatentWriter(path, header) as writer:
                for window in _windows(header, FRAMES):
                    if window.index == stop:
                        raise _StopError
                    writer.write(window)
                if stop is not None:
                    raise _StopError
            yield Seed(kind, path.name, (path if stop is None else partial_path(path)).read_bytes())
        path, header = folder / f"{name}-compressed.vidtwin", replace(header, logvar=True)
        with LatentWriter(path, header, step=0.5) as writer:
            for window in _windows(header, FRAMES):
                writer.write(window)
        yield Seed("compressed latents", path.name, path.read_bytes())


def _windows(header: Header, frames: int) -> Iterator[Window]:
    rng = np.random.Generator(np.random.Philox(key=0))
    f = header.config.frames
    for index in range(header.windows(frames)):
        numbers = range(frames)[index * header.stride : index * header.stride + f]
        mean, logvar = (
            Latents(*(torch.from_numpy(rng.standard_normal(shape, np.float32)) for shape in header.shapes)) for _ in range(2)
        )
        ticks, cuts = tuple(3003 * number for number in numbers), tuple(number == 9 for number in numbers)
        yield Window(index, mean, logvar if header.logvar else None, ticks, cuts, last=numbers[-1] == frames - 1)


def small_model() -> VidTwin:
    """Of CONFIG, the same values in every call."""
    model = VidTwin(CONFIG)
    rng = np.random.Generator(np.random.Philox(key=1))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.from_numpy(rng.standard_normal(tuple(tensor.shape), np.float32)))
    return model


def _checkpoints(folder: Path) -> Iterator[Seed]:
    model = small_model()
    model.save_pretrained(folder / "ours")
    weights, config = (folder / "ours" / WEIGHTS_FILE).read_bytes(), (folder / "ours" / CONFIG_FILE).read_bytes()
    yield Seed("folder, weights", WEIGHTS_FILE, weights, {CONFIG_FILE: config})
    yield Seed("folder, config", CONFIG_FILE, config, {WEIGHTS_FILE: weights})
    model.set_aside = {"loss.logvar": torch.zeros(())}
    released = {}
    for name in ("model.safetensors", "model.ckpt"):
        export_released(model, folder / name)
        released[name] = (folder / name).read_bytes()
    content = torch.load(folder / "model.ckpt", weights_only=True)
    lightning = content | {"epoch": 3, "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}]}
    lightning |= {"lr_schedulers": [{"base_lrs": [np.float64(3e-5)], "last_epoch": np.int64(7)}]}
    for name, value, zipped in (("lightning.ckpt", lightning, True), ("legacy.pt", _one_storage(content["state_dict"]), False)):
        torch.save(value, folder / name, _use_new_zipfile_serialization=zipped)
        released[name] = (folder / name).read_bytes()
    released["legacy.pt"] = re.sub(rb"X[\x0a-\x0f]\0\0\0[0-9]{10,15}", b"X\x05\0\0\0first", released["legacy.pt"])
    for name, data in released.items():
        yield Seed("released", name, data)
    text = json.dumps(asdict(CONFIG), indent=2).encode()
    yield Seed("config", "small.json", text, {"model.safetensors": released["model.safetensors"]})


def _one_storage(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The float32 ones as parts of one: torch's old format names storages by their addresses, and here there is one to rename."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    whole = torch.cat([tensor.flatten() for tensor in floats.values()])
    parts = whole.split([tensor.numel() for tensor in floats.values()])
    return {name: part.view(tensor.shape) for (name, tensor), part in zip(floats.items(), parts, strict=True)}
