"""A trained generator with its autoencoder: classes and noise -> latents -> video.

`files.py` has the folder that `save_pretrained` writes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from vidtwin.generation.config import GUIDANCE
from vidtwin.generation.diffusion import STEPS, Process, sample
from vidtwin.generation.dit import DiT
from vidtwin.generation.files import Generator, find_generator, read_generator, write_generator
from vidtwin.generation.tokens import Volumes, to_latents, to_volumes
from vidtwin.model.hub import HubOptions, Pushed
from vidtwin.model.latents import Latents
from vidtwin.model.normalizer import Normalizer
from vidtwin.model.pretrained import as_device, as_dtype
from vidtwin.model.vidtwin import VidTwin

Labels = int | str | Sequence[int | str] | None
OutputType = Literal["np", "pt", "pil"]
Callback = Callable[["VidTwinPipeline", int, float, dict[str, Tensor]], dict[str, Tensor] | None]


@dataclass(frozen=True, eq=False)
class Generated:
    """Sampled videos.

    Attributes:
        videos: uint8 (B, F, H, W, 3), RGB.
        latents: of the windows of f frames that they are made of, one after another, each of a batch of B.
        output_type: what `frames` is.
    """

    videos: Tensor
    latents: tuple[Latents, ...]
    output_type: OutputType = "np"

    @cached_property
    def frames(self) -> Any:
        """The videos as pipelines of diffusers give them, in [0, 1]: "np" is a float32 array (B, F, H, W, 3), "pt" a tensor
        (B, F, 3, H, W), and "pil" a list of pictures for each video."""
        if self.output_type == "pil":
            return [[Image.fromarray(frame) for frame in video] for video in self.videos.numpy()]
        unit = self.videos.float() / 255
        return unit.numpy() if self.output_type == "np" else unit.permute(0, 1, 4, 2, 3)


class VidTwinPipeline(Pushed):
    """Samples videos, with the habits of a pipeline of diffusers.

        pipeline = VidTwinPipeline.from_pretrained("runs/generator/model").to("cuda", torch.bfloat16)
        made = pipeline(["red-east", "cyan-north"], generator=torch.Generator().manual_seed(0))
        diffusers.utils.export_to_video(made.frames[0], "out.mp4", fps=int(pipeline.fps))

    Attributes:
        autoencoder: decodes latents. denoiser: estimates them. process: which noise it takes away. normalizer: of the data set that
            it was trained on. classes: names, in the order of their numbers; empty for an unconditional generator.
        fps: frames per second of the videos.
        separate_levels: share of the clips in training whose latents had levels of their own; None if that is not known.

    Raises:
        ValueError: parts that do not fit each other.
    """

    def __init__(
        self,
        autoencoder: VidTwin,
        denoiser: DiT,
        process: Process,
        normalizer: Normalizer,
        classes: Sequence[str] = (),
        fps: float = 8.0,
        separate_levels: float | None = None,
    ):
        expected = denoiser.config.of_latents(autoencoder.config)
        if denoiser.config != expected:
            latents = denoiser.config.structure, denoiser.config.dynamics
            raise ValueError(
                f"the generator makes latents of {latents}, the autoencoder has {expected.structure, expected.dynamics}; "
                "give the one whose latents it was trained on"
            )
        if len(classes) != denoiser.config.classes:
            raise ValueError(f"{len(classes)} names for {denoiser.config.classes} classes: give one for each")
        self.autoencoder, self.denoiser = autoencoder.eval(), denoiser.eval()
        self.process, self.normalizer, self.classes, self.fps = process, normalizer, tuple(classes), fps
        self.separate_levels = separate_levels

    def to(self, *args: Any, **kwargs: Any) -> "VidTwinPipeline":
        """Both networks to a device, a dtype, or both, as `torch.nn.Module.to`."""
        self.autoencoder.to(*args, **kwargs)
        self.denoiser.to(*args, **kwargs)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser's weights."""
        return self.denoiser.dtype

    @property
    def components(self) -> dict[str, Any]:
        """What the pipeline is made of, by the names of its arguments."""
        return {name: getattr(self, name) for name in Generator._fields}

    def __call__(
        self,
        class_labels: Labels = None,
        *,
        num_videos: int = 1,
        num_videos_per_prompt: int = 1,
        num_frames: int | None = None,
        guidance_scale: float = GUIDANCE,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        num_inference_steps: int = 50,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        structure: Latents | None = None,
        dynamics: Latents | None = None,
        output_type: OutputType = "np",
        callback_on_step_end: Callback | None = None,
        progress: Callable[[int], object] = lambda done: None,
    ) -> Generated:
        """Videos of classes. Long for its arguments, which have a line or more each.

        Args:
            class_labels: names or numbers, one for each video, or one for all; None is no class, and no guidance then.
            num_videos: how many, if `class_labels` does not say. num_videos_per_prompt: of each of these.
            num_frames: of each; default a window, f. More are made window after window, each seeing the one before.
            guidance_scale: w of classifier-free guidance; 1 is none. guidance_interval: the noise levels at which there is any.
            num_inference_steps: from noise to latents.
            generator: of the noise, one for all videos or one for each; the noise of a video with its own does not depend on
                the others. Noise is drawn where the generator is: a CPU's gives the same videos on any device, but for rounding.
            structure, dynamics: latents of which Structure, or Dynamics, is kept, and the other one sampled: (B, ...) as
                `autoencoder.encode` gives.
            output_type: of `Generated.frames`: "np", "pt" or "pil".
            callback_on_step_end: called with the pipeline, the step's number, its time (0 to 1000) and {"latents": what is sampled,
                (B, n) flattened} after each step; if it gives such a dictionary, sampling goes on from the latents in it.
            progress: called with 1 after each step.

        Raises:
            ValueError: a class that there is not; counts that do not fit; both latents given; more frames than a window for a
                generator that was not trained to go on; a latent given to one that was not trained to sample the other for it.
        """
        given = structure if structure is not None else dynamics
        if num_videos_per_prompt < 1:
            raise ValueError(f"num_videos_per_prompt={num_videos_per_prompt}: give at least 1")
        if output_type not in ("np", "pt", "pil"):
            raise ValueError(f"output_type={output_type!r}: choose 'np', 'pt' or 'pil'; .latents has the latents of any")
        labels = self._labels(class_labels, num_videos if given is None else len(given) // num_videos_per_prompt)
        labels = labels.repeat_interleave(num_videos_per_prompt)
        count = len(labels)
        windows = self._windows(num_frames, given)
        if isinstance(generator, Sequence) and len(generator) != count:
            raise ValueError(f"{len(generator)} generators for {count} videos: give one for each, or one")

        def after_step(number: int, level: float, x: Tensor) -> Tensor:
            changed = callback_on_step_end and callback_on_step_end(self, number, STEPS * level, {"latents": x})
            progress(1)
            return changed["latents"] if changed else x

        plain = self._sampled(
            windows,
            labels,
            generator,
            steps=num_inference_steps,
            guidance=1.0 if class_labels is None else guidance_scale,
            interval=guidance_interval,
            given=self._kept(structure, dynamics, count),
            after_step=after_step,
        )
        clips = torch.cat([self.decode(latents) for latents in plain], dim=1)
        return Generated(clips[:, :num_frames], plain, output_type)

    def _sampled(
        self, windows: int, labels: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None, **options: Any
    ) -> tuple[Latents, ...]:
        """The latents of window after window, each seeing the one before; `options` are those of `sample`."""
        previous: Volumes | None = None
        found = []
        with torch.inference_mode():
            for _ in range(windows):
                noise = self._noise(len(labels), generator)
                previous = sample(self.denoiser, self.process, noise, labels, previous=previous, **options)
                found.append(self.normalizer.denormalize(to_latents(previous, self.denoiser.config.dynamics[2])))
        return tuple(latents.map(torch.clone) for latents in found)  # tensors of inference mode cannot be trained on

    def _windows(self, num_frames: int | None, given: Latents | None) -> int:
        """How many windows so many frames take; ValueError for what this generator cannot make."""
        f = self.autoencoder.config.frames
        windows = -(-(f if num_frames is None else num_frames) // f)
        if windows < 1:
            raise ValueError(f"num_frames={num_frames}: give at least 1")
        if windows > 1 and not self.denoiser.config.previous:
            raise ValueError(f"num_frames={num_frames}: this generator makes {f}; train one with previous: true for more")
        if windows > 1 and given is not None:
            raise ValueError(f"num_frames={num_frames}: a given structure or dynamics is of one window of {f} frames")
        return windows

    def check_given(self, part: str) -> None:
        """Raise a ValueError if this generator cannot sample one latent for a given "structure", or "dynamics"."""
        if self.separate_levels == 0:
            other = "Dynamics" if part == "structure" else "Structure"
            raise ValueError(
                f"{part}: this generator cannot sample {other} for a given {part.title()}, having been trained with "
                "separate_levels: 0; train one with separate_levels above 0"
            )

    @torch.inference_mode()
    def decode(self, latents: Latents) -> Tensor:
        """uint8 (B, f, H, W, 3), one clip at a time."""
        latents = latents.to(self.autoencoder.dtype)
        clips = [self.autoencoder.decode(latents[i : i + 1])[0].float() for i in range(len(latents))]
        return torch.stack([((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0) for x in clips]).cpu()

    def _labels(self, wanted: Labels, count: int) -> Tensor:
        """Numbers (B,) of classes; that of no class where there is none."""
        if wanted is None:
            return torch.full((count,), len(self.classes), device=self.device)
        if isinstance(wanted, int | str):
            wanted = [wanted] * count
        numbers = []
        for label in wanted:
            number = self.classes.index(label) if isinstance(label, str) and label in self.classes else label
            if not isinstance(number, int) or not 0 <= number < len(self.classes):
                known = ", ".join(self.classes[:40]) or "none; it is unconditional"
                raise ValueError(f"class {label!r}: the generator does not know it; its classes are {known}")
            numbers.append(number)
        return torch.tensor(numbers, device=self.device)

    def _kept(self, structure: Latents | None, dynamics: Latents | None, count: int) -> tuple[Tensor | None, Tensor | None]:
        """Clean volumes of the given latents, for so many videos."""
        kept: list[Tensor | None] = [None, None]
        for i, (name, latents) in enumerate((("structure", structure), ("dynamics", dynamics))):
            if latents is None:
                continue
            if len(latents) != count:
                raise ValueError(f"{name} of {len(latents)} clips for {count} videos: give one for each")
            self.check_given(name)
            kept[i] = to_volumes(self.normalizer.normalize(latents.to(self.device)))[i]
        return kept[0], kept[1]

    def _noise(self, count: int, generator: torch.Generator | Sequence[torch.Generator] | None) -> Volumes:
        """eps for both latents; drawn video by video if each has its generator."""
        shapes = [(p.channels, *p.sides) for p in self.denoiser.patches]

        def draw(rows: int, one: torch.Generator | None) -> list[Tensor]:
            place = torch.device("cpu") if one is None else one.device
            return [torch.randn(rows, *shape, generator=one, device=place).to(self.device) for shape in shapes]

        if not isinstance(generator, Sequence):
            structure, dynamics = draw(count, generator)
        else:
            structure, dynamics = (torch.cat(parts) for parts in zip(*(draw(1, one) for one in generator), strict=True))
        return structure, dynamics

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        figures: Mapping[str, object] | None = None,
        name: str | None = None,
    ) -> None:
        """Write the folder; `dtype` is that of the stored matrices and kernels, of both networks (loading gives float32 again).

        A README.md (model card) that is there is kept; `figures` and `name` are its, as in `VidTwin.save_pretrained`.

        Raises:
            ValueError: weights that are not finite in `dtype`; figures for a card that is kept.
            OSError: the folder cannot be written, or the disk is full.
        """
        write_generator(Generator(**self.components), Path(folder), dtype, figures, name)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        **hub_options: Any,
    ) -> "VidTwinPipeline":
        """A shipped generator by its name, or what `save_pretrained` wrote: a folder, or a hub repository by its id ("owner/name").

        In float32 on the CPU if nothing else is asked for; the options are those of `VidTwin.from_pretrained`.

        Raises:
            FileNotFoundError: no such folder, a file of it is missing, or the hub did not give it.
            ValueError: a damaged one, or of another format. TypeError: an unknown option.
        """
        options, kind = HubOptions.of(hub_options), as_dtype(dtype, torch_dtype)
        place = None if device is None else as_device(device)
        return cls(**read_generator(find_generator(name, options))._asdict()).to(place, kind)
