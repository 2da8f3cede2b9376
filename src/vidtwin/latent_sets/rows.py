"""Windows as rows of a table, and back.

Letters: f frames of a window; N windows; C channels of a latent, P values in all.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vidtwin.frames.clips import Geometry
from vidtwin.latent_sets.plan import Plan
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import NAMES, Latents

if TYPE_CHECKING:  # it brings the video library, which reading does without
    from vidtwin.latent_sets.items import Columns, Content, Item

LEVELS = 127  # of int8, to each side


def needs_pyarrow() -> Any:
    """The module, imported when it is used. Raises ValueError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError("data sets of latents need the package pyarrow: pip install 'vidtwin[dataset]'") from None
    return pyarrow


@dataclass(frozen=True)
class Encoded:
    """A window, as it is stored: its anchor, the numbers of its frames in the recording and when these are shown, in seconds from
    the recording's first; how many are not repeats; posterior means, and log-variances or None, of a batch of one."""

    anchor: int
    numbers: tuple[int, ...]
    times: tuple[float, ...]
    valid: int
    mean: Latents
    logvar: Latents | None


def latent_fields(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Names of the columns with values and their shapes (C, ...)."""
    shapes = dict(zip(NAMES, plan.config.latent_shapes, strict=True))
    return shapes | ({f"{name}_logvar": shape for name, shape in shapes.items()} if plan.logvar else {})


def schema(plan: Plan, columns: "Columns" = ()) -> Any:
    """The Arrow schema of the rows of a plan; `columns` are carried over, with any values of their types."""
    pa = needs_pyarrow()
    f, kinds = plan.config.frames, {int: pa.int64(), float: pa.float64(), str: pa.string()}
    fields = [
        ("video", pa.string()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("start", pa.int64()),
        ("frame_index", pa.int64()),
        ("frames", pa.list_(pa.int64(), f)),
        ("times", pa.list_(pa.float64(), f)),
        ("valid", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("fps", pa.float64()),
        ("geometry", pa.string()),
    ]
    taken = {name for name, _ in fields} | {f"{name}{end}" for name in NAMES for end in ("", "_logvar", "_scale")}
    for name, value in columns:
        if name in taken:
            raise ValueError(f"column {name!r} of the source has a reserved name, or appears twice; rename it")
        taken.add(name)
        fields.append((name, kinds[type(value)]))
    kind = {"float16": pa.float16(), "float32": pa.float32(), "int8": pa.int8()}[plan.stored]
    for name, shape in latent_fields(plan).items():
        fields.append((name, pa.list_(kind, prod(shape))))
        if plan.stored == "int8":
            fields.append((f"{name}_scale", pa.list_(pa.float32(), shape[0])))
    return pa.schema(fields)


def table(
    plan: Plan,
    item: "Item",
    content: "Content",
    size: tuple[int, int],
    fps: Fraction,
    geometry: Geometry,
    windows: Sequence[Encoded],
) -> Any:
    """The rows of an item: an Arrow table. size: (height, width) of the source's frames."""
    pa, count = needs_pyarrow(), len(windows)
    same: dict[str, Any] = {
        "video": item.video,
        "size": content.size,
        "sha256": content.sha256,
        "start": item.start,
        "height": size[0],
        "width": size[1],
        "fps": float(fps),
        "geometry": json.dumps(geometry.to_dict(), sort_keys=True),
        **dict(item.columns),
    }
    arrays: dict[str, Any] = {name: [value] * count for name, value in same.items()}
    arrays["frame_index"] = [window.anchor for window in windows]
    arrays["frames"] = [window.numbers for window in windows]
    arrays["times"] = [window.times for window in windows]
    arrays["valid"] = [window.valid for window in windows]
    wanted = schema(plan, item.columns)
    for part, suffix in (("mean", ""), ("logvar", "_logvar")) if plan.logvar else (("mean", ""),):
        latents = Latents.cat([getattr(window, part) for window in windows])
        for name, tensor in zip(NAMES, latents.tensors, strict=True):
            stored, scale = pack(tensor.numpy(), plan.stored)
            for column, values in ((f"{name}{suffix}", stored), (f"{name}{suffix}_scale", scale)):
                if values is not None:
                    arrays[column] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), prod(values.shape[1:]))
    return pa.table(
        [
            pa.array(arrays[field.name], field.type) if isinstance(arrays[field.name], list) else arrays[field.name]
            for field in wanted
        ],
        schema=wanted,
    )


def pack(values: np.ndarray, stored: str) -> tuple[np.ndarray, np.ndarray | None]:
    """float32 (N, C, ...) as it is stored, and for int8 the steps, float32 (N, C). Raises ValueError beyond float16's range."""
    if stored == "float32":
        return values, None
    if stored == "float16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise ValueError(f"latents of up to {np.abs(values).max():.3g} do not fit float16; use stored='float32'")
        return half, None
    flat = values.reshape(*values.shape[:2], -1)
    step = np.maximum(np.abs(flat).max(2) / np.float32(LEVELS), np.float32(1e-30)).astype(np.float32)
    return np.clip(np.rint(flat / step[:, :, None]), -LEVELS, LEVELS).astype(np.int8).reshape(values.shape), step


def unpack(columns: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 (N, *shape) of the column `name` of (N, P) values, and where there is one of its steps (N, C)."""
    values = columns[name].reshape(-1, *shape).astype(np.float32)
    step = columns.get(f"{name}_scale")
    return values if step is None else values * step.reshape(*step.shape, *[1] * (len(shape) - 1))


def columns_of(batch: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of an Arrow table or batch as arrays, lists of one length as (N, length), without copying numbers where it can be."""
    found = {}
    for name in names:
        column = batch.column(name)
        array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
        if hasattr(array.type, "list_size"):
            found[name] = array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
        else:
            found[name] = array.to_numpy(zero_copy_only=False)
    return found


def latents_in(batch: Any, config: VidTwinConfig, suffix: str = "") -> Latents:
    """The latents of rows, float32 (N, ...)."""
    present = set(batch.schema.names)
    names = [f"{name}{suffix}" for name in NAMES]
    columns = columns_of(batch, [name for name in (*names, *(f"{name}_scale" for name in names)) if name in present])
    tensors = (unpack(columns, name, shape) for name, shape in zip(names, config.latent_shapes, strict=True))
    return Latents(*(torch.from_numpy(np.ascontiguousarray(tensor)) for tensor in tensors))
