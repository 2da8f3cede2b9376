"""A model as two ONNX files, for onnxruntime and whatever else reads ONNX; `onnx/model.py` reads the folder back.

Letters: B clips; F, H, W frames, height and width of a clip; z_S, z_D the latents (`model/latents.py`).
"""

import copy
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import inf, isfinite, prod
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from vidtwin.files import check_writable, clear_killed, in_line, make_readable
from vidtwin.latents.stream import Identity
from vidtwin.metrics import clip_psnr
from vidtwin.model.checkpoint import CONFIG_FILE
from vidtwin.model.latents import LOGVAR_RANGE, NAMES, Latents
from vidtwin.model.vidtwin import VidTwin
from vidtwin.onnx.model import (
    CLIP,
    DECODER_FILE,
    ENCODER_FILE,
    HASH,
    OUTPUTS,
    PARTS,
    PRECISION,
    SWITCHES,
    Exported,
    OnnxModel,
    is_exported,
)

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MOST_DIFFERENCE = 1e-5  # relative L2 of an output in float32 against torch; found: 1.3e-6 ("tiny")
MOST_ROUNDING = 10  # times what torch in float32 is from float64, where that is more
MOST_EMBEDDED = 2**31 - 2**26  # bytes of weights in the .onnx file; protobuf ends at 2 GiB, beyond it they are in .onnx.data
QUANTIZED = ("MatMul", "Gemm")


class EncoderHalf(nn.Module):
    """Clip (B, 3, F, H, W) -> means, then log-variances, of z_S, x and y of z_D: `VidTwin.posterior` without its checks."""

    def __init__(self, model: VidTwin):
        super().__init__()
        self.encoder, self.structure, self.dynamics = model.encoder, model.structure_encoder, model.dynamics_encoder

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        z = self.encoder(clip)
        # Not Posterior.from_moments: its Latents compare batch sizes, which pins them in the exported graph.
        pairs = [moments.chunk(2, dim=1) for moments in (self.structure(z), *self.dynamics(z))]
        return (*(mean for mean, _ in pairs), *(logvar.clamp(*LOGVAR_RANGE) for _, logvar in pairs))


class DecoderHalf(nn.Module):
    """z_S, x and y of z_D -> clip (B, 3, F, H, W), not clamped: `VidTwin.decode` without its checks.

    parts: factors of u_S and of u_D; (1, 0) decodes the Structure alone.
    """

    def __init__(self, model: VidTwin):
        super().__init__()
        self.structure, self.dynamics, self.decoder = model.structure_decoder, model.dynamics_decoder, model.decoder

    def forward(self, structure: Tensor, dynamics_x: Tensor, dynamics_y: Tensor, parts: Tensor) -> Tensor:
        return self.decoder(parts[0] * self.structure(structure) + parts[1] * self.dynamics(dynamics_x, dynamics_y))


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far from torch it is; sizes in bytes."""

    folder: Path
    exported: Exported
    encoder_bytes: int
    decoder_bytes: int

    def table(self) -> str:
        """The report as aligned lines for people."""
        facts = self.exported
        rows = {}
        for file, size, distance in (
            (ENCODER_FILE, self.encoder_bytes, facts.encoder),
            (DECODER_FILE, self.decoder_bytes, facts.decoder),
        ):
            far = f"{distance:.1f} dB (PSNR)" if facts.precision == "int8" else f"{distance:.1e} (relative L2)"
            rows[file] = f"{size / 1e6:.1f} MB, {far} from torch in float32"
        rows |= {"precision": facts.precision, "opset": f"{facts.opset}", "weights": str(facts.weights)}
        return "\n".join(f"{name:14}{value}" for name, value in rows.items())


@torch.inference_mode(False)  # wherever it is called from
def export_onnx(
    model: VidTwin,
    folder: str | Path,
    *,
    quantize: Literal["int8"] | None = None,
    opset: int | None = None,
    weights: Identity | None = None,
) -> ExportReport:
    """Write FOLDER/encoder.onnx, FOLDER/decoder.onnx and FOLDER/config.json, of any batch, and check them against torch.

    encoder.onnx: "clip" (B, 3, F, H, W) float32 in [-1, 1] -> the means "structure", "dynamics_x", "dynamics_y", and the
    log-variances "structure_logvar", ..., shaped as in `Posterior`. decoder.onnx: the three means -> "clip", not clamped; its
    input "parts" (2,) may be left out, (1, 0) decodes the Structure alone, (0, 1) the Dynamics. Neither checks its input.

    Until all of it is written and checked, the folder is untouched; an earlier export in it is replaced.

    Args:
        quantize: "int8" stores the weights of linear layers as whole numbers of 7 bits, a scale for each output channel, and
            computes with activations of 8 bits, whose scale is found as they come; convolutions stay float32.
        opset: of the ONNX operators; default that of torch's exporter (20 with torch 2.13).
        weights: identity to store; needed if the model was cast to a lower precision (`Identity.of` before it).

    Raises:
        ValueError: a package of the extra "export" is missing; another `quantize`; what was exported differs from torch by more
            than 1e-5, and than rounding explains (relative L2, float32 only; int8 is reported in dB).
        FileExistsError: the folder holds a checkpoint. OSError: it cannot be written.
    """
    if quantize not in (None, "int8"):
        raise ValueError(f"quantize={quantize!r}: choose 'int8', or leave it out for float32")
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"exporting needs the package {missing[0]}: pip install 'vidtwin[export]'")
    folder = Path(folder)
    _check_folder(folder)
    identity = weights or Identity.of(model)
    exact = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
    config, precision = exact.config, quantize or "float32"
    latents = {name: torch.zeros(2, *shape) for name, shape in zip(NAMES, config.latent_shapes, strict=True)}
    halves: tuple[tuple[nn.Module, str, dict[str, Tensor], tuple[str, ...]], ...] = (
        (EncoderHalf(exact), ENCODER_FILE, {CLIP: torch.zeros(2, *config.clip_shape)}, OUTPUTS),
        (DecoderHalf(exact), DECODER_FILE, latents | {PARTS: torch.ones(2)}, (CLIP,)),
    )
    clear_killed(folder)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.partial-{os.getpid()}-", dir=folder.absolute().parent) as temporary:
        partial = Path(temporary)
        try:
            for half, name, inputs, outputs in halves:
                metadata = {HASH: identity.hash, PRECISION: precision}
                written = _write_half(half, partial / name, inputs, outputs, quantize == "int8", opset, metadata)
        except OSError as error:
            raise OSError(f"{folder}: writing failed ({in_line(error)}); free some space or choose another output") from error
        exported = Exported(config, identity, precision, written, 0.0, 0.0)
        _write_config(exported, partial)
        compare = _decibels if quantize else _differences
        encoder, decoder = compare(exact, OnnxModel(partial))
        exported = replace(exported, encoder=encoder, decoder=decoder)
        _write_config(exported, partial)
        sizes = [sum(path.stat().st_size for path in partial.glob(f"{name}*")) for name in (ENCODER_FILE, DECODER_FILE)]
        _move(partial, folder)
    return ExportReport(folder, exported, *sizes)


def _write_half(
    half: nn.Module,
    path: Path,
    inputs: dict[str, Tensor],
    outputs: tuple[str, ...],
    int8: bool,
    opset: int | None,
    metadata: dict[str, str],
) -> int:
    """A half as an ONNX file of any batch; returns the opset."""
    import onnx_ir
    from onnxruntime.quantization import QuantType, quantize_dynamic

    batch = torch.export.Dim("batch")
    dynamic = {name: None if name == PARTS else {0: batch} for name in inputs}
    with _quiet():
        # strict follows len(x), with which the model asks for the batch, as a symbol; without it the batch would be pinned.
        program = torch.export.export(half, tuple(inputs.values()), dynamic_shapes=dynamic, strict=True)
        exported = torch.onnx.export(
            program, input_names=list(inputs), output_names=outputs, opset_version=opset, dynamo=True, verbose=False
        )
    assert exported is not None
    model = exported.model
    written = model.opset_imports[""]
    if opset not in (None, written):
        raise ValueError(f"opset {opset}: torch's exporter made opset {written} of it; give another, or leave it out")
    model.metadata_props.update(metadata)
    model.graph.metadata_props.clear()
    ends = [*model.graph.inputs, *model.graph.outputs]
    for node in model.graph:  # where in the source it came from, with paths of this machine, and shapes in other symbols
        node.metadata_props.clear()
        for value in node.outputs:
            if value not in ends:
                value.shape = None
    for value in ends:
        assert value.shape is not None
        if value.name == PARTS:  # may be left out
            value.const_value = onnx_ir.tensor(inputs[PARTS].numpy(), name=PARTS)
            model.graph.register_initializer(value)
        else:
            value.shape = onnx_ir.Shape(["batch", *value.shape[1:]])
    large = 4 * sum(prod(tensor.shape) for tensor in half.state_dict().values()) > MOST_EMBEDDED
    if not int8:
        exported.save(path, external_data=large)
        return written
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _quiet():
        whole = Path(folder) / path.name
        exported.save(whole, external_data=large)
        # In 7 bits: of 8, pairs of products overflow 16 bits on processors without VNNI, which costs many dB.
        quantize_dynamic(
            whole,
            path,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
        )
    return written


def _differences(exact: VidTwin, model: OnnxModel) -> tuple[float, float]:
    """`_distances` of an exported model in float32.

    Raises:
        ValueError: one is above 1e-5, and above 10 times what rounding to float32 makes of the model in torch (wild weights).
    """
    found = _distances(exact, model)
    if max(found) > MOST_DIFFERENCE:
        rounding = _distances(exact, copy.deepcopy(exact).double())
        for name, value, own in zip((ENCODER_FILE, DECODER_FILE), found, rounding, strict=True):
            most = max(MOST_DIFFERENCE, MOST_ROUNDING * own)
            if not isfinite(value) or value > most:
                raise ValueError(
                    f"{name}: differs from torch by {value:.1e} (relative L2), above {most:.1e}; "
                    "use the versions of torch and onnxruntime that constraints.txt names"
                )
    return found


def _distances(exact: VidTwin, other: VidTwin | OnnxModel) -> tuple[float, float]:
    """Relative L2 of the encoder's and of the decoder's outputs, the largest of batches of 1 and 2; each latent alone, of 1."""
    encoder, decoder = [], []
    place = other.device, other.dtype
    for clips, noise in _samples(exact):
        with torch.inference_mode():
            expected, found = exact.posterior(clips), other.posterior(clips.to(*place))
            for a, b in ((found.mean, expected.mean), (found.logvar, expected.logvar)):
                encoder += [_relative(x, y) for x, y in zip(a.tensors, b.tensors, strict=True)]
            for only in SWITCHES if len(clips) == 1 else (None,):
                decoder.append(_relative(other.decode(noise.to(*place), only), exact.decode(noise, only)))
    return max(encoder), max(decoder)


def _decibels(exact: VidTwin, model: OnnxModel) -> tuple[float, float]:
    """PSNR of clips decoded from the encoder's latents, and by the decoder, against torch in float32; the lowest, capped at 80."""
    encoder, decoder = [], []
    for clips, _ in _samples(exact):
        with torch.inference_mode():
            latents = exact.encode(clips)
            expected = exact.decode(latents).clamp(-1, 1)
            of_encoder = exact.decode(model.posterior(clips).mean).clamp(-1, 1)
            of_decoder = model.decode(latents).clamp(-1, 1)
        encoder += [clip_psnr(x, y) for x, y in zip(of_encoder, expected, strict=True)]
        decoder += [clip_psnr(x, y) for x, y in zip(of_decoder, expected, strict=True)]
    return min(encoder), min(decoder)


def _samples(model: VidTwin) -> Iterator[tuple[Tensor, Latents]]:
    """Smooth random clips and random latents, in batches of 1 and 2."""
    generator = torch.Generator().manual_seed(0)
    config = model.config
    colours, *size = config.clip_shape
    for batch in (1, 2):
        coarse = torch.randn(batch, colours, *(max(1, side // 24) for side in size), generator=generator)
        clips = nnf.interpolate(coarse, size=tuple(size), mode="trilinear").clamp(-1, 1)
        yield clips, Latents(*(torch.randn(batch, *shape, generator=generator) for shape in config.latent_shapes))


def _relative(x: Tensor, y: Tensor) -> float:
    """|x - y| / |y|; 0 where there are no values, infinite for NaN."""
    return float(((x - y).norm() / y.norm()).nan_to_num(inf)) if y.numel() else 0.0


def _check_folder(folder: Path) -> None:
    """Refuse, before any work, a folder that cannot be written or holds something else."""
    if folder.is_file():
        raise NotADirectoryError(f"{folder}: is a file; name a folder")
    if (folder / CONFIG_FILE).exists() and not is_exported(folder):
        raise FileExistsError(f"{folder}: holds a {CONFIG_FILE} that is not of an export; choose another folder")
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    check_writable(folder / CONFIG_FILE if folder.is_dir() else folder)


def _write_config(exported: Exported, folder: Path) -> None:
    (folder / CONFIG_FILE).write_text(json.dumps(exported.to_dict(), indent=2) + "\n")


def _move(partial: Path, folder: Path) -> None:
    """Files of `partial` in place of those of an earlier export; without config.json, the last, the folder is not taken for one."""
    folder.mkdir(exist_ok=True)
    for path in (folder / CONFIG_FILE, *folder.glob("*coder.onnx*")):
        path.unlink(missing_ok=True)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == CONFIG_FILE):
        make_readable(path)
        os.replace(path, folder / path.name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter and the quantiser say of their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
