"""Everything of an autoencoder that is trained, on its devices, and its state as one dictionary of tensors and numbers."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from einops import rearrange
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from vidtwin.data.clips import Batch
from vidtwin.losses.apart import apart_losses
from vidtwin.losses.discriminator import LeCam, PatchGAN
from vidtwin.losses.lpips import load_lpips
from vidtwin.losses.ms_ssim import ms_ssim
from vidtwin.losses.objective import Adversarial, autoencoder_loss, discriminator_loss, squared_error_loss
from vidtwin.model.latents import Latents, Posterior
from vidtwin.model.vidtwin import VidTwin
from vidtwin.training.centring import Centring
from vidtwin.training.coefficients import CoefficientBatch
from vidtwin.training.compact import CompactTwin
from vidtwin.training.optimization import Optimization, adamw, averaging, own_settings
from vidtwin.training.recipe import Recipe
from vidtwin.training.schedule import learning_rate


class AutoencoderState(Optimization):
    """Model, discriminator, optimizers and running means of a recipe.

    Attributes:
        twin: the model itself (`network`), or what a `CompactTwin` holds of it.
        critic, discriminator: as `network` and `model`; None without one.
        logvar: log-variance of the likelihood, learned or fixed at 0.
    """

    recipe: Recipe

    def __init__(self, recipe: Recipe, network: VidTwin | CompactTwin, accelerator: Accelerator):
        twin = network.twin if isinstance(network, CompactTwin) else network
        self.twin, device = twin, accelerator.device
        for transformer in (twin.encoder.transformer, twin.decoder.transformer):
            transformer.checkpointing = recipe.gradient_checkpointing
        if recipe.compile:  # not the decoder's head, whose gradients of single terms `Adversarial` asks for
            for part in (twin.encoder, twin.structure_encoder, twin.structure_decoder, twin.decoder.transformer):
                part.compile()
        model: nn.Module = network.to(device)
        sharded = recipe.shard and accelerator.num_processes > 1
        if sharded:
            _shard(twin, device, accelerator.num_processes)
        else:
            model = averaging(network, accelerator)
        super().__init__(recipe, network, model, accelerator, sharded)

        self.centring = Centring(network) if recipe.centre else None
        self.logvar = torch.zeros((), device=device, requires_grad=recipe.learned_logvar)
        if recipe.learned_logvar:
            self.optimizers["logvar"] = torch.optim.AdamW([self.logvar], betas=recipe.betas, eps=recipe.eps, weight_decay=0.0)

        self.critic: PatchGAN | None = None
        self.discriminator: nn.Module | None = None
        self.lecam: LeCam | None = None
        if recipe.discriminator is not None:
            plan = recipe.discriminator
            self.critic = PatchGAN(plan.dims, plan.norm, plan.width, plan.layers).to(device)
            self.discriminator = averaging(self.critic, accelerator)
            self.optimizers["discriminator"] = adamw(list(self.critic.named_parameters()), recipe, plan.learning_rate)
            self.lecam = LeCam().to(device) if plan.lecam else None
        with accelerator.local_main_process_first():  # it may download
            self.perceptual = _perceptual(recipe, device)

    def adversarial_at(self, step: int) -> bool:
        """Whether the discriminator takes part in a step; counted in steps of the generator."""
        return self.recipe.discriminator is not None and step >= self.recipe.discriminator.start

    def clips(self, batch: Batch | CoefficientBatch) -> Tensor:
        """What the model takes of a batch, float32 on the device: clips in [-1, 1], or coefficients."""
        x = batch.clips.to(self.accelerator.device, non_blocking=True).float()
        return x if isinstance(batch, CoefficientBatch) else x / 127.5 - 1

    def centre_on(self, batch: Batch | CoefficientBatch) -> None:
        """Take the means of `centring` over a batch."""
        assert self.centring is not None
        x = self.clips(batch)
        with torch.no_grad():
            self.centring.measure(lambda: self.network(x))

    def options(self, batch: Batch | CoefficientBatch) -> dict[str, Tensor]:
        """Further arguments of the model for a batch: which of its clips are decoded from one latent alone, by their numbers."""
        shares = self.recipe.structure_alone, self.recipe.dynamics_alone
        if not any(shares):
            return {}
        alone = torch.zeros_like(batch.indices)
        for latent, share in enumerate(shares, 1):
            if share:
                alone[batch.indices % round(1 / share) == latent - 1] = latent
        return {"alone": alone.to(self.accelerator.device)}

    def losses(
        self, batch: Batch | CoefficientBatch, x: Tensor, x_hat: Tensor, posterior: Posterior, adversarial: bool
    ) -> dict[str, Tensor]:
        """Losses of a pass, in float32: `generator_losses` of clips, `squared_error_loss` of coefficients; `apart` of both."""
        if not isinstance(batch, CoefficientBatch):
            return self.apart(self.generator_losses(x, x_hat, posterior, adversarial), x, x_hat, posterior)
        errors = (x_hat - x).square().sum((2, 3)) + batch.outside.to(x.device)
        pixels = 3 * self.recipe.config.height * self.recipe.config.width
        return self.apart(squared_error_loss(errors / pixels, posterior, self.recipe.loss), x, x_hat, posterior)

    def apart(self, losses: dict[str, Tensor], x: Tensor, x_hat: Tensor, posterior: Posterior) -> dict[str, Tensor]:
        """`losses` with the terms of `losses.apart` that have a weight, and with them in `total`."""
        network, weights = self.network, self.recipe.loss
        assert isinstance(network, VidTwin | CompactTwin)

        def encode(y: Tensor) -> Posterior:  # not checked as clips are: values that are not finite skip the step
            with self.accelerator.autocast():
                if isinstance(network, CompactTwin):
                    return network.posterior(y).to(torch.float32)
                return network.posterior_of(network.encoder(y.clamp(-1, 1))).to(torch.float32)

        def decode(z: Latents) -> Tensor:
            with self.accelerator.autocast():
                if isinstance(network, CompactTwin):
                    return network.decode(z).float()
                return network.decoder(network.u_S(z) + network.u_D(z)).float()

        terms = apart_losses(weights, x, x_hat, posterior, encode, decode)
        total = losses["total"]
        for name, term in terms.items():
            total = total + getattr(weights, name) * term
        return losses | terms | {"total": total}

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

    def _called(self) -> list[nn.Module]:
        return [self.model, *([] if self.discriminator is None else [self.discriminator])]

    def clip_gradients(self, step: int) -> dict[str, float]:
        """As of `Optimization`, the log-variance's gradient averaged."""
        if self.logvar.grad is not None:
            self.logvar.grad = self.mean(self.logvar.grad)
        return super().clip_gradients(step)

    def clipped(self, step: int) -> dict[str, nn.Module]:
        """What gradients are clipped of, by what stands before "gradient_norm" in a log."""
        modules: dict[str, nn.Module] = {"": self.network}
        return modules | ({"discriminator_": self.critic} if self.adversarial_at(step) and self.critic is not None else {})

    def trained(self, step: int) -> list[str]:
        """Names of the optimizers that step."""
        return [name for name in self.optimizers if self.adversarial_at(step) or name != "discriminator"]

    def update(self, step: int, values: Mapping[str, float]) -> bool:
        """As of `Optimization`; then the bound of the log-variance, and the running means of logits."""
        done = super().update(step, values)
        if done:
            with torch.no_grad():
                self.logvar.clamp_(-self.recipe.logvar_bound, self.recipe.logvar_bound)
            if self.lecam is not None and self.adversarial_at(step):
                self.lecam.update(values["discriminator_logits_real"], values["discriminator_logits_fake"])
        return done

    def facts(self, step: int) -> dict[str, float]:
        """What a log says besides losses: learning rates, and the log-variance if it is learned."""
        facts = {"learning_rate": self.rate("model", step)}
        if self.adversarial_at(step):
            facts["discriminator_learning_rate"] = self.rate("discriminator", step)
        if self.recipe.learned_logvar:
            facts["logvar"] = self.logvar.item()
        return facts

    def rate(self, name: str, step: int) -> float:
        """The learning rate of an optimizer at a step."""
        recipe, plan = self.recipe, self.recipe.discriminator
        if name == "discriminator" and plan is not None:
            return learning_rate(step, plan.learning_rate, plan.warmup_steps, recipe.steps, recipe.final_lr_ratio, plan.start)
        return super().rate(name, step)

    def pixel_model(self, weights: Mapping[str, Tensor] | None = None) -> VidTwin:
        """The model on pixels, in eval mode: of the network's weights as they are now, on its device, or of others, on the CPU."""
        if isinstance(self.network, CompactTwin):
            compact = CompactTwin(self.recipe.config, len(self.network.vectors))
            compact.load_state_dict(self.network.state_dict() if weights is None else weights)
            return compact.unfold().to("cpu" if weights is not None else self.accelerator.device)
        if weights is None:
            return self.twin.eval()  # itself: moving it, if only to where it is, would part its gradients from DDP's buckets
        model = VidTwin(self.recipe.config)
        model.load_state_dict(weights)
        return model.eval()

    def state(self) -> dict[str, Any]:
        """Everything that training goes on from, on the CPU; call it on all processes."""
        state = super().state() | {"logvar": self.logvar.detach().cpu().clone()}
        return state | {name: part.state_dict() for name, part in self._parts().items()}

    def load(self, state: dict[str, Any]) -> None:
        """As of `Optimization`."""
        own = {name: state[name] for name in self._parts()}
        super().load({name: value for name, value in state.items() if name not in own and name != "logvar"})
        with torch.no_grad():
            self.logvar.copy_(state["logvar"].reshape(()))
        for name, part in self._parts().items():
            with own_settings(part) if isinstance(part, torch.optim.Optimizer) else nullcontext():
                part.load_state_dict(own[name])

    def _parts(self) -> dict[str, Any]:
        """What has a state besides the network, by its name in `state`."""
        parts = {
            "optimizer_logvar": self.optimizers.get("logvar"),
            "discriminator": self.critic,
            "optimizer_discriminator": self.optimizers.get("discriminator"),
            "lecam": self.lecam,
        }
        return {name: part for name, part in parts.items() if part is not None}


def _shard(twin: VidTwin, device: torch.device, processes: int) -> None:
    """Share out parameters, gradients and optimizer states over processes, a transformer block at a time (FSDP2)."""
    mesh = init_device_mesh(device.type, (processes,))
    for transformer in (twin.encoder.transformer, twin.decoder.transformer):
        for block in transformer.blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(twin, mesh=mesh, reshard_after_forward=False)  # the last layer stays whole for the adaptive weight


def _perceptual(recipe: Recipe, device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Clips x, x_hat (B, 3, F, H, W) in [-1, 1] -> the distance of each frame (B F,)."""
    if recipe.perceptual == "none":
        return None
    if recipe.perceptual == "ms-ssim":
        return lambda x, x_hat: 1 - ms_ssim(*(rearrange((y + 1) / 2, "b c f h w -> (b f) c h w") for y in (x, x_hat)))
    lpips = load_lpips(recipe.perceptual_weights).to(device)
    return lambda x, x_hat: lpips(*(rearrange(y, "b c f h w -> (b f) c h w") for y in (x, x_hat)))
