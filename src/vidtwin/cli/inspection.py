"""What a file or folder is: for the command line and for people with a file they were sent."""

from collections.abc import Mapping
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from vidtwin.data.sources import SUFFIXES
from vidtwin.files import in_line, plural
from vidtwin.generation.files import FACTS_FILE, shipped_generators
from vidtwin.generation.pipeline import VidTwinPipeline
from vidtwin.latent_sets.manifest import read_manifest, stored_bytes
from vidtwin.latent_sets.plan import Plan
from vidtwin.latents.file import KEY, LatentVideo
from vidtwin.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_config, shipped_names
from vidtwin.model.config import PRESETS, VidTwinConfig
from vidtwin.model.hub import RELEASED_SUFFIXES, HubOptions, find_weights, local, on_hub
from vidtwin.model.pretrained import config_facts
from vidtwin.model.released import position_tables, read_released, released_presets, released_shapes, unused_shapes
from vidtwin.onnx.model import Exported, is_exported
from vidtwin.video.read.reader import probe

Layout = Mapping[str, tuple[tuple[int, ...], str]]  # name -> shape, dtype


def describe(name: str | Path) -> dict[str, str]:
    """Facts about weights (ours, Microsoft's layout, or exported to ONNX), a generator, a latent file, a data set of latents or a
    video, as text.

    Raises:
        FileNotFoundError: no such file or name. ValueError: none of these.
    """
    path = Path(name)
    if is_exported(path):
        return _describe_exported(path)
    generator = local(name, HubOptions(), shipped_generators())
    if generator is not None and (generator / FACTS_FILE).is_file():
        return _describe_generator(generator)
    if (path / "manifest.json").is_file():
        return _describe_dataset(path)
    is_other = path.suffix.lower() in (*SUFFIXES, ".vidtwin")
    if str(name) in (*shipped_names(), *PRESETS) or path.is_dir() or (on_hub(name) and not is_other):
        path = find_weights(name)
    if path.is_dir():
        return _describe_folder(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{name}: no such file or folder; shipped weights: {', '.join(shipped_names() + shipped_generators())}"
        )
    if path.suffix == ".vidtwin":
        return LatentVideo.load(path).facts()
    if path.suffix == ".safetensors":
        layout, metadata = read_layout(path)
        if KEY in metadata:
            return LatentVideo.load(path).facts()
        if (folder := find_weights(path)).is_dir():
            return _describe_folder(folder)
        return _describe_released(path, layout)
    if path.suffix in RELEASED_SUFFIXES:
        layout = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in read_released(path).items()}
        return _describe_released(path, layout)
    return _describe_video(path)


def read_layout(path: Path) -> tuple[Layout, dict[str, str]]:
    """Names, shapes and dtypes of a safetensors file, and its metadata; reads the header only."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or cut short ({in_line(error)}); copy or download it again") from error


def _describe_folder(folder: Path) -> dict[str, str]:
    config = read_config(folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(f"{folder / WEIGHTS_FILE}: missing; a checkpoint folder holds {CONFIG_FILE} and {WEIGHTS_FILE}")
    layout, _ = read_layout(folder / WEIGHTS_FILE)
    return {"file": str(folder), "layout": "vidtwin folder"} | _facts(config, layout)


def _describe_exported(folder: Path) -> dict[str, str]:
    exported = Exported.read(folder)
    unit = "PSNR in dB" if exported.precision == "int8" else "relative L2"
    return {
        "file": str(folder),
        "layout": f"ONNX, opset {exported.opset}, {exported.precision}",
        "weights": str(exported.weights),
        "from torch": f"{unit}: encoder {exported.encoder:.3g}, decoder {exported.decoder:.3g}",
        **config_facts(exported.config),
        "config": _fields(exported.config),
    }


def _describe_generator(folder: Path) -> dict[str, str]:
    pipeline = VidTwinPipeline.from_pretrained(folder)
    config, process, names = pipeline.denoiser.config, pipeline.process, pipeline.classes
    return {
        "file": str(folder),
        "layout": "generator",
        "classes": f"{len(names)}: {in_line(', '.join(names), 100)}" if names else "none, it is unconditional",
        "process": process.method + (f", shift {process.shift:g}" if process.method == "flow" else ""),
        "parameters": f"{sum(p.numel() for p in pipeline.denoiser.parameters()):,}, {config.depth} blocks of {config.hidden}",
        "videos": f"{pipeline.fps:g} frames per second" + (", also longer than a window" if config.previous else ""),
        **config_facts(pipeline.autoencoder.config),
    }


def _describe_dataset(folder: Path) -> dict[str, str]:
    manifest = read_manifest(folder)
    plan = Plan.from_dict(manifest["plan"])
    rows, items, failures = (manifest[name] for name in ("rows", "items", "failures"))
    columns = in_line(", ".join(manifest["columns"]))
    return {
        "file": str(folder),
        "layout": f"data set of latents, {plural(len(manifest['files']), 'file')}",
        "rows": f"{rows:,} of {items:,} videos, {failures} that failed",
        "size": stored_bytes(rows, sum(file["bytes"] for file in manifest["files"])),
        "columns": columns or "none of the source's",
        "weights": str(plan.weights),
        "stored": plan.stored + (" with log-variances" if plan.logvar else ""),
        **config_facts(plan.config),
    }


def _describe_released(path: Path, layout: Layout) -> dict[str, str]:
    model = {name: value for name, value in layout.items() if not name.startswith("loss.")}
    config = infer_config({name: shape for name, (shape, _) in model.items()})
    if config is None:
        raise ValueError(f"{path}: holds tensors, but not those of a VidTwin in Microsoft's layout")
    aside = len(layout) - len(model)
    name = next((name for name, preset in PRESETS.items() if preset == config), "none; heads are not stored, 64 wide assumed")
    facts = {
        "file": str(path),
        "layout": f"released (Microsoft), {aside} loss.* tensors beside the model",
        "preset": name,
    }
    beside = unused_shapes(config).keys() | position_tables(config).keys()
    return facts | _facts(config, {name: value for name, value in model.items() if name not in beside})


def _facts(config: VidTwinConfig, layout: Layout) -> dict[str, str]:
    return {
        **config_facts(config),
        "parameters": f"{sum(prod(shape) for shape, _ in layout.values()):,}",
        "dtype": ", ".join(sorted({dtype.removeprefix("torch.") for _, dtype in layout.values()})),
        "config": _fields(config),
    }


def _fields(config: VidTwinConfig) -> str:
    return ", ".join(f"{key}={value}" for key, value in config.to_dict().items())


def _describe_video(path: Path) -> dict[str, str]:
    info = probe(path)
    return {
        "file": str(path),
        "layout": f"video, {info.codec}, {info.pixel_format}" + (", with audio" if info.has_audio else ""),
        "frames": f"{'not stated' if info.frames is None else info.frames} at {float(info.fps):g} per second",
        "size": f"{info.width}x{info.height} as displayed, rotation {info.rotation}",
        "duration": "not stated" if info.duration is None else f"{info.duration:.3f} s",
        "colour": f"{info.color_space}, {info.color_range} range",
    }


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> VidTwinConfig | None:
    """The config of a released layout from its shapes, or None if they are not of that layout.

    The number of attention heads leaves no trace in the shapes: it is taken from the preset of the same shapes, else hidden / 64.
    """
    for config in released_presets().values():
        if released_shapes(config) == dict(shapes):
            return config

    def count(prefix: str) -> int:
        return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})

    try:
        hidden, _, _, patch, _ = shapes["encoder.x_embedder.proj.weight"]
        side = round(shapes["encoder.pos_embed"][1] ** 0.5)
        num_queries, query_dim = shapes["temporal_qformer.query_embeds"]
        layer = "temporal_qformer.qformer.encoder.layer."
        config = VidTwinConfig(
            frames=shapes["encoder.pos_embed_temporal"][1],
            height=side * patch,
            width=side * patch,
            patch=patch,
            hidden=hidden,
            depth=count("encoder.blocks."),
            heads=max(1, hidden // 64),
            num_queries=num_queries,
            query_dim=query_dim,
            query_layers=count(layer),
            query_mlp=shapes[layer + "0.intermediate_query.dense.weight"][0],
            structure_channels=shapes["bottle_up.0.weight"][1],
            structure_width=shapes["conv_in.weight"][0],
            structure_downsamples=count("content_downsample_blocks."),
            dynamics_channels=shapes["motion_emb.0.weight"][1],
            dynamics_downsamples=count("downsample_motion_module."),
        )
    except (KeyError, ValueError, IndexError):
        return None
    return config if released_shapes(config) == dict(shapes) else None
