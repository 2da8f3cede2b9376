"""Commands on weights: info, convert, export, benchmark."""

import sys
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm
from tyro.conf import Positional

from vidtwin import export_released
from vidtwin.cli.options import (
    SAMPLE,
    Device,
    Dtype,
    Output,
    UsageError,
    check_output,
    check_result,
    device_of,
    public_name,
)
from vidtwin.files import printable, write_json
from vidtwin.inference.engine import Engine
from vidtwin.latents.stream import Identity
from vidtwin.model.checkpoint import weights_hash
from vidtwin.model.hub import RELEASED_SUFFIXES
from vidtwin.model.loading import load_weights


def info_command(file: Positional[str]) -> None:
    """Describe a checkpoint, generator, latent file, data set of latents or video.

    Args:
        file: a shipped name, a hub id, a checkpoint folder, an exported model, a file in Microsoft's layout, the folder of a
            generator or of a data set of latents, a latent file or a video.
    """
    from vidtwin.cli.inspection import describe

    for name, value in describe(file).items():
        print(f"{name:14}{printable(value)}")


def convert_command(
    input: Positional[str],
    out: Output,
    config: str = "auto",
    dtype: Dtype = "float32",
    card_figures: Path | None = None,
) -> None:
    """Convert weights between our folders and Microsoft's layout; the output's name decides the direction.

    Args:
        input: a shipped name, a checkpoint folder, a hub id, or a file in Microsoft's layout.
        out: a .ckpt or .safetensors file (Microsoft's layout), or the name of a folder to make (ours).
        config: for a file in Microsoft's layout: a preset, or a config.json; auto is the preset that fits.
        dtype: dtype of the tensors in our folder.
        card_figures: a result of `vidtwin evaluate` for these weights, for the model card in our folder.
    """
    if out.suffix in RELEASED_SUFFIXES:
        if dtype != "float32":
            raise UsageError(f"--dtype {dtype}: files in Microsoft's layout hold float32; convert to a folder, or leave it out")
        if card_figures is not None:
            raise UsageError("--card-figures: a file in Microsoft's layout has no model card; convert to a folder, or leave it out")
        check_output(out, Path(input))
        model = load_weights(input, config)
        export_released(model, out)
    else:
        if out.is_file():
            raise UsageError(f"{out}: is a file; name a folder, or a .ckpt or .safetensors file")
        model = load_weights(input, config)
        figures = None
        if card_figures is not None:
            from vidtwin.evaluation import compare

            figures = compare.card_figures(card_figures, weights_hash(model))
        model.save_pretrained(out, dtype=getattr(torch, dtype), figures=figures)
        if lost := sum(name.startswith("loss.") for name in model.set_aside):
            print(f"vidtwin: note: {lost} weights of losses (loss.*) left out; a folder holds the model alone", file=sys.stderr)
    print(f"{out}: {model.num_parameters():,} parameters")


def export_command(
    out: Output,
    weights: str = "tiny",
    config: str = "auto",
    quantize: Literal["int8"] | None = None,
) -> None:
    """Export weights to ONNX, encoder.onnx and decoder.onnx in a folder, and check them against torch; --backend onnx runs it.

    Args:
        out: name of the folder; an earlier export in it is replaced.
        weights: a shipped name, a checkpoint folder, a hub id (owner/name or owner/name/x.ckpt), a file in Microsoft's layout, or
            released: Microsoft's checkpoint, from the hub.
        config: for a file in Microsoft's layout: a preset, or a config.json; auto is the preset that fits.
        quantize: int8 stores linear layers as integers and computes with them: smaller, with slightly other results.
    """
    from vidtwin.onnx.export import export_onnx

    model = load_weights(weights, config)
    print(export_onnx(model, out, quantize=quantize, weights=Identity.of(model, public_name(weights))).table())
    print(f"{'written':14}{out}")


def benchmark_command(
    models: Positional[tuple[str, ...]] = ("tiny",),
    dtypes: tuple[Dtype, ...] = ("float32",),
    batches: tuple[int, ...] = (1, 2),
    repeats: int = 5,
    train: bool = False,
    compile: bool = False,
    video: Path | None = None,
    device: Device = "auto",
    json_out: Path | None = None,
) -> None:
    """Measure how fast models run here, beside the machine's limit: the rate of a large matrix product in the same dtype.

    Also what --dtype auto chooses here, and why.

    Args:
        models: presets (random weights), shipped names, checkpoint folders or files.
        dtypes: of weights and activations.
        batches: clips at a time.
        repeats: calls of each step, of which the median is printed; fewer if they take over half a minute.
        train: also training steps, with and without gradient checkpointing.
        compile: compile the models' blocks first.
        video: also measure each stage of reconstructing (500 frames of) this video with the first of the models.
        device: auto is cuda if there is one, else cpu.
        json_out: also write everything to this file, updated after each row.
    """
    from vidtwin.benchmark import INFERENCE, STEPS, Row, Split, automatic, measure, split, table
    from vidtwin.model.config import PRESETS, preset
    from vidtwin.model.vidtwin import VidTwin

    if json_out is not None:
        check_result(json_out)
    place = device_of(device)
    rows: list[Row] = []
    chosen: dict[str, list[str]] = {}
    parts: Split | None = None

    def save() -> None:
        if json_out is not None:
            found = {"rows": [row.to_dict() for row in rows], "auto": chosen, "video": parts and parts.to_dict()}
            write_json(json_out, found)

    steps = STEPS if train else INFERENCE
    with tqdm(total=len(models) * len(dtypes) * len(batches) * len(steps), unit="row", leave=False, disable=None) as progress:
        for number, name in enumerate(models):
            model = (VidTwin(preset(name)) if name in PRESETS else load_weights(name)).to(place)
            if video is not None and number == 0:
                parts = split(Engine(model, compile=compile), video)
            chosen[name] = automatic(model, video or SAMPLE)
            for dtype in dtypes:
                for batch in batches:
                    for row in measure(model, name, getattr(torch, dtype), batch, repeats, steps, compile):
                        rows.append(row)
                        progress.update()
                        save()
    print(table(rows))
    for name, lines in chosen.items():
        print(f"\n--dtype auto, {name}: " + "; ".join(lines))
    if parts is not None:
        print(f"\n{video}, {models[0]}\n{parts.table()}")
    save()
