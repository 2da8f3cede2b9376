"""Options that several commands have, what they mean here, and how commands refuse and speak."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TextIO

import torch
from tqdm import tqdm
from tyro.conf import UseAppendAction, arg

from vidtwin.data.folders import SUFFIXES
from vidtwin.files import check_writable, clear_killed, is_same, locked, printable
from vidtwin.inference import decode as writing
from vidtwin.inference.engine import CHECK_DB, DECODER, ENCODER, Engine, only
from vidtwin.latents.stream import Identity
from vidtwin.model.loading import load_weights
from vidtwin.model.pretrained import as_device
from vidtwin.onnx.model import OnnxModel, is_exported
from vidtwin.video.read.info import VideoInfo
from vidtwin.video.write.encoding import Encoding

PRECIOUS = (".tar", ".parquet", ".csv", ".vidtwin", ".safetensors", ".ckpt", ".pt", ".pth")
SAMPLE = Path(__file__).parents[1] / "assets" / "sample.mp4"
Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["float32", "float16", "bfloat16"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]
Backend = Literal["torch", "onnx"]
Policy = Literal["crop", "squash", "pad", "tile"]
Codec = Literal["auto", "h264", "hevc", "vp9", "av1", "ffv1", "png"]
Output = Annotated[Path, arg(aliases=["-o"])]
Settings = Annotated[tuple[str, ...], arg(metavar="KEY=VALUE"), UseAppendAction]


class UsageError(ValueError):
    """An option that cannot be meant: exit code 2."""


@dataclass(frozen=True)
class ModelOptions:
    """Which weights, and how they run.

    Args:
        weights: A shipped name, a checkpoint folder, a hub id (owner/name or owner/name/x.ckpt), a file in Microsoft's layout
            (.ckpt, .safetensors), or released: Microsoft's checkpoint, from the hub.
        config: For a file in Microsoft's layout: a preset, or a config.json; auto is the preset that fits.
        backend: onnx runs an export of `vidtwin export`, given as --weights, on the CPU, in the precision of the export.
        device: auto is cuda if there is one, else cpu.
        dtype: Precision of the matrix products of decoding; auto is bfloat16 on a GPU or CPU with fast bfloat16 (AMX, AVX512_BF16),
            unless the first clip falls below --check; otherwise float32.
        encode_dtype: Precision of encoding; default as --dtype, but float32 if latents are stored and --dtype is auto.
        batch: Clips at a time; default one on a CPU, and on a GPU as many as fit into half of the free memory, at most 16.
        check: Refuse a precision whose first clip has a PSNR below this many dB against float32; 0 for no check.
        compile: Compile the model's blocks (torch.compile): up to a minute at the start; on a CPU it needs a C++ compiler.
        low_memory: Use one clip at a time and load only the weights that are used, in float32 unless --dtype says otherwise.
    """

    weights: str = "mini"
    config: str = "auto"
    backend: Backend = "torch"
    device: Device = "auto"
    dtype: Precision = "auto"
    encode_dtype: Precision | None = None
    batch: int | None = None
    check: float = CHECK_DB
    compile: bool = False
    low_memory: bool = False

    def load(self, parts: tuple[str, ...] = ENCODER + DECODER, stored: bool = False) -> tuple[Engine, Identity]:
        """A model placed where the options say, and the identity of its weights, which the dtype does not change.

        `parts` are those that will be used; where latents are `stored`, encoding is not in a precision that differs by machine.
        """
        place = device_of(self.device)
        if self.backend == "onnx":
            return self._load_exported()
        if is_exported(Path(self.weights)):
            raise UsageError(f"--weights {self.weights}: was exported to ONNX; add --backend onnx")
        model = load_weights(self.weights, self.config)
        identity = Identity.of(model, public_name(self.weights))
        dtype = "float32" if self.dtype == "auto" and self.low_memory else self.dtype
        encode_dtype = self.encode_dtype or ("float32" if stored and dtype == "auto" else dtype)
        encode, decode = (wanted(name) for name in (encode_dtype, dtype))
        if self.low_memory:
            del model  # and what was read of it for its identity
            model = load_weights(self.weights, self.config)
            if encode == torch.float32 == decode:  # another precision is checked by decoding
                model = only(model, parts)
        batch = self.batch or (1 if self.low_memory else None)
        engine = Engine(model.to(place), encode_dtype=encode, dtype=decode, batch=batch, check_db=self.check, compile=self.compile)
        return engine, identity

    def _load_exported(self) -> tuple[Engine, Identity]:
        if self.device not in ("auto", "cpu"):
            raise UsageError(f"--device {self.device}: exported models run on the CPU here; leave it out")
        if self.dtype != "auto" or self.encode_dtype is not None:
            raise UsageError("--dtype and --encode-dtype: an exported model has the precision of its export; leave them out")
        if self.compile or self.low_memory:
            raise UsageError("--compile and --low-memory: not for an exported model; leave them out")
        exported = OnnxModel(self.weights)
        return Engine(exported, batch=self.batch, check_db=self.check), exported.identity


def check_not_written(out: Path) -> None:
    """Refuse the folder of another run before the imports of a training, in the process that will lock it. Raises as `locked`."""
    if out.is_dir() and os.environ.get("RANK", "0") == "0":
        with locked(out):
            pass


def wanted(name: Precision) -> Literal["auto"] | torch.dtype:
    """What the engine calls a precision."""
    dtype: torch.dtype
    if name == "auto":
        return name
    dtype = getattr(torch, name)
    return dtype


@dataclass(frozen=True)
class FitOptions:
    """How frames become the model's.

    Args:
        policy: How frames are fitted to the model's size: centre crop, squash, pad with black (cropped again after decoding), or
            overlapping tiles, which keep the full resolution.
        tile_overlap: Pixels that neighbouring tiles share; default a quarter of the model's size.
        overlap: Frames that a window of the model shares with the one before; the windows are cross-faded there, but not across a
            shot cut.
    """

    policy: Policy = "crop"
    tile_overlap: int | None = None
    overlap: int = 0


@dataclass(frozen=True)
class VideoOptions:
    """How a video is written.

    Args:
        codec: auto depends on the name: H.264 for .mp4, .m4v, .mov and .mkv, VP9 for .webm, PNG for a folder or a pattern
            (%05d.png).
        crf: Quality, 0 (best) to 51 for H.264 and HEVC, to 63 for VP9 and AV1; default 18 for H.264.
        lossless: Keep every decoded pixel.
        sound: Copy sound, subtitles and chapters of the source.
    """

    codec: Codec = "auto"
    crf: int | None = None
    lossless: bool = False
    sound: bool = True

    def output(self, source: Path | VideoInfo | None) -> writing.Output:
        """With what of `source` is to be copied."""
        return writing.Output(Encoding(self.codec, self.crf, self.lossless), source if self.sound else None)


Model = Annotated[ModelOptions, arg(name="")]  # options without a prefix
Fitting = Annotated[FitOptions, arg(name="")]
Video = Annotated[VideoOptions, arg(name="")]
MINI, AS_ENCODED = ModelOptions(), ModelOptions(weights="those that encoded")
FIT, VIDEO = FitOptions(), VideoOptions()


def public_name(weights: str) -> str:
    """What files say of where weights were: no folders of this machine."""
    return Path(weights).name if Path(weights).is_absolute() else weights


def check_output(out: Path, *inputs: Path) -> None:
    """Refuse, before any work, an output that cannot be written or is one of the inputs."""
    check_writable(out)
    clear_killed(out)
    for path in inputs:
        if is_same(out, path):
            raise UsageError(f"{out}: is the input; choose another output")


def check_result(out: Path, *inputs: Path) -> None:
    """`check_output` of a file of results, which is not called as a video or weights are: inputs may well be in the folder."""
    check_output(out, *inputs)
    if out.suffix.lower() in (*SUFFIXES, *PRECIOUS):
        raise UsageError(f"{out}: has the name of a video, weights or data; name it .json, .svg or .html")


def device_of(name: str) -> str:
    """The device that `name` means here; refused in one line if there is none."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(as_device(name))
    except ValueError as error:
        raise UsageError(str(error)) from None


def print_notes(notes: Sequence[str], to: TextIO | None = None) -> None:
    """What was not kept, or done otherwise than asked."""
    for note in notes:
        print(f"{'note':14}{printable(note)}", file=to)


def said_to(out: Path) -> TextIO:
    """Where a command speaks: not to standard output, if the video goes there."""
    return sys.stderr if str(out) == "-" else sys.stdout


@contextmanager
def counter(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that takes (done, total), on standard error, gone when done; none if that is not a terminal."""
    with tqdm(unit=unit, leave=False, disable=None) as shown:

        def progress(done: int, total: int) -> None:
            shown.total, shown.n = total, done
            shown.refresh()

        yield progress


@contextmanager
def bar(total: int | None) -> Iterator[Callable[[int], object]]:
    """A progress bar over frames on standard error, gone when done; none if that is not a terminal."""
    with tqdm(total=total, unit="frame", leave=False, disable=None) as progress:
        yield progress.update
