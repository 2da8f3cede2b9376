"""Keeping values that are not finite away from the weights, and stopping in good order."""

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

ECHO = 2.0  # seconds: launchers pass on to a process what it was sent itself


class Guard:
    """Counts steps that were skipped because a value was NaN or infinite, and ends the run when they do not stop.

    Attributes:
        skipped: steps skipped since the start of the run; row: those in a row up to now, of which `limit` end the run.
    """

    def __init__(self, limit: int):
        self.limit, self.skipped, self.row = limit, 0, 0

    def passes(self, values: Mapping[str, float], modules: Mapping[str, nn.Module], step: int) -> str | None:
        """None if every value is finite, else the name of the first one that is not (of a gradient: of the first parameter).

        `modules` are those whose gradients have the norms in `values`, by what stands before "gradient_norm" there.

        Raises:
            FloatingPointError: it is the `limit`-th step in a row; names the step and the value.
        """
        name = next((name for name, value in values.items() if not math.isfinite(value)), None)
        if name is None:
            self.row = 0
            return None
        if name.endswith("gradient_norm"):
            prefix = name.removesuffix("gradient_norm")
            named = modules[prefix].named_parameters()
            bad = (n for n, p in named if p.grad is not None and not torch.isfinite(_whole(p.grad)).all())
            name = f"gradient of {prefix.replace('_', '.')}{next(bad, 'all parameters together')}"
        self.skipped, self.row = self.skipped + 1, self.row + 1
        if self.row >= self.limit:
            raise FloatingPointError(
                f"step {step + 1}: {name} is not finite, for {self.row} steps in a row; they were skipped, and the last checkpoint "
                "is as it was: look at the data, or start again in another folder with a lower learning_rate or clip_norm"
            )
        return name


def _whole(gradient: Tensor) -> Tensor:
    """A gradient that is shared out over processes, gathered."""
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


class StopRequest:
    """Whether the process was asked to stop (Ctrl-C or SIGTERM): the step is finished and saved first."""

    def __init__(self) -> None:
        self.asked, self.since = False, 0.0

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Take the signals inside; a second one stops at once. Outside the main thread signals stay as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def ask(number: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if self.asked and now - self.since > ECHO:
                raise KeyboardInterrupt
            if not self.asked:
                self.asked, self.since = True, now

        for number in before:
            signal.signal(number, ask)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
