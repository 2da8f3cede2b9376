"""The Dynamics latent of videos as a motion feature for policies and world models: the same numbers offline and live.

Letters: B batch, T source frames, F frames of a clip, (H, W) a source frame's size; layouts in `layouts`.
"""

import copy
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from vidtwin.frames.clips import Geometry, chunks
from vidtwin.model.checkpoint import shipped_names, weights_hash
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import Latents, Posterior
from vidtwin.model.loading import load_weights
from vidtwin.model.pretrained import as_device
from vidtwin.model.vidtwin import VidTwin
from vidtwin.motion.frames import FRAME_RULES, Windows, check_choice, check_count, frame_indices
from vidtwin.motion.inputs import Frames, as_episode, as_frames, as_videos, bar, to_unit
from vidtwin.motion.layouts import Dynamics, check_layout, motion_shape, pack, unpack
from vidtwin.motion.presets import PRESETS, RESIZES, plan, resized
from vidtwin.motion.record import describe_differences, make_record, read_record
from vidtwin.motion.weights import name_of, own_copy, read_dynamics, read_moments

if TYPE_CHECKING:
    from vidtwin.motion.plot import MotionPlot

DTYPES = ("float32", "bfloat16", "float16")

Video = Any  # a tensor, an array; a path or a `data.recording.Recording`, which is not imported for the sake of the video library
Order5 = Literal["BTCHW", "BCTHW", "BTHWC"]
Motion = Tensor | Dynamics


class MotionExtractor:
    """Videos of any length and size -> posterior means of z_D, in a layout; frozen, and deterministic.

    A video is uint8 in 0..255, or floating in [0, 1] (`value_range="unit"`, the default) or in [-1, 1] ("symmetric"), values being
    allowed to reach 0.001 beyond. Its axes are named by `order`; left out, they are recognised if exactly one of the axes that may
    hold the colours has size 3, and refused otherwise. Or it is a path, or a `Recording` of `data.sources.recordings`, an episode
    of a LeRobot data set for one, of which only the frames of a window are in memory. What comes back is float32, on the device
    of the video (else on the CPU), without gradients, and not changed by an autocast around the call.

    Args:
        weights: a `VidTwin` in float32, of which a copy is taken, or a name as `load_weights` takes it.
        layout: "cowvla" (2 d f n,), "per_frame" (f, 2 d n), "xy" (d f (w + h),) or "raw", the pair `Dynamics(x, y)`.
        frames: how F frames are chosen from T: "floor" or "round" of F even steps from the first to the last, or "stride",
            every n-th from the first.
        resize: "crop" (shorter side to the model's, bilinear with antialias, centre kept), "squash" (stretched) or "pad" (black
            bars), the pixels of `frames.clips.to_clip`; or "crop-round" or "squash-plain", as `motion.presets` says.
        config: of weights in Microsoft's layout, as `load_weights`.
        device: where frames are resized and the model runs.
        dtype: of the model's weights and activations. A clip whose latent is not finite in a lower one is encoded in float32,
            whose weights are kept, and one warning says so.
        batch_size: clips that go through the model at once. With 1 a clip's numbers do not depend on what else is encoded; with
            more it is faster on a GPU, and they do up to rounding.
        stride: n of frames="stride"; None is the largest that fits into T.

    Raises:
        FileNotFoundError, ValueError: an option, weights or a video that does not do; one line that names the remedy.
    """

    def __init__(
        self,
        weights: VidTwin | str | Path,
        layout: Literal["cowvla", "per_frame", "xy", "raw"] = "cowvla",
        frames: Literal["floor", "round", "stride"] = "floor",
        resize: Literal["crop", "squash", "pad", "crop-round", "squash-plain"] = "crop",
        *,
        config: str | VidTwinConfig = "auto",
        device: str | torch.device = "cpu",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        batch_size: int = 1,
        stride: int | None = None,
    ):
        check_choice("frames", frames, FRAME_RULES)
        check_choice("resize", resize, RESIZES)
        check_choice("dtype", dtype, DTYPES)
        check_count("batch_size", batch_size)
        if stride is not None:
            check_count("stride", stride)
            if frames != "stride":
                raise ValueError(f"stride={stride}: is of frames='stride', not of frames={frames!r}; leave it out")
        self.layout, self.frames, self.resize, self.stride = layout, frames, resize, stride
        self.dtype, self.batch_size, self.device = dtype, batch_size, as_device(device)
        model = own_copy(weights) if isinstance(weights, VidTwin) else load_weights(weights, config)
        check_layout(layout, model.config)
        self.config = model.config
        self.weights_name, self.weights_hash = name_of(weights), weights_hash(model)  # of float32
        self.model = model.eval().requires_grad_(False).to(self.device)
        self._cast = self.model if dtype == "float32" else copy.deepcopy(self.model).to(getattr(torch, dtype))
        self._warned = False

    @classmethod
    def preset(cls, name: Literal["cowvla", "smolw", "dialga"], weights: VidTwin | str | Path, **options: Any) -> "MotionExtractor":
        """The extractor that gives the numbers of a known user of VidTwin; `options` are those of the class, and come first.

        Raises:
            ValueError: another name; else as the class says.
        """
        check_choice("name", name, tuple(PRESETS))
        return cls(weights, **PRESETS[name] | options)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in ("layout", "frames", "resize", "dtype"))
        weights = f"weights {self.weights_name!r} ({self.weights_hash[:12]})"
        return f"MotionExtractor({weights}, {options}, {self.size} values {self.shape} a clip of {self.config.frames} frames)"

    @property
    def shape(self) -> tuple[Any, ...]:
        """Of a clip's motion latent, without the batch axis; for "raw" the shapes of x and of y."""
        return motion_shape(self.layout, self.config)

    @property
    def size(self) -> int:
        """Numbers in a clip's motion latent: d f (w + h), 1792 for the released config."""
        return prod(self.config.dynamics_x_shape) + prod(self.config.dynamics_y_shape)

    def __call__(
        self, video: Video, order: Order5 | None = None, value_range: Literal["unit", "symmetric"] | None = None
    ) -> Motion:
        """Videos (B, T, 3, H, W), (B, 3, T, H, W) or (B, T, H, W, 3), or one path (B = 1) -> (B, *shape), or for "raw"
        `Dynamics` of x (B, d, f, w) and y (B, d, f, h)."""
        videos = as_videos(video, order, value_range)
        return self._motion(self._clips(videos, value_range), videos[0].device)

    def posterior(
        self, video: Video, order: Order5 | None = None, value_range: Literal["unit", "symmetric"] | None = None
    ) -> Posterior:
        """q(z_S, z_D | x) of the same clips, float32, Structure included; its mean is what the call itself lays out."""
        videos = as_videos(video, order, value_range)
        tensors = self._encode(self._clips(videos, value_range), read_moments)
        return Posterior(Latents(*tensors[:3]), Latents(*tensors[3:])).to(videos[0].device)

    def episode(
        self,
        video: Video,
        window: int | None = None,
        stride: int = 1,
        padding: Literal["edge", "drop"] = "edge",
        align: Literal["past", "center", "future", "next"] = "past",
        order: Literal["TCHW", "CTHW", "THWC"] | None = None,
        value_range: Literal["unit", "symmetric"] | None = None,
    ) -> Motion:
        """A motion latent for each of N steps of an episode (T, 3, H, W), (3, T, H, W) or (T, H, W, 3), or a file:
        (N, ...), of the layout's shape. A bar shows how far it is, if it takes longer than two seconds.

        `window` source frames (default F) around each of the steps 0, stride, 2 stride, ... are a video of their own, of which
        `frames` chooses F; `Windows` says which, and `Windows(...).over(T)` gives the steps. Each frame is resized once.

        Raises:
            ValueError: as the class says; or padding="drop" and an episode shorter than its windows.
        """
        windows = self._windows(window, stride, padding, align)
        frames = as_episode(video, windows.window, order, value_range)
        steps = windows.over(len(frames))
        if not steps:
            raise ValueError(f"window={windows.window}: the episode has {len(frames)} frames; shorten it or use padding='edge'")
        geometry, chosen = self._geometry(frames), self._chosen(windows.window)

        def clips() -> Iterable[Tensor]:
            fitted: dict[int, Tensor] = {}  # frames that a later window may show
            for places in bar(steps.values(), "window"):
                fitted = {place: frame for place, frame in fitted.items() if place >= places[0]}
                shown = [places[index] for index in chosen]
                for place in shown:
                    if place not in fitted:
                        fitted[place] = self._fit(frames[place], geometry, value_range)
                yield torch.stack([fitted[place] for place in shown], dim=1)

        return self._motion(clips(), frames.device)

    def plot(self, video: Video, motion: Motion | None = None, frames: int = 8, **episode: Any) -> "MotionPlot":
        """A figure of an episode: `frames` of its frames, and below them, over time, the norm and the first three principal
        components of its motion latents. `motion`: what `episode(video, **episode)` gave, if it is there already.

        Raises:
            ValueError: as `episode`; latents of another number of steps; matplotlib is not installed.
        """
        from vidtwin.motion.plot import plot_episode

        return plot_episode(self, video, motion, frames, **episode)

    def live(
        self,
        window: int | None = None,
        stride: int = 1,
        padding: Literal["edge", "drop"] = "edge",
        align: Literal["past"] = "past",
    ) -> "MotionStream":
        """`episode` of frames that come one at a time: `push` each; the numbers are the same (with batch_size=1).

        Raises:
            ValueError: as `Windows`; or another `align` than "past".
        """
        if align != "past":
            raise ValueError(f"align={align!r}: a live stream has not seen the future; use 'past'")
        return MotionStream(self, self._windows(window, stride, padding, align))

    def unpack(self, motion: Motion) -> Dynamics:
        """x (B, d, f, w) and y (B, d, f, h) of what the extractor gave, as `VidTwin.decode` takes them."""
        return unpack(motion, self.layout, self.config)

    def record(self, **episode: Any) -> dict[str, Any]:
        """Everything that decides the numbers, as JSON holds it; keep it beside every cache.

        `episode`: window, stride, padding and align of a cache that `episode` made; kept, with the defaults of those left out,
        under "episode", from where `episode(video, **record["episode"])` and `live(**record["episode"])` take them.
        """
        windows = asdict(self._windows(**episode)) if episode else None
        options = {name: getattr(self, name) for name in ("layout", "frames", "stride", "resize", "dtype", "batch_size")}
        return make_record((self.weights_name, self.weights_hash), self.config, self.device, list(self.shape), options, windows)

    @classmethod
    def from_record(
        cls,
        record: dict[str, Any],
        weights: VidTwin | str | Path | None = None,
        *,
        config: str | VidTwinConfig = "auto",
        device: str | torch.device | None = None,
    ) -> "MotionExtractor":
        """The extractor that made a record, on the record's kind of device unless another is named.

        A record loads nothing but shipped weights: for others give `weights`, as the class takes them. Nothing else differs, but
        `check` says whether torch and the device do.

        Raises:
            ValueError: not a record; weights that it does not name as shipped and that are not given, or of another hash.
        """
        options = read_record(record)
        name, expected = record["weights"]["name"], record["weights"]["hash"]
        if weights is None:
            if name not in shipped_names():
                raise ValueError(f"weights={name!r}: a record loads shipped weights only; give from_record(record, weights=...)")
            weights = name
        extractor = cls(weights, **options, config=config, device=record["device"] if device is None else device)
        if extractor.weights_hash != expected:
            found = f"{extractor.weights_name!r} of hash {extractor.weights_hash[:12]}"
            raise ValueError(f"weights {found}: the record is of {name!r} ({expected[:12]}); give weights= of that hash")
        return extractor

    def check(self, record: dict[str, Any], exact: bool = True, **episode: Any) -> None:
        """Refuse a record of a cache that this extractor would not make, bit for bit; `exact=False`: up to rounding.

        `episode` as for `record`. Not compared: the weights' name, and what a record does not know (the CPU or GPU model,
        the number of threads).

        Raises:
            ValueError: not a record, or one line that names the fields that differ.
        """
        read_record(record)
        if differences := describe_differences(record, self.record(**episode), exact):
            raise ValueError(f"record does not fit this extractor: {differences}; encode again or use from_record")

    def _windows(self, window: int | None = None, stride: int = 1, padding: Any = "edge", align: Any = "past") -> Windows:
        return Windows(self.config.frames if window is None else window, stride, padding, align)

    def _chosen(self, length: int) -> list[int]:
        return frame_indices(length, self.config.frames, self.frames, self.stride)

    def _geometry(self, frames: Frames) -> Geometry:
        height, width = frames.shape[-2:]
        return plan(self.resize, (height, width), (self.config.height, self.config.width))

    def _fit(self, frame: Tensor, geometry: Geometry, value_range: str | None) -> Tensor:
        """Frame (3, H, W) as it came -> (3, h, w) in [-1, 1] on the extractor's device; a frame at a time, so as in any batch."""
        return resized(to_unit(frame.to(self.device), value_range), self.resize, geometry)

    def _clips(self, videos: Sequence[Frames], value_range: str | None) -> Iterable[Tensor]:
        """B videos of T frames (3, H, W) -> clips (3, F, h, w) in [-1, 1]."""
        geometry, chosen = self._geometry(videos[0]), self._chosen(len(videos[0]))
        for video in bar(videos, "video"):
            fitted = {place: self._fit(video[place], geometry, value_range) for place in dict.fromkeys(chosen)}
            yield torch.stack([fitted[place] for place in chosen], dim=1)

    def _motion(self, clips: Iterable[Tensor], device: torch.device) -> Motion:
        x, y = (half.to(device) for half in self._encode(clips, read_dynamics))
        return pack(x, y, self.layout)

    def _encode(self, clips: Iterable[Tensor], read: Callable[[VidTwin, Tensor], list[Tensor]]) -> list[Tensor]:
        """What `read` gives for all clips, float32; contiguous clips, since the strides of a tensor can change its rounding."""
        parts = []
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for batch in chunks(clips, self.batch_size):
                x = torch.stack(batch).contiguous()
                values = [tensor.float() for tensor in read(self._cast, x.to(getattr(torch, self.dtype)))]
                finite = torch.stack([tensor.isfinite().flatten(1).all(1) for tensor in values]).all(0)
                for index in (~finite).nonzero().flatten().tolist():
                    self._again_in_float32(values, index, read(self.model, x[index : index + 1]))
                parts.append(values)
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]

    def _again_in_float32(self, values: list[Tensor], index: int, again: list[Tensor]) -> None:
        if not all(tensor.isfinite().all() for tensor in again):
            raise ValueError("the latent of a clip has NaN or infinite values in float32: the weights are broken; use others")
        for tensor, row in zip(values, again, strict=True):
            tensor[index] = row[0]
        if not self._warned:
            warnings.warn(f"dtype={self.dtype!r}: a latent is not finite; such clips are encoded in float32", stacklevel=5)
            self._warned = True


class MotionStream:
    """Motion latents of frames as they come, for a policy at run time; made by `MotionExtractor.live`."""

    def __init__(self, extractor: MotionExtractor, windows: Windows):
        self.extractor, self.windows = extractor, windows
        self._chosen = extractor._chosen(windows.window)
        self.reset()

    def reset(self) -> None:
        """Forget all frames: the next one is step 0 of another episode, of any size."""
        self._step = 0
        self._geometry: Geometry | None = None
        self._seen: deque[Tensor] = deque(maxlen=self.windows.window)  # resized

    def push(self, frame: Video, value_range: Literal["unit", "symmetric"] | None = None) -> Motion | None:
        """The next frame (3, H, W) or (H, W, 3) -> the latent of its step, of `extractor.shape`; None where `episode` has none.

        Raises:
            ValueError: as `MotionExtractor`; or a frame of another size than those before it, which is then not counted.
        """
        pixels = as_frames(frame, 3, None, value_range)
        geometry = self.extractor._geometry(pixels)
        if self._geometry not in (None, geometry):
            height, width = pixels.shape[-2:]
            raise ValueError(f"frame of size {width}x{height}: the frames before it have another; call reset() between episodes")
        self._geometry = geometry
        self._seen.append(self.extractor._fit(pixels, geometry, value_range))
        step, self._step = self._step, self._step + 1
        missing = self.windows.window - len(self._seen)
        if step % self.windows.stride or (missing and self.windows.padding == "drop"):
            return None
        shown = [self._seen[max(0, index - missing)] for index in self._chosen]
        motion = self.extractor._motion([torch.stack(shown, dim=1)], pixels.device)
        return motion[0] if isinstance(motion, Tensor) else Dynamics(motion.x[0], motion.y[0])
