"""What the network can tell of time before it has learned anything, by its time table alone.

The first block's temporal attention reads the time table (tokens leave its directions free) and writes a time code of rank r into
the residual stream, the same at every place. From then on a linear function of the code is the logit of an attention over frames:

    A head of the Q-Former with logits beta phi_k reads a window softmax(beta phi_k). The difference of two, with beta and -beta, is
    a signed window psi_k, which sees phi_k and no constant.

    A head of the second block's temporal attention with logits gamma phi_k(t) phi_k(t') reads, less a uniform head, M_k: nearly
    phi_k phi_k^T / f, what frames have in common with phi_k.

Letters: f frames, s places, c hidden width, T temporal functions, r rank of the code.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vidtwin.model.config import VidTwinConfig

WEAKEST = (
    0.02  # of the time table's singular values, as a share of the largest; weaker directions need weights that bfloat16 cannot bear
)
SHARPNESS = 40.0  # logits of the first block's temporal attention, so that a frame sees little but itself
CODE_GAIN = 2.0
BETA = 0.8  # of the Q-Former's windows
GAMMA = 0.3  # of the second block's temporal attention; small, so that its softmax is nearly linear
TOLD = 0.95  # share of a temporal function's variance that the code must tell


@dataclass(frozen=True, eq=False)
class TimeReading:
    """float64, or float32 as the coder needs them.

    Attributes:
        directions: (r, c), orthonormal: where the time table is read, and the code written. strengths: (r,) its singular values.
        means: (r,) what it says there on average over frames, which is taken off.
        code: (f, r), as the first block writes it.
        functions: phi (T, f), mean square 1. logits, offsets: (T, r), (T,): code @ logits_k + offset_k is nearly phi_k.
        windows: psi (T, f), psi_k . phi_k = 1. pair_gains: (T,) by which the difference of two softmaxes is multiplied.
        kernels: M (T, f, f), zero if the network has no attention for them. kernel_gains: (T,) by which a head less the uniform
            one is multiplied.
    """

    directions: Tensor
    strengths: Tensor
    means: Tensor
    code: Tensor
    functions: Tensor
    logits: Tensor
    offsets: Tensor
    windows: Tensor
    pair_gains: Tensor
    kernels: Tensor
    kernel_gains: Tensor


def temporal_functions(f: int) -> Tensor:
    """(f, f): row k is a cosine of k half-waves in f frames, mean square 1 (the DCT-II)."""
    t = torch.arange(f, dtype=torch.float64)
    return torch.cos(math.pi * torch.outer(t, t + 0.5) / f) * torch.where(t > 0, 2**0.5, 1.0)[:, None]


def read_time(config: VidTwinConfig, space: Tensor, time: Tensor) -> TimeReading:
    """What a network of a config reads, from its position tables: space (s, c), time (f, c)."""
    f = config.frames
    space, time = space.double(), time.double()
    _, sizes, rows = torch.linalg.svd(space, full_matrices=False)
    inside = rows[sizes > 1e-6 * sizes[0]]
    time = time - time @ inside.T @ inside
    mean = time.mean(0)
    U, S, V = torch.linalg.svd(time - mean, full_matrices=False)
    rank = min(int(torch.ge(S, WEAKEST * S[0]).sum()), config.hidden // config.heads, f - 1) if f > 1 else 0
    U, S, V = U[:, :rank], S[:rank], V[:rank]
    causal = config.temporal_attention == "causal"
    code = CODE_GAIN * math.sqrt(f) * _attend(SHARPNESS * U @ U.T, causal) @ U

    phi = temporal_functions(f)
    told = torch.linalg.lstsq(code - code.mean(0), phi.T - phi.mean(1), driver="gelsd").solution  # (r, f)
    offsets = phi.mean(1) - code.mean(0) @ told
    errors = (code @ told + offsets - phi.T).square().mean(0)
    count = next((k for k in range(1, f) if errors[k] > 1 - TOLD), f) if rank else 1
    phi, logits, offsets = phi[:count], told[:, :count].T, offsets[:count]

    windows, pair_gains = torch.full((count, f), 1 / f, dtype=torch.float64), torch.ones(count, dtype=torch.float64)
    kernels, kernel_gains = torch.zeros(count, f, f, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    subtracts = config.depth > 1 and config.hidden // config.heads >= config.dynamics_x_shape[0] and not causal
    uniform = torch.full((f, f), 1 / f, dtype=torch.float64)
    if subtracts:
        kernels[0], kernel_gains[0] = uniform, 1.0
    for k in range(1, count):
        shape = code @ logits[k]
        difference = (BETA * shape).softmax(0) - (-BETA * shape).softmax(0)
        pair_gains[k] = 1 / (difference @ phi[k])
        windows[k] = difference * pair_gains[k]
        if subtracts and k < config.heads:
            ideal = torch.outer(phi[k], phi[k]) / f
            head = _attend(GAMMA * torch.outer(shape + offsets[k], shape), causal) - uniform
            kernel_gains[k] = (ideal * ideal).sum() / (head * ideal).sum()
            kernels[k] = head * kernel_gains[k]
    return TimeReading(V, S, V @ mean, code, phi, logits, offsets, windows, pair_gains, kernels, kernel_gains)


def _attend(logits: Tensor, causal: bool) -> Tensor:
    """Attention weights (f, f) of logits."""
    if causal:
        logits = logits.masked_fill(torch.ones_like(logits).triu(1).bool(), -math.inf)
    return logits.softmax(1)
