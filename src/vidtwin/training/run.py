"""Everything that is trained, on its devices, and its state as one dictionary of tensors and numbers."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, DistributedType
from einops import rearrange
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from vidtwin.losses.discriminator import LeCam, PatchGAN
from vidtwin.losses.lpips import load_lpips
from vidtwin.losses.ms_ssim import ms_ssim
from vidtwin.losses.objective import Adversarial, autoencoder_loss, discriminator_loss
from vidtwin.model.latents import Posterior
from vidtwin.model.vidtwin import VidTwin
from vidtwin.training.ema import EMA
from vidtwin.training.recipe import Recipe
from vidtwin.training.schedule import learning_rate

UNDECAYED = ("modulation", "queries")  # tables, not maps
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def make_accelerator(recipe: Recipe, device: str) -> Accelerator:
    """The devices and processes that the run is spread over, as it was launched.

    Raises:
        ValueError: batch_size does not divide among processes and passes, or the precision does not exist on the device.
    """
    precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[recipe.precision]
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run in this process may have had others
    try:
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
    except ValueError as error:
        raise ValueError(f"precision: {recipe.precision} is not available on this device ({error}); use float32") from error
    if recipe.precision == "float16" and accelerator.scaler is None:  # accelerate would go on in float32, and not say it
        raise ValueError(f"precision: float16 is not available on this device ({accelerator.device.type}); use float32")
    asked = torch.device(device)
    if asked.type != accelerator.device.type or asked.index is not None:
        raise ValueError(
            f"device {device}: this run would be on {accelerator.device}; choose cpu, cuda or mps; a GPU by CUDA_VISIBLE_DEVICES"
        )
    known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.gradient_accumulation_steps != 1 or accelerator.distributed_type not in known:
        raise ValueError(
            "accelerate's configuration asks for accumulation, FSDP or DeepSpeed; use the recipe's accumulate and shard"
        )
    share = accelerator.num_processes * recipe.accumulate
    if recipe.batch_size % share:
        raise ValueError(
            f"batch_size={recipe.batch_size}: must be a multiple of {accelerator.num_processes} processes x "
            f"accumulate={recipe.accumulate}; use {recipe.batch_size // share * share or share}"
        )
    return accelerator


class Run:
    """Model, discriminator, optimizers and running means of a recipe.

    Attributes:
        twin: the model itself; model: what to call, which averages gradients over processes and casts as the precision asks.
        sharded: whether the weights are shared out; then the model can be called, but not its parts.
        critic, discriminator: the same two for the discriminator; None without one.
        logvar: log-variance of the likelihood, learned or fixed at 0; optimizers: by the name of what they train.
    """

    def __init__(self, recipe: Recipe, twin: VidTwin, accelerator: Accelerator):
        self.recipe, self.accelerator, self.twin = recipe, accelerator, twin
        device = accelerator.device
        for transformer in (twin.encoder.transformer, twin.decoder.transformer):
            transformer.checkpointing = recipe.gradient_checkpointing
        if recipe.compile:  # not the decoder's head, whose gradients of single terms `Adversarial` asks for
            for part in (twin.encoder, twin.structure_encoder, twin.structure_decoder, twin.decoder.transformer):
                part.compile()
        self.model: nn.Module = twin.to(device)
        self.sharded = recipe.shard and accelerator.num_processes > 1
        if self.sharded:
            _shard(twin, device, accelerator.num_processes)
        else:
            self.model = _averaging(twin, accelerator)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"model": _adamw(twin, recipe, recipe.learning_rate)}
        self.ema = None if recipe.ema_decay is None else EMA(twin, recipe.ema_decay)

        self.logvar = torch.zeros((), device=device, requires_grad=recipe.learned_logvar)
        if recipe.learned_logvar:
            self.optimizers["logvar"] = torch.optim.AdamW([self.logvar], betas=recipe.betas, eps=recipe.eps, weight_decay=0.0)

        self.critic: PatchGAN | None = None
        self.discriminator: nn.Module | None = None
        self.lecam: LeCam | None = None
        if recipe.discriminator is not None:
            plan = recipe.discriminator
            self.critic = PatchGAN(plan.dims, plan.norm, plan.width, plan.layers).to(device)
            self.discriminator = _averaging(self.critic, accelerator)
            self.optimizers["discriminator"] = _adamw(self.critic, recipe, plan.learning_rate)
            self.lecam = LeCam().to(device) if plan.lecam else None
        with accelerator.local_main_process_first():  # it may download
            self.perceptual = _perceptual(recipe, device)

    def adversarial_at(self, step: int) -> bool:
        """Whether the discriminator takes part in a step; counted in steps of the generator."""
        return self.recipe.discriminator is not None and step >= self.recipe.discriminator.start

    def generator_losses(self, x: Tensor, x_hat: Tensor, posterior: Posterior, adversarial: bool) -> dict[str, Tensor]:
        """`autoencoder_loss` of a pass, in float32; the discriminator's weights get no gradient from it."""
        term = None
        if adversarial:
            assert self.critic is not None and self.recipe.discriminator is not None
            plan = self.recipe.discriminator
            self.critic.requires_grad_(False)
            with self.accelerator.autocast():
                logits = self.critic(x_hat)
            self.critic.requires_grad_(True)
            last_layer = self.twin.decoder.head.linear.weight if plan.adaptive else None
            scale = 1.0 if self.accelerator.scaler is None else self.accelerator.scaler.get_scale()
            term = Adversarial(logits.float(), plan.weight, last_layer, self.mean, scale)
        distance = None if self.perceptual is None else self.perceptual(x, x_hat)
        logvar = self.logvar if self.recipe.learned_logvar else None
        return autoencoder_loss(x, x_hat, posterior, self.recipe.loss, perceptual=distance, logvar=logvar, adversarial=term)

    def discriminator_losses(self, x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
        """`discriminator_loss` of a pass, in float32; the generator gets no gradient from it."""
        assert self.discriminator is not None and self.recipe.discriminator is not None
        with self.accelerator.autocast():
            real, fake = self.discriminator(x), self.discriminator(x_hat.detach())
        return discriminator_loss(real.float(), fake.float(), self.lecam, self.recipe.discriminator.lecam)

    @contextmanager
    def gradients_shared(self, last: bool) -> Iterator[None]:
        """Processes average their gradients in the `last` pass of a step only."""
        with ExitStack() as stack:
            if not last:
                for module in (self.model, self.discriminator):
                    if isinstance(module, DistributedDataParallel):
                        stack.enter_context(module.no_sync())
            yield

    def agreed(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over processes, as numbers: what every process then decides on alike. Waits for the device."""
        stacked = torch.stack([value.detach().to(self.accelerator.device, torch.float32) for value in values.values()])
        return dict(zip(values, self.mean(stacked).tolist(), strict=True))

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over processes."""
        return self.accelerator.reduce(tensor, "mean") if self.accelerator.num_processes > 1 else tensor

    def zero_grad(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def clip_gradients(self, adversarial: bool) -> dict[str, float]:
        """Bring gradients to their own scale (float16), average the log-variance's, clip, and return the norms before.

        Gradients whose norm is not finite stay as they are: clipped, all would be NaN, and the first bad one not to be told.
        """
        scaler = self.accelerator.scaler
        if scaler is not None:
            for name in self.trained(adversarial):
                scaler.unscale_(self.optimizers[name])
        if self.logvar.grad is not None:
            self.logvar.grad = self.mean(self.logvar.grad)
        norms: dict[str, float] = {}
        for name, module in self.clipped(adversarial).items():
            parameters = [p for p in module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            norms[f"{name}gradient_norm"] = float(norm)
            if math.isfinite(norm):
                torch.nn.utils.clip_grads_with_norm_(parameters, self.recipe.clip_norm, norm)
        return norms

    def clipped(self, adversarial: bool) -> dict[str, nn.Module]:
        """What gradients are clipped of, by what stands before "gradient_norm" in a log."""
        modules: dict[str, nn.Module] = {"": self.twin}
        return modules | ({"discriminator_": self.critic} if adversarial and self.critic is not None else {})

    def trained(self, adversarial: bool) -> list[str]:
        """Names of the optimizers that step."""
        return [name for name in self.optimizers if adversarial or name != "discriminator"]

    def judged(self, values: Mapping[str, float]) -> dict[str, float]:
        """The values that must be finite: all but gradient norms in float16, whose scaler skips such steps by itself and lowers its
        scale; at a scale below 1 it is not to blame."""
        scaled = self.accelerator.scaler is not None and self.accelerator.scaler.get_scale() >= 1
        return {name: value for name, value in values.items() if not (scaled and name.endswith("gradient_norm"))}

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Step the optimizers at the learning rates of the step, and the running means of weights and logits."""
        adversarial, scaler = self.adversarial_at(step), self.accelerator.scaler
        if scaler is not None and not all(math.isfinite(v) for name, v in values.items() if name.endswith("gradient_norm")):
            scaler.update()  # lowers the scale; the step is left out as a whole
            return
        for name in self.trained(adversarial):
            for group in self.optimizers[name].param_groups:
                group["lr"] = self.rate(name, step)
            if scaler is None:
                self.optimizers[name].step()
            else:
                scaler.step(self.optimizers[name])
        if scaler is not None:
            scaler.update()
        with torch.no_grad():
            self.logvar.clamp_(-self.recipe.logvar_bound, self.recipe.logvar_bound)
        if self.ema is not None:
            self.ema.update(step)
        if self.lecam is not None and adversarial:
            self.lecam.update(values["discriminator_logits_real"], values["discriminator_logits_fake"])

    def skip(self) -> None:
        """In place of `update`: everything stays as it was, but float16's scale, which takes in that values were not finite."""
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()

    def facts(self, step: int) -> dict[str, float]:
        """What a log says besides losses: learning rates, and the log-variance if it is learned."""
        facts = {"learning_rate": self.rate("model", step)}
        if self.adversarial_at(step):
            facts["discriminator_learning_rate"] = self.rate("discriminator", step)
        if self.recipe.learned_logvar:
            facts["logvar"] = self.logvar.item()
        return facts

    def weights(self) -> dict[str, Tensor]:
        """The model's weights to use, whole and on the CPU: their running mean if there is one. Call it on all processes."""
        with self.weights_in_place():
            state: dict[str, Any] = get_model_state_dict(self.twin, options=FULL)
            return {name: tensor.clone() for name, tensor in state.items()}

    @contextmanager
    def weights_in_place(self) -> Iterator[None]:
        """The model holds the weights to use inside."""
        with nullcontext() if self.ema is None else self.ema.in_place():
            try:
                yield
            finally:
                if self.sharded:  # what was gathered inside is not what the next step must see
                    self.twin.reshard()  # type: ignore[operator]

    def rate(self, name: str, step: int) -> float:
        """The learning rate of an optimizer at a step."""
        recipe, plan = self.recipe, self.recipe.discriminator
        if name == "discriminator" and plan is not None:
            return learning_rate(step, plan.learning_rate, plan.warmup_steps, recipe.steps, recipe.final_lr_ratio, plan.start)
        return learning_rate(step, recipe.learning_rate, recipe.warmup_steps, recipe.steps, recipe.final_lr_ratio)

    def state(self) -> dict[str, Any]:
        """Everything that training goes on from, on the CPU; call it on all processes."""
        state: dict[str, Any] = {
            "model": get_model_state_dict(self.twin, options=FULL),
            "optimizer_model": get_optimizer_state_dict(self.twin, self.optimizers["model"], options=FULL),
            "logvar": self.logvar.detach().cpu().clone(),
        }
        if self.ema is not None:
            state["ema"] = self.weights()
        if self.recipe.learned_logvar:
            state["optimizer_logvar"] = self.optimizers["logvar"].state_dict()
        if self.critic is not None:
            state["discriminator"] = self.critic.state_dict()
            state["optimizer_discriminator"] = self.optimizers["discriminator"].state_dict()
        if self.lecam is not None:
            state["lecam"] = self.lecam.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        if self.ema is not None:
            set_model_state_dict(self.twin, state["ema"], options=FULL)
            self.ema.restart()
        set_model_state_dict(self.twin, state["model"], options=FULL)
        if state["optimizer_model"]["state"]:  # none before the first step that was not skipped; torch would count one as taken
            set_optimizer_state_dict(self.twin, self.optimizers["model"], state["optimizer_model"], options=FULL)
        with torch.no_grad():
            self.logvar.copy_(state["logvar"])
        if self.recipe.learned_logvar:
            self.optimizers["logvar"].load_state_dict(state["optimizer_logvar"])
        if self.critic is not None:
            self.critic.load_state_dict(state["discriminator"])
            self.optimizers["discriminator"].load_state_dict(state["optimizer_discriminator"])
        if self.lecam is not None:
            self.lecam.load_state_dict(state["lecam"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])


def _averaging(module: nn.Module, accelerator: Accelerator) -> nn.Module:
    """What to call so that processes average the module's gradients (DDP)."""
    return DistributedDataParallel(module, gradient_as_bucket_view=True) if accelerator.num_processes > 1 else module


def _shard(twin: VidTwin, device: torch.device, processes: int) -> None:
    """Share out parameters, gradients and optimizer states over processes, a transformer block at a time (FSDP2)."""
    mesh = init_device_mesh(device.type, (processes,))
    for transformer in (twin.encoder.transformer, twin.decoder.transformer):
        for block in transformer.blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(twin, mesh=mesh, reshard_after_forward=False)  # the last layer stays whole for the adaptive weight


def _adamw(module: nn.Module, recipe: Recipe, rate: float) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels only."""
    named = list(module.named_parameters())
    decayed = [p for name, p in named if p.ndim > 1 and not name.endswith(UNDECAYED)]
    others = [p for name, p in named if p.ndim <= 1 or name.endswith(UNDECAYED)]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=recipe.betas, eps=recipe.eps)


def _perceptual(recipe: Recipe, device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Clips x, x_hat (B, 3, F, H, W) in [-1, 1] -> the distance of each frame (B F,)."""
    if recipe.perceptual == "none":
        return None
    if recipe.perceptual == "ms-ssim":
        return lambda x, x_hat: 1 - ms_ssim(*(rearrange((y + 1) / 2, "b c f h w -> (b f) c h w") for y in (x, x_hat)))
    lpips = load_lpips(recipe.perceptual_weights).to(device)
    return lambda x, x_hat: lpips(*(rearrange(y, "b c f h w -> (b f) c h w") for y in (x, x_hat)))
