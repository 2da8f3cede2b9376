"""A trained generator with its autoencoder: classes and noise -> latents -> video.

A folder that `save_pretrained` writes holds `generator.json` (process, denoiser, classes, frame rate), `generator.safetensors`
(weights of the denoiser, statistics of the latents) and `autoencoder/`, a checkpoint as `VidTwin.from_pretrained` reads it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vidtwin.checked import build, parse_json
from vidtwin.files import in_line, tensor_output, write_json
from vidtwin.generation.config import GUIDANCE, DiTConfig
from vidtwin.generation.diffusion import Process, sample
from vidtwin.generation.dit import DiT
from vidtwin.generation.tokens import Volumes, to_latents, to_volumes
from vidtwin.model.checkpoint import SHIPPED, Uninitialized, own_float32, read_tensors, refuse_differences, stored_in, weights_hash
from vidtwin.model.latents import NAMES, Latents
from vidtwin.model.normalizer import Normalizer
from vidtwin.model.vidtwin import VidTwin

FORMAT = 1
FACTS_FILE, TENSORS_FILE, AUTOENCODER = "generator.json", "generator.safetensors", "autoencoder"
Labels = int | str | Sequence[int | str] | None


@dataclass(frozen=True)
class _Facts:
    """What generator.json holds; older ones without `separate_levels`.

    Raises:
        ValueError: another format, a class named twice, or numbers that cannot be.
    """

    format: int
    process: Process
    denoiser: DiTConfig
    classes: list[str]
    fps: float
    separate_levels: float | None = None

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format}; this vidtwin reads format {FORMAT}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class is there twice")
        if not 0 < self.fps <= 1000:
            raise ValueError(f"fps={self.fps}: expected a number above 0, 1000 at most")
        if not 0 <= (self.separate_levels or 0) <= 1:
            raise ValueError(f"separate_levels={self.separate_levels}: expected a number from 0 to 1")


@dataclass(frozen=True, eq=False)
class Generated:
    """Sampled videos.

    Attributes:
        videos: uint8 (B, F, H, W, 3), RGB.
        latents: of the windows of f frames that they are made of, one after another, each of a batch of B.
    """

    videos: Tensor
    latents: tuple[Latents, ...]


class VidTwinPipeline:
    """Samples videos.

        pipeline = VidTwinPipeline.from_pretrained("runs/generator/model")
        videos = pipeline(["red-east", "cyan-north"], generator=torch.Generator().manual_seed(0)).videos

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

    def to(self, device: str | torch.device) -> "VidTwinPipeline":
        """Both networks there."""
        self.autoencoder.to(device)
        self.denoiser.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def __call__(
        self,
        class_labels: Labels = None,
        *,
        num_videos: int = 1,
        num_frames: int | None = None,
        guidance_scale: float = GUIDANCE,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        num_inference_steps: int = 50,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        structure: Latents | None = None,
        dynamics: Latents | None = None,
        progress: Callable[[int], object] = lambda done: None,
    ) -> Generated:
        """Videos of classes.

        Args:
            class_labels: names or numbers, one for each video, or one for all; None is no class, and no guidance then.
            num_videos: how many, if `class_labels` does not say.
            num_frames: of each; default a window, f. More are made window after window, each seeing the one before.
            guidance_scale: w of classifier-free guidance; 1 is none. guidance_interval: the noise levels at which there is any.
            num_inference_steps: from noise to latents.
            generator: of the noise, one for all videos or one for each; the noise of a video with its own does not depend on
                the others. Noise is drawn where the generator is: a CPU's gives the same videos on any device, but for rounding.
            structure, dynamics: latents of which Structure, or Dynamics, is kept, and the other one sampled: (B, ...) as
                `autoencoder.encode` gives.
            progress: called with 1 after each step.

        Raises:
            ValueError: a class that there is not; counts that do not fit; both latents given; more frames than a window for a
                generator that was not trained to go on; a latent given to one that was not trained to sample the other for it.
        """
        f, given = self.autoencoder.config.frames, structure if structure is not None else dynamics
        labels = self._labels(class_labels, num_videos if given is None else len(given))
        count = len(labels)
        windows = -(-(f if num_frames is None else num_frames) // f)
        if windows < 1:
            raise ValueError(f"num_frames={num_frames}: give at least 1")
        if windows > 1 and not self.denoiser.config.previous:
            raise ValueError(f"num_frames={num_frames}: this generator makes {f}; train one with previous: true for more")
        if windows > 1 and given is not None:
            raise ValueError(f"num_frames={num_frames}: a given structure or dynamics is of one window of {f} frames")
        if isinstance(generator, Sequence) and len(generator) != count:
            raise ValueError(f"{len(generator)} generators for {count} videos: give one for each, or one")
        kept = self._kept(structure, dynamics, count)
        guidance = 1.0 if class_labels is None else guidance_scale
        previous: Volumes | None = None
        found = []
        with torch.inference_mode():
            for _ in range(windows):
                previous = sample(
                    self.denoiser,
                    self.process,
                    self._noise(count, generator),
                    labels,
                    steps=num_inference_steps,
                    guidance=guidance,
                    interval=guidance_interval,
                    given=kept,
                    previous=previous,
                    progress=progress,
                )
                found.append(self.normalizer.denormalize(to_latents(previous, self.denoiser.config.dynamics[2])))
        plain = tuple(latents.map(torch.clone) for latents in found)  # tensors of inference mode cannot be trained on
        clips = torch.cat([self.decode(latents) for latents in plain], dim=1)
        return Generated(clips[:, :num_frames], plain)

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
        clips = [self.autoencoder.decode(latents[i : i + 1])[0] for i in range(len(latents))]
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

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the folder; `dtype` is that of the stored matrices and kernels, of both networks (loading gives float32 again).

        Raises:
            ValueError: weights that are not finite in `dtype`. OSError: the folder cannot be written, or the disk is full.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not _holds(folder / AUTOENCODER, self.autoencoder):
            self.autoencoder.save_pretrained(folder / AUTOENCODER, dtype=dtype)
        own = {f"denoiser.{name}": tensor for name, tensor in stored_in(self.denoiser.state_dict(), dtype).items()}
        for kind, values in (("mean", self.normalizer.mean), ("std", self.normalizer.std)):
            own |= stored_in({f"{kind}.{name}": tensor.float() for name, tensor in zip(NAMES, values, strict=True)}, torch.float32)
        if broken := next((name for name, tensor in own.items() if not torch.isfinite(tensor).all()), None):
            raise ValueError(f"{folder}: {broken} has NaN or infinite values; not saved")
        facts: dict[str, Any] = {"format": FORMAT, "process": asdict(self.process), "denoiser": self.denoiser.config.to_dict()}
        facts |= {"classes": list(self.classes), "fps": self.fps, "separate_levels": self.separate_levels}
        with tensor_output(folder / TENSORS_FILE) as partial:
            save_file(own, partial, metadata={"format": "pt"})
        write_json(folder / FACTS_FILE, facts)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "VidTwinPipeline":
        """A shipped generator by its name, or what `save_pretrained` wrote, in float32 on the CPU.

        Raises:
            FileNotFoundError: no such folder, or a file of it is missing. ValueError: a damaged one, or of another format.
        """
        folder = find_generator(folder)
        path = folder / FACTS_FILE
        try:
            facts = build(_Facts, parse_json(path.read_bytes()))
            config = facts.denoiser
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path}: missing; give the folder `model` of a run of vidtwin train-generator, or a shipped name: "
                f"{', '.join(shipped_generators())}"
            ) from None
        except ValueError as error:
            raise ValueError(f"{path}: not the description of a generator ({in_line(error)})") from error
        tensors = own_float32(read_tensors(folder / TENSORS_FILE))
        with torch.device("meta"), Uninitialized():
            shapes = {f"denoiser.{name}": tuple(t.shape) for name, t in DiT(config).state_dict().items()}
        channels = (config.structure[0], config.dynamics[0], config.dynamics[0])
        shapes |= {f"{kind}.{name}": (size,) for kind in ("mean", "std") for name, size in zip(NAMES, channels, strict=True)}
        refuse_differences(shapes, {name: tuple(t.shape) for name, t in tensors.items()}, str(folder / TENSORS_FILE))
        with Uninitialized():
            denoiser = DiT(config)
        weights = {name.removeprefix("denoiser."): t for name, t in tensors.items() if name.startswith("denoiser.")}
        denoiser.load_state_dict(weights, assign=True)
        mean, std = (tuple(tensors[f"{kind}.{name}"] for name in NAMES) for kind in ("mean", "std"))
        autoencoder = VidTwin.from_pretrained(folder / AUTOENCODER)
        normalizer = Normalizer((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
        return cls(autoencoder, denoiser, facts.process, normalizer, facts.classes, facts.fps, facts.separate_levels)


def shipped_generators() -> list[str]:
    """Names that `VidTwinPipeline.from_pretrained` finds in the package itself."""
    return sorted(folder.name for folder in SHIPPED.iterdir() if (folder / FACTS_FILE).is_file())


def find_generator(name: str | Path) -> Path:
    """The folder of a shipped name, or of a path."""
    return SHIPPED / name if name in shipped_generators() else Path(name)


def _holds(folder: Path, model: VidTwin) -> bool:
    """Whether a folder is a checkpoint of these weights."""
    try:
        return weights_hash(VidTwin.from_pretrained(folder)) == weights_hash(model)
    except (OSError, ValueError):
        return False
