"""Noise on latents, its training loss, and sampling: the paper's x_0 diffusion with DDIM, and flow matching.

Letters: x_0 clean, eps noise, level in [0, 1]; in both processes the network estimates x_0.
    ddim: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t = 0..999 (Ho et al. 2020), level (t + 1) / 1000; no signal is left at
        the last t (Lin et al. 2024). Paper Sec. 3.5, D.3.
    flow: x_t = (1 - t) x_0 + t eps, level t; the loss is that of the velocity eps - x_0, which is that of x_0 over t^2
        (Lipman et al. 2023; Li and He 2025), and t is drawn from a logit-normal, shifted (Esser et al. 2024).
Schedules are those of diffusers, and flow's sampler too. Its DDIM step assumes that the number of steps divides 1000, and errs
where it does not (at 7 steps an exact estimate is missed by 0.03); `ddim_step` is the same without that.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from vidtwin.generation.dit import DiT
from vidtwin.generation.tokens import Volumes

STEPS = 1000  # of the process
SMALLEST_T = 0.05  # that a velocity's loss divides by
Method = Literal["ddim", "flow"]


@dataclass(frozen=True)
class Process:
    """How noise is added, and how it is taken away again.

    Attributes:
        method: "ddim" or "flow". shift: of flow's levels, s t / (1 + (s - 1) t): above 1 there is more noise.
        center, spread: of the logit of flow's t in training, before the shift.

    Raises:
        ValueError: a method that there is not, or a shift that is not positive.
    """

    method: Method = "ddim"
    shift: float = 1.0
    center: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in ("ddim", "flow"):
            raise ValueError(f"method={self.method!r}: choose 'ddim' or 'flow'")
        if not (self.shift > 0 and self.spread > 0):
            raise ValueError(f"shift={self.shift}, spread={self.spread}: must be positive")
        if self.method == "ddim" and (self.shift, self.center, self.spread) != (1.0, 0.0, 1.0):
            raise ValueError("shift, center and spread are of method: flow; leave them out")

    def scheduler(self) -> Any:
        """Of diffusers. Raises ValueError if that is not installed."""
        try:
            from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
        except ImportError:
            raise ValueError("generating needs the package diffusers: pip install 'vidtwin[generate]'") from None
        if self.method == "flow":
            return FlowMatchEulerDiscreteScheduler(num_train_timesteps=STEPS, shift=self.shift)
        return DDIMScheduler(
            num_train_timesteps=STEPS,
            prediction_type="sample",
            clip_sample=False,
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
            set_alpha_to_one=True,
        )

    def signal_and_noise(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of x_0 and eps at levels in (0, 1]; 0 is clean."""
        if self.method == "flow":
            return 1 - levels, levels
        abar = torch.cat([torch.ones(1), _alphas_cumprod()]).to(levels)
        kept = abar[(levels * STEPS).round().long()]
        return kept.sqrt(), (1 - kept).sqrt()

    def draw_level(self, generator: torch.Generator) -> float:
        """A level to train at."""
        if self.method == "ddim":
            return (int(torch.randint(STEPS, (), generator=generator)) + 1) / STEPS
        t = torch.sigmoid(self.center + self.spread * torch.randn((), generator=generator, dtype=torch.float64)).item()
        return self.shift * t / (1 + (self.shift - 1) * t)

    def weight(self, levels: Tensor) -> Tensor:
        """Of the squared error of x_0; 0 where nothing is to be estimated."""
        weight = torch.ones_like(levels) if self.method == "ddim" else levels.clamp(min=SMALLEST_T) ** -2
        return weight * (levels > 0)


@cache
def _alphas_cumprod() -> Tensor:
    """abar_t, t = 0..999, of the scheduler that samples."""
    alphas: Tensor = Process("ddim").scheduler().alphas_cumprod
    return alphas


def add_noise(process: Process, clean: Volumes, noise: Volumes, levels: Tensor) -> Volumes:
    """Volumes at levels (B, 2), of Structure and of Dynamics."""
    signal, amount = process.signal_and_noise(levels)
    structure, dynamics = (
        x * signal[:, i, None, None, None, None] + eps * amount[:, i, None, None, None, None]
        for i, (x, eps) in enumerate(zip(clean, noise, strict=True))
    )
    return structure, dynamics


def diffusion_loss(
    process: Process, estimate: Volumes, clean: Volumes, levels: Tensor, weights: tuple[float, float] = (1.0, 1.0)
) -> dict[str, Tensor]:
    """Losses as scalars: `structure` and `dynamics`, means over the branch's values and the batch, and `total`, their weighted sum.

    A mean within each branch first: Structure and Dynamics count alike, whatever their sizes. `structure_mse` and `dynamics_mse`
    are the same without the process's weight.
    """
    weight = process.weight(levels)
    errors = torch.stack(
        [(a.float() - b.float()).square().flatten(1).mean(1) for a, b in zip(estimate, clean, strict=True)], dim=1
    )  # (B, 2)
    structure, dynamics = (weight * errors).mean(0)
    structure_mse, dynamics_mse = ((levels > 0) * errors).mean(0)
    total = weights[0] * structure + weights[1] * dynamics
    losses = {"total": total, "structure": structure, "dynamics": dynamics}
    return losses | {"structure_mse": structure_mse, "dynamics_mse": dynamics_mse}


def trailing(steps: int) -> list[int]:
    """`steps` of the 1000 t, the last one first, evenly: 50 steps are 999, 979, ..., 19."""
    return [round(STEPS * (steps - i) / steps) - 1 for i in range(steps)]


def ddim_step(process: Process, x: Tensor, x_0: Tensor, level: float, following: float) -> Tensor:
    """x at the next lower level: sqrt(abar') x_0 + sqrt(1 - abar') eps, eps as x and x_0 say (Song et al. 2021, Eq. 12)."""
    (signal, less_signal), (amount, less) = (
        pair.tolist() for pair in process.signal_and_noise(torch.tensor([level, following], dtype=torch.float64))
    )
    return less_signal * x_0 + less / amount * (x - signal * x_0)


def _check_sampling(steps: int, guidance: float, interval: tuple[float, float]) -> None:
    """Refuse what sampling cannot be asked for."""
    if not 1 <= steps <= STEPS:
        raise ValueError(f"num_inference_steps={steps}: give 1 to {STEPS}")
    if not 0 <= interval[0] < interval[1] <= 1:
        raise ValueError(f"guidance_interval={interval}: give two levels, 0 to 1, the lower one first")
    if not math.isfinite(guidance):
        raise ValueError(f"guidance_scale={guidance}: give a finite number; 1 is no guidance")


def _schedule(process: Process, steps: int) -> tuple[Any, list[float]]:
    """The scheduler of a process, and the falling levels of its steps."""
    scheduler = process.scheduler()
    if process.method == "flow":
        scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
        return scheduler, [float(t) / STEPS for t in scheduler.timesteps]
    return scheduler, [(int(t) + 1) / STEPS for t in trailing(steps)]


@torch.no_grad()
def sample(
    model: DiT,
    process: Process,
    noise: Volumes,
    labels: Tensor,
    *,
    steps: int = 50,
    guidance: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    given: tuple[Tensor | None, Tensor | None] = (None, None),
    previous: Volumes | None = None,
    after_step: Callable[[int, float, Tensor], Tensor] = lambda number, level, x: x,
) -> Volumes:
    """Clean volumes of the classes `labels` (B,), from noise; a function of its arguments.

    Args:
        steps: network evaluations, two each where there is guidance.
        guidance: w in x_0 = x_0(none) + w (x_0(class) - x_0(none)) (Ho and Salimans 2022); 1 is none.
        interval: levels at which there is guidance (Kynkäänniemi et al. 2024).
        given: a clean volume for a branch that is not to be sampled.
        previous: the window before.
        after_step: called with the step's number, its level, and what is sampled, (B, ...) flattened, after each; gives the latter.

    Raises:
        ValueError: steps that there cannot be, or an interval that is none; both branches given.
    """
    _check_sampling(steps, guidance, interval)
    sampled = [i for i, volume in enumerate(given) if volume is None]
    if not sampled:
        raise ValueError("structure and dynamics are both given; nothing is left to sample")
    sizes = [noise[i][0].numel() for i in sampled]
    x = torch.cat([noise[i].flatten(1) for i in sampled], dim=1)
    scheduler, levels_down = _schedule(process, steps)
    nobody = torch.full_like(labels, model.config.classes)

    def cast(parts: Volumes) -> Volumes:
        return parts[0].to(model.dtype), parts[1].to(model.dtype)

    def estimate(parts: Volumes, levels: Tensor, classes: Tensor) -> Tensor:
        found = model(cast(parts), levels, classes, None if previous is None else cast(previous))
        return torch.cat([found[i].flatten(1) for i in sampled], dim=1).float()

    for number, level in enumerate(levels_down):
        levels = torch.zeros(len(x), 2, device=x.device)
        levels[:, sampled] = level
        flat = dict(zip(sampled, x.split(sizes, dim=1), strict=True))
        parts = [flat[i].reshape(noise[i].shape) if volume is None else volume for i, volume in enumerate(given)]
        x_0 = estimate((parts[0], parts[1]), levels, labels)
        if guidance != 1.0 and interval[0] <= level <= interval[1]:
            free = estimate((parts[0], parts[1]), levels, nobody)
            x_0 = free + guidance * (x_0 - free)
        if process.method == "flow":
            x = scheduler.step((x - x_0) / level, scheduler.timesteps[number], x).prev_sample
        else:
            x = ddim_step(process, x, x_0, level, levels_down[number + 1] if number + 1 < steps else 0.0)
        x = after_step(number, level, x)
    done = dict(zip(sampled, x.split(sizes, dim=1), strict=True))
    result = [done[i].reshape(noise[i].shape) if volume is None else volume for i, volume in enumerate(given)]
    return result[0], result[1]
