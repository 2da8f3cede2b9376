"""A model that was exported to ONNX, run by onnxruntime: reads what `vidtwin.onnx.export` wrote, for `Engine`.

Letters: B clips; F, H, W frames, height and width of a clip.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vidtwin.checked import MOST_JSON, read_json
from vidtwin.files import check_regular, in_line
from vidtwin.latents.stream import Identity
from vidtwin.model.checkpoint import CONFIG_FILE
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import NAMES, Latents, Posterior
from vidtwin.model.vidtwin import Part

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"
KEY = "onnx"  # beside the config's fields in config.json
HASH, PRECISION = "vidtwin.weights_hash", "vidtwin.precision"  # in the metadata of each file
CLIP, PARTS = "clip", "parts"
OUTPUTS = (*NAMES, *(f"{name}_logvar" for name in NAMES))
SWITCHES: dict[Part | None, tuple[float, float]] = {None: (1, 1), "structure": (1, 0), "dynamics": (0, 1)}  # the input PARTS
REMEDY = "write the folder again with `vidtwin export`"


@dataclass(frozen=True)
class Exported:
    """What config.json of an exported folder says.

    Attributes:
        config, weights: of the model that was exported.
        precision: "float32" or "int8". opset: of the ONNX operators.
        encoder, decoder: how far each half was from torch in float32 when it was written: relative L2 for float32, PSNR in dB of
            decoded clips for int8.
    """

    config: VidTwinConfig
    weights: Identity
    precision: str
    opset: int
    encoder: float
    decoder: float

    def to_dict(self) -> dict[str, Any]:
        """The fields of the config, and the others under "onnx", as JSON holds them."""
        return self.config.to_dict() | {
            KEY: {
                "weights": self.weights.name,
                "weights_hash": self.weights.hash,
                "precision": self.precision,
                "opset": self.opset,
                "psnr" if self.precision == "int8" else "relative_l2": {"encoder": self.encoder, "decoder": self.decoder},
            }
        }

    @staticmethod
    def read(folder: Path) -> "Exported":
        """Of a folder.

        Raises:
            FileNotFoundError: no such folder, or not one of an export. ValueError: its config.json is not what `to_dict` gave.
        """
        path = folder / CONFIG_FILE
        if not is_exported(folder):
            raise FileNotFoundError(f"{folder}: holds no exported model; make one with `vidtwin export`")
        try:
            fields = read_json(path)
            facts = fields.pop(KEY)
            precision = facts["precision"]
            if precision not in ("float32", "int8"):
                raise ValueError(f"precision {precision!r}; this vidtwin reads float32 and int8")
            distances = facts["psnr" if precision == "int8" else "relative_l2"]
            return Exported(
                config=VidTwinConfig.from_dict(fields),
                weights=Identity(in_line(facts["weights"]), in_line(facts["weights_hash"])),
                precision=precision,
                opset=int(facts["opset"]),
                encoder=float(distances["encoder"]),
                decoder=float(distances["decoder"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else in_line(error)
            raise ValueError(f"{path}: {what}; {REMEDY}") from error


def is_exported(folder: Path) -> bool:
    """Whether config.json of a folder is that of an export; of a checkpoint it is not."""
    try:
        check_regular(folder / CONFIG_FILE, MOST_JSON)
        return f'"{KEY}"' in (folder / CONFIG_FILE).read_text()
    except (OSError, ValueError):
        return False


class OnnxModel:
    """The two halves of an exported model, on the CPU in as many threads as torch has; an `Engine` takes it for a `VidTwin`.

    Attributes:
        config, exported: of the folder. identity: of the weights that were exported. device, dtype: where clips and latents are
            taken, and as what.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing. ValueError: damaged files, or files of different exports;
            onnxruntime is not installed.
    """

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.exported = Exported.read(folder)
        self.config, self.identity = self.exported.config, self.exported.weights
        config = self.config
        self._clip: dict[str, tuple[int, ...]] = {CLIP: config.clip_shape}
        self._latents: dict[str, tuple[int, ...]] = dict(zip(NAMES, config.latent_shapes, strict=True))
        self._encoder = self._session(folder / ENCODER_FILE, self._clip)
        self._decoder = self._session(folder / DECODER_FILE, self._latents)

    @property
    def runtime(self) -> str:
        """ "onnx float32" or "onnx int8"."""
        return f"onnx {self.exported.precision}"

    def check(self, decibels: float) -> list[str]:
        """What an int8 model was from float32 when it was exported, as lines for people.

        Raises:
            ValueError: a half of it is less than so many dB.
        """
        if self.exported.precision != "int8":
            return []
        lines = []
        for done, psnr in (("encoded", self.exported.encoder), ("decoded", self.exported.decoder)):
            text = f"a clip {done} in {self.runtime} was {psnr:.1f} dB from float32 when it was exported"
            if psnr < decibels:
                raise ValueError(f"{text}, below check_db={decibels:g}; export in float32, or use a lower limit")
            lines.append(text)
        return lines

    def posterior(self, x: Tensor) -> Posterior:
        """Clips (B, 3, F, H, W) in [-1, 1] -> float32 on the CPU. Raises ValueError for another shape; values are not checked."""
        tensors = self._run(self._encoder, self._clip, (x,), {})
        return Posterior(Latents(*tensors[:3]), Latents(*tensors[3:]))

    def decode(self, latents: Latents, only: Part | None = None) -> Tensor:
        """As `VidTwin.decode`: (B, 3, F, H, W), not clamped; NaN is let through.

        Raises:
            ValueError: latents of another config; `only` is neither None, "structure" nor "dynamics".
        """
        if only not in SWITCHES:
            raise ValueError(f"only={only!r}: choose 'structure', 'dynamics' or None for both")
        (clips,) = self._run(self._decoder, self._latents, latents.tensors, {PARTS: np.array(SWITCHES[only], np.float32)})
        return clips

    def _session(self, path: Path, inputs: dict[str, tuple[int, ...]]) -> "InferenceSession":
        session = open_session(path)
        metadata = session.get_modelmeta().custom_metadata_map
        if (metadata.get(HASH), metadata.get(PRECISION)) != (self.identity.hash, self.exported.precision):
            raise ValueError(f"{path}: is of another export than {CONFIG_FILE} beside it; {REMEDY}")
        found = {value.name: tuple(value.shape[1:]) for value in session.get_inputs() if value.name != PARTS}
        if found != inputs:
            raise ValueError(f"{path}: takes {in_line(found)}, its {CONFIG_FILE} says {inputs}; {REMEDY}")
        return session

    def _run(
        self,
        session: "InferenceSession",
        shapes: dict[str, tuple[int, ...]],
        tensors: tuple[Tensor, ...],
        switches: dict[str, np.ndarray],
    ) -> list[Tensor]:
        found = [tuple(tensor.shape) for tensor in tensors]
        if [shape[1:] for shape in found] != list(shapes.values()) or 0 in {shape[0] for shape in found}:
            raise ValueError(f"{' and '.join(shapes)} of shapes {found}: this model expects (B, ...) of {list(shapes.values())}")
        arrays = {name: tensor.to("cpu", torch.float32).contiguous().numpy() for name, tensor in zip(shapes, tensors, strict=True)}
        try:
            return [torch.from_numpy(array) for array in session.run(None, arrays | switches)]
        except Exception as error:  # onnxruntime's own kinds, which are not RuntimeErrors
            text = in_line(error)
            if any(words in text.lower() for words in ("failed to allocate", "bad_alloc", "bad allocation", "out of memory")):
                raise MemoryError(text) from error
            raise RuntimeError(f"onnxruntime: {text}") from error


def open_session(path: Path) -> "InferenceSession":
    """An ONNX file, ready to run on the CPU.

    Raises:
        FileNotFoundError: no such file. ValueError: not an ONNX model; onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("an exported model needs the package onnxruntime: pip install 'vidtwin[export]'") from None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; {REMEDY}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_cpu_mem_arena = False  # keeps what a batch took, so that a smaller one finds no memory; no faster here
    options.log_severity_level = 4  # errors are raised
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise ValueError(f"{path}: not an ONNX model, or damaged ({in_line(error, 200)}); {REMEDY}") from error
