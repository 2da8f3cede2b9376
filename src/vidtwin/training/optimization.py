"""What every kind of training does with gradients: averaged, clipped, judged, and taken or left out as a whole."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from vidtwin.model.checkpoint import refuse_differences
from vidtwin.training.centring import Centring
from vidtwin.training.ema import EMA
from vidtwin.training.recipe import RunRecipe
from vidtwin.training.schedule import learning_rate

UNDECAYED = ("modulation", "queries", "places_t", "places_h", "places_w")  # tables, not maps
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def make_accelerator(recipe: RunRecipe, device: str) -> Accelerator:
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


class Optimization:
    """A network, its optimizer and the running mean of its weights; a subclass adds what else is trained.

    Attributes:
        network: the module itself; model: what to call, which averages gradients over processes.
        sharded: whether the weights are shared out; then the model can be called, but not its parts.
        optimizers: by the name of what they train. ema: None without a running mean. centring: None without.
    """

    def __init__(self, recipe: RunRecipe, network: nn.Module, model: nn.Module, accelerator: Accelerator, sharded: bool = False):
        self.recipe, self.accelerator, self.network, self.model, self.sharded = recipe, accelerator, network, model, sharded
        self.optimizers: dict[str, torch.optim.Optimizer] = optimizers(network, recipe)
        self.ema = None if recipe.ema_decay is None else EMA(network, recipe.ema_decay)
        self.centring: Centring | None = None

    def clipped(self, step: int) -> dict[str, nn.Module]:
        """What gradients are clipped of in a step, by what stands before "gradient_norm" in a log."""
        return {"": self.network}

    def trained(self, step: int) -> list[str]:
        """Names of the optimizers that step."""
        return list(self.optimizers)

    def rate(self, name: str, step: int) -> float:
        """The learning rate of an optimizer at a step."""
        recipe = self.recipe
        peak = recipe.muon_learning_rate if name == "muon" else recipe.learning_rate
        return learning_rate(step, peak, recipe.warmup_steps, recipe.steps, recipe.final_lr_ratio)

    @contextmanager
    def gradients_shared(self, last: bool) -> Iterator[None]:
        """Processes average their gradients in the `last` pass of a step only."""
        with ExitStack() as stack:
            if not last:
                for module in self._called():
                    if isinstance(module, DistributedDataParallel):
                        stack.enter_context(module.no_sync())
            yield

    def _called(self) -> list[nn.Module]:
        return [self.model]

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

    def clip_gradients(self, step: int) -> dict[str, float]:
        """Bring gradients to their own scale (float16), centre, clip, and return the norms before clipping.

        Gradients whose norm is not finite stay as they are: clipped, all would be NaN, and the first bad one not to be told.
        """
        scaler = self.accelerator.scaler
        if scaler is not None:
            for name in self.trained(step):
                scaler.unscale_(self.optimizers[name])
        if self.centring is not None:
            self.centring.centre_gradients()
        norms: dict[str, float] = {}
        for name, module in self.clipped(step).items():
            parameters = [p for p in module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            norms[f"{name}gradient_norm"] = float(norm)
            if math.isfinite(norm):
                torch.nn.utils.clip_grads_with_norm_(parameters, self.recipe.clip_norm, norm)
        return norms

    def judged(self, values: Mapping[str, float]) -> dict[str, float]:
        """The values that must be finite: all but gradient norms in float16, whose scaler skips such steps by itself and lowers its
        scale; at a scale below 1 it is not to blame."""
        scaled = self.accelerator.scaler is not None and self.accelerator.scaler.get_scale() >= 1
        return {name: value for name, value in values.items() if not (scaled and name.endswith("gradient_norm"))}

    def update(self, step: int, values: Mapping[str, float]) -> bool:
        """Step the optimizers at the learning rates of the step, and the running mean; whether it was done."""
        scaler = self.accelerator.scaler
        if scaler is not None and not all(math.isfinite(v) for name, v in values.items() if name.endswith("gradient_norm")):
            scaler.update()  # lowers the scale; the step is left out as a whole
            return False
        with nullcontext() if self.centring is None else self.centring.kept():
            for name in self.trained(step):
                for group in self.optimizers[name].param_groups:
                    group["lr"] = self.rate(name, step) * group.get("factor", 1.0)
                if scaler is None:
                    self.optimizers[name].step()
                else:
                    scaler.step(self.optimizers[name])
        if scaler is not None:
            scaler.update()
        if self.ema is not None:
            self.ema.update(step)
        return True

    def skip(self) -> None:
        """In place of `update`: everything stays as it was, but float16's scale, which takes in that values were not finite."""
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()

    def weights(self) -> dict[str, Tensor]:
        """The network's weights to use, whole and on the CPU: their running mean if there is one. Call it on all processes."""
        with self.weights_in_place():
            state: dict[str, Any] = get_model_state_dict(self.network, options=FULL)
            return {name: tensor.clone() for name, tensor in state.items()}

    @contextmanager
    def weights_in_place(self) -> Iterator[None]:
        """The network holds the weights to use inside."""
        with nullcontext() if self.ema is None else self.ema.in_place():
            try:
                yield
            finally:
                if self.sharded:  # what was gathered inside is not what the next step must see
                    self.network.reshard()  # type: ignore[operator]

    def state(self) -> dict[str, Any]:
        """Everything that training goes on from, on the CPU; call it on all processes."""
        state: dict[str, Any] = {"model": get_model_state_dict(self.network, options=FULL)}
        for name in self._own():
            state[f"optimizer_{name}"] = get_optimizer_state_dict(self.network, self.optimizers[name], options=FULL)
        if self.ema is not None:
            state["ema"] = self.weights()
        if self.centring is not None:
            state["centres"] = dict(self.centring.means)
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

    def _own(self) -> list[str]:
        """Names of the optimizers of the network's weights."""
        return [name for name in ("model", "muon") if name in self.optimizers]

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. Raises KeyError, or others, if it is not of such a run."""
        state = dict(state)
        if self.ema is not None:
            self._load_weights(state.pop("ema"), "ema")
            self.ema.restart()
        self._load_weights(state.pop("model"), "model")
        for name in self._own():
            found = state.pop(f"optimizer_{name}")
            if found["state"]:  # none before the first step that was not skipped; torch would count one as taken
                with own_settings(self.optimizers[name]):
                    set_optimizer_state_dict(self.network, self.optimizers[name], found, options=FULL)
        if self.centring is not None:
            means = state.pop("centres")
            self.centring.means = {name: mean.to(self.accelerator.device) for name, mean in means.items()}
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.pop("scaler"))
        if state:
            raise ValueError(f"{', '.join(map(str, state))}: not of this recipe")

    def _load_weights(self, tensors: dict[str, Any], name: str) -> None:
        expected = {key: tuple(tensor.shape) for key, tensor in self.network.state_dict().items()}
        refuse_differences(expected, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, name)
        set_model_state_dict(self.network, tensors, options=FULL)


@contextmanager
def own_settings(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """A state is loaded inside; settings stay those of the recipe. Raises ValueError if it does not fit the weights."""
    before = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    yield
    for group, own in zip(optimizer.param_groups, before, strict=True):
        group.update(own)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.shape not in ((), parameter.shape):
                raise ValueError(f"{name} of an optimizer does not fit its weights")


def averaging(module: nn.Module, accelerator: Accelerator) -> nn.Module:
    """What to call so that processes average the module's gradients (DDP)."""
    return DistributedDataParallel(module, gradient_as_bucket_view=True) if accelerator.num_processes > 1 else module


def optimizers(module: nn.Module, recipe: RunRecipe) -> dict[str, torch.optim.Optimizer]:
    """ "model": AdamW, and with `optimizer: muon` "muon", for the matrices of transformer blocks.

    Raises:
        ValueError: this torch has no Muon.
    """
    named = list(module.named_parameters())
    if recipe.optimizer == "adamw":
        return {"model": adamw(named, recipe, recipe.learning_rate)}
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"optimizer: muon needs torch 2.9 or newer, this is {torch.__version__}; update it, or choose adamw")
    matrices = [(name, p) for name, p in named if ".blocks." in name and p.ndim == 2 and not name.endswith(UNDECAYED)]
    taken = {name for name, _ in matrices}
    groups = [{"params": ps, "factor": factor} for factor, ps in _by_factor(matrices, recipe).items()]
    muon = torch.optim.Muon(
        groups, lr=recipe.muon_learning_rate, weight_decay=recipe.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    return {"model": adamw([(n, p) for n, p in named if n not in taken], recipe, recipe.learning_rate), "muon": muon}


def adamw(named: Sequence[tuple[str, nn.Parameter]], recipe: RunRecipe, rate: float) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels only."""
    decayed = [(name, p) for name, p in named if p.ndim > 1 and not name.endswith(UNDECAYED)]
    others = [(name, p) for name, p in named if p.ndim <= 1 or name.endswith(UNDECAYED)]
    groups = [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for part, decay in ((decayed, recipe.weight_decay), (others, 0.0))
        for factor, parameters in _by_factor(part, recipe).items()
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=recipe.betas, eps=recipe.eps)


def _by_factor(named: list[tuple[str, nn.Parameter]], recipe: RunRecipe) -> dict[float, list[nn.Parameter]]:
    """Parameters by the factor of their learning rate."""
    found: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        factor = next((factor for part, factor in recipe.rate_factors.items() if part in name), 1.0)
        found.setdefault(float(factor), []).append(parameter)
    return found
