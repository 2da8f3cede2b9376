"""The decoder's half of the linear start: from z_S and z_D to coefficients.

Every channel of u belongs to one query: elsewhere its ReLU is shut. A query's components lie in directions of its channels that are
orthogonal to ones and to the space table's mean, and as far as they can to the table, so that neither offsets nor the table
reach the head. Dynamics' components lie in what directions of all channels are left.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from vidtwin.model.backbone import SpaceTimeBlock, modulated_norm
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.dynamics import DynamicsDecoder
from vidtwin.model.structure import StructureDecoder
from vidtwin.training.compact import CompactTwin
from vidtwin.training.linear.coder import LinearCoder
from vidtwin.training.linear.directions import bias_of, clear, quietest, untouched
from vidtwin.training.linear.neighbours import look_beside

FLAG_STEP = 0.5  # between the levels of z_S that tell one query from the next
OPEN = 24.0  # offset of ReLUs after values of deviation 1
OPEN_DYNAMICS = 30.0  # the same of Dynamics, whose values have heavier tails
FAR = 8.0  # offset of a query's channels, in standard deviations of what they carry; of temporal functions above 0 FAR_MOVING
FAR_MOVING = 15.0
SHUT = 18.0  # below that offset, in the same deviations, the channel lies for the other queries
LOUD = 20.0  # more offset for queries of constants, in turns above and below the others: what does not change rules the norms
MOVING = 0.12  # scale of channels of temporal functions above 0, whose offsets are multiplied by phi_k(t)
ALONE = 1 / 3  # size of Dynamics' constants beside Structure's
DYNAMICS = 0.25  # scale of Dynamics' components in u


def flag_levels(n_q: int) -> Tensor:
    """(n_q,) what z_S has in its last channel: which query it is."""
    return (torch.arange(n_q, dtype=torch.float64) - (n_q - 1) / 2) * FLAG_STEP


@dataclass(frozen=True, eq=False)
class FeaturePlan:
    """Where u has what; float64.

    Attributes:
        channels: of each query. offsets: (n_q,) of their ReLUs, open.  shut: (n_q,) what their flag adds.
        gains: (n_q, per) deviations of components in u. rows: (n_q per, c), their directions.
        mixing: (f, n_q) phi. bias: of the ReLU after the map to frames.
        dynamics_rows: (d_D, c). dynamics_offsets: (c,) of u_D^(w), and of u_D^(h).
    """

    channels: list[Tensor]
    offsets: Tensor
    shut: Tensor
    gains: Tensor
    rows: Tensor
    mixing: Tensor
    bias: float
    dynamics_rows: Tensor
    dynamics_offsets: Tensor

    def constants(self) -> Tensor:
        """(f, c): u where all latents are 0."""
        constants = (self.bias + 2 * self.dynamics_offsets).repeat(len(self.mixing), 1)
        for n, channels in enumerate(self.channels):
            constants[:, channels] += self.mixing[:, n : n + 1] * self.offsets[n]
        return constants


def plan_features(config: VidTwinConfig, coder: LinearCoder, space: Tensor, generator: torch.Generator) -> FeaturePlan:
    """Give every component a direction of u. space: (s, c).

    Raises:
        ValueError: hidden is too narrow.
    """
    n_q, c, per, d_D = config.num_queries, config.hidden, config.structure_channels - 1, config.dynamics_x_shape[0]
    mean = space.mean(0)  # a constant, which the norms scale as they do others
    table = space - mean
    channels = _channels(coder.functions, table, generator)
    roots = coder.deviations.double().sqrt()
    moving = torch.tensor([MOVING if k else 1.0 for k in coder.functions], dtype=torch.float64)
    gains = roots / roots.square().mean().sqrt() * math.sqrt(c / (n_q * per)) * moving[:, None]
    rows, groups = torch.zeros(n_q * per, c, dtype=torch.float64), torch.zeros(n_q, c, dtype=torch.float64)
    offsets, sigmas = torch.zeros(n_q, dtype=torch.float64), torch.zeros(n_q, dtype=torch.float64)
    signs, loud = _in_turns(coder.functions)
    mixing = coder.reading.functions[coder.functions].T * signs  # (f, n_q)
    bias = 0.0
    try:
        for n, own in enumerate(channels):
            taken = torch.stack([torch.ones(len(own), dtype=torch.float64), mean[own]])
            rows[n * per : (n + 1) * per, own] = quietest(table[:, own], taken, per, generator)
            groups[n, own] = 1
            sigmas[n] = math.sqrt(gains[n].square().sum() / len(own))
            k = coder.functions[n]
            far = FAR_MOVING if k else FAR
            offsets[n] = far * sigmas[n] + loud[n]
            bias = max(bias, float(-mixing[:, n].min() * (offsets[n] + far * sigmas[n])))
        taken = torch.cat([rows, groups / groups.norm(dim=1, keepdim=True), mean[None] / mean.norm()])
        dynamics_rows = quietest(table, taken, d_D, generator)
    except ValueError as error:
        raise ValueError(
            f"hidden={c}: too narrow for a linear start ({error}); use a wider one, or fewer structure_channels"
        ) from None
    pattern = _own_pattern(coder.functions, signs * offsets, groups) * (d_D > 0)
    dynamics_offsets = pattern - pattern.min() + OPEN_DYNAMICS * DYNAMICS * math.sqrt(d_D / c)
    return FeaturePlan(channels, offsets, offsets + SHUT * sigmas, gains, rows, mixing, bias + 0.5, dynamics_rows, dynamics_offsets)


def _channels(functions: list[int], table: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Channels of each query, as many for each. Those in which the space table moves least go to temporal functions above 0, whose
    components are the smallest."""
    c, n_q = table.shape[1], len(functions)
    quiet = table.square().sum(0).argsort()
    moving = round(c * sum(k > 0 for k in functions) / n_q)
    mixed = [part[torch.randperm(len(part), generator=generator)] for part in (quiet[:moving], quiet[moving:])]
    order = torch.cat(mixed)
    cuts = [round(c * n / n_q) for n in range(n_q + 1)]
    parts = iter(order[a:b].sort().values for a, b in pairwise(cuts))
    found: list[Tensor] = [order[:0]] * n_q
    for n in sorted(range(n_q), key=lambda n: functions[n] == 0):
        found[n] = next(parts)
    return found


def _in_turns(functions: list[int]) -> tuple[Tensor, Tensor]:
    """Signs (n_q,) of queries, 1 and -1 in turns for constants, and their further offsets, which add up to 0 with these signs."""
    constants = [n for n, k in enumerate(functions) if k == 0]
    signs, loud = torch.ones(len(functions), dtype=torch.float64), torch.zeros(len(functions), dtype=torch.float64)
    signs[constants[1::2]] = -1
    loud[constants] = LOUD
    loud[constants[1::2]] *= len(constants[::2]) / max(1, len(constants[1::2]))
    return signs, loud


def _own_pattern(functions: list[int], levels: Tensor, groups: Tensor) -> Tensor:
    """Constants (c,) of u_D^(w), and of u_D^(h), for the norms to divide by where Dynamics is decoded alone: the same in all
    channels of a query, orthogonal to Structure's, ALONE of their size.

    Structure alone is then divided by a little too little, Dynamics alone by less, and shown stronger than it is.
    """
    moving = [n for n, k in enumerate(functions) if k]
    pattern = torch.zeros(len(functions), dtype=torch.float64)
    pattern[moving[::2]], pattern[moving[1::2]] = 1.0, -1.0
    if len(moving) < 2:  # two and two of the constants
        pattern += torch.tensor([1.0 if n % 4 < 2 else -1.0 for n in range(len(functions))], dtype=torch.float64)
    taken = torch.stack([torch.ones_like(levels), levels - levels.mean()])
    basis, _ = torch.linalg.qr(taken.T)
    pattern = pattern - basis @ (basis.T @ pattern)
    size = pattern.norm() / (levels - levels.mean()).norm().clamp(min=1e-9)
    return ALONE / 2 * (pattern / size.clamp(min=1e-6)) @ groups


@torch.no_grad()
def write_decoder(compact: CompactTwin, coder: LinearCoder, x: Tensor, generator: torch.Generator) -> LinearCoder:
    """Everything after the latents. Returns the coder with its neighbours, fitted to x (N, f, s, k)."""
    config, twin = compact.config, compact.twin
    space = twin.decoder.transformer.space.double()
    plan = plan_features(config, coder, space, generator)
    write_structure_decoder(twin.structure_decoder, config, plan)
    if isinstance(twin.dynamics_decoder, DynamicsDecoder):
        write_dynamics_decoder(twin.dynamics_decoder, coder, plan, generator)
    write_norms(compact, coder, plan, space)
    write_head(compact, coder, plan)
    return write_neighbours(compact, coder, x, plan, space, generator)


def write_structure_decoder(decoder: StructureDecoder, config: VidTwinConfig, plan: FeaturePlan) -> None:
    """z_S -> u_S: components pass open ReLUs; hat functions of the flag tell the query, and open its channels alone."""
    n_q, per = config.num_queries, config.structure_channels - 1
    levels, used = flag_levels(n_q), per + n_q + 1
    decoder.conv_in.weight[used:] *= 0.5  # channels that nothing reads yet
    clear(decoder.conv_in, used)
    bias = bias_of(decoder.conv_in)
    for i in range(per):
        decoder.conv_in.weight[i, i, 1, 1], bias[i] = 1.0, OPEN
    for j in range(n_q + 1):  # knots at levels[j - 1]
        decoder.conv_in.weight[per + j, per, 1, 1] = 1.0
        bias[per + j] = -(levels[0] + (j - 1) * FLAG_STEP)
    for conv in decoder.up:
        assert isinstance(conv, nn.Conv2d)
        clear(conv, used)
        for i in range(used):
            conv.weight[i, i, 1, 1] = 1.0
    clear(decoder.conv_out)
    bias = bias_of(decoder.conv_out)
    for i in range(per):
        decoder.conv_out.weight[i, i, 1, 1], bias[i] = 1.0, -OPEN
    for n in range(n_q):
        for j, value in ((n, 1.0), (n + 1, -2.0), (n + 2, 1.0)):
            if j <= n_q:
                decoder.conv_out.weight[per + n, per + j, 1, 1] = value / FLAG_STEP
    clear(decoder.to_hidden)
    for n, own in enumerate(plan.channels):
        weight = torch.zeros(len(own), decoder.to_hidden.weight.shape[1], dtype=torch.float64)
        weight[:, :per] = plan.rows[n * per : (n + 1) * per, own].T * plan.gains[n]
        weight[:, per + n] = plan.shut[n]
        decoder.to_hidden.weight[own] = weight.float()
        decoder.to_hidden.bias[own] = (plan.offsets[n] - plan.shut[n]).float()
    decoder.to_frames.weight.copy_(plan.mixing[:, :, None])
    bias_of(decoder.to_frames).fill_(plan.bias)


def write_dynamics_decoder(decoder: DynamicsDecoder, coder: LinearCoder, plan: FeaturePlan, generator: torch.Generator) -> None:
    """z_D -> u_D: both ReLUs open; a branch that downsamples repeats its values."""
    first, last = decoder.embed[0], decoder.embed[2]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    d_D = len(plan.dynamics_rows)
    nn.init.kaiming_normal_(first.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(first.bias)
    first.weight[:d_D] = torch.eye(d_D)
    first.bias[:d_D] = OPEN_DYNAMICS
    nn.init.zeros_(last.weight)
    last.weight[:, :d_D] = (DYNAMICS * plan.dynamics_rows.T).float()
    last.bias.copy_(plan.dynamics_offsets - OPEN_DYNAMICS * DYNAMICS * plan.dynamics_rows.sum(0))
    ups = (coder.dynamics_pooling.up_w, coder.dynamics_pooling.up_h)
    for stretch, up in zip(decoder.stretch, ups, strict=False):
        assert isinstance(stretch, nn.Sequential)
        for layer, matrix in ((stretch[0], up), (stretch[2], torch.eye(len(up)))):
            assert isinstance(layer, nn.Linear)
            clear(layer)
            layer.weight.copy_(matrix)


def write_norms(compact: CompactTwin, coder: LinearCoder, plan: FeaturePlan, space: Tensor) -> None:
    """Modulations: what every norm divides by and takes off is put back, on average over frames and places."""
    constants = plan.constants()
    tokens = constants[:, None] + space  # (f, s, c)
    spread = tokens - tokens.mean(-1, keepdim=True)
    size = (spread.square().mean(-1) + 1.0).sqrt().mean()  # the content's mean square is about 1
    mean = tokens.mean((0, 1))
    shift = mean.mean() - mean

    even = torch.ones_like(shift)  # blocks see every channel at mean square 1, but those that move: their offsets would outgrow all
    for n, own in enumerate(plan.channels):
        even[own] = (len(own) / plan.gains[n].square().sum()).sqrt() * (0.25 if coder.functions[n] else 1.0)
    for block in compact.twin.decoder.transformer.blocks:
        assert isinstance(block, SpaceTimeBlock)
        for shift_row in (0, 3):
            block.modulation[shift_row] = (shift * even).float()
            block.modulation[shift_row + 1] = (size * even - 1).float()
    modulation = compact.twin.decoder.head.modulation
    modulation[0] = shift.float()
    modulation[1] = float(size) - 1


def feature_readers(coder: LinearCoder, plan: FeaturePlan) -> Tensor:
    """(n, c): what reads the features of `LinearCoder.features` from the content of u."""
    signs = plan.mixing[0].sign()  # phi_k(0) > 0
    structure = (signs[:, None] * coder.deviations.double() / plan.gains).flatten()[:, None] * plan.rows
    dynamics = (coder.dynamics_deviations.double() / DYNAMICS)[:, None] * plan.dynamics_rows
    return torch.cat([structure, dynamics])


def write_head(compact: CompactTwin, coder: LinearCoder, plan: FeaturePlan) -> None:
    """The head: a feature's direction gives its components back to the coefficients."""
    synthesis = torch.cat([*coder.components, coder.synthesis], 1).double()
    compact.head.weight.copy_(synthesis @ feature_readers(coder, plan))
    nn.init.zeros_(compact.head.bias)


def write_neighbours(
    compact: CompactTwin, coder: LinearCoder, x: Tensor, plan: FeaturePlan, space: Tensor, generator: torch.Generator
) -> LinearCoder:
    """First block, spatial attention: heads look beside a place and write what its neighbours tell of it.

    It is written into the directions of constants' components and into those that are still free. The head takes what the place
    itself tells besides.
    """
    block = compact.twin.decoder.transformer.blocks[0]
    assert isinstance(block, SpaceTimeBlock)
    attention, (c, heads) = block.spatial_attention, (compact.config.hidden, block.spatial_attention.heads)
    readers = feature_readers(coder, plan)
    groups = torch.stack([torch.zeros(c, dtype=torch.float64).index_fill(0, own, 1.0) for own in plan.channels])
    even = (1 + block.modulation[1].double()) / (1 + compact.twin.decoder.head.modulation[1].double())  # (c,), as `write_norms`
    still = modulated_norm(plan.constants().mean(0) + space, *block.modulation[:2].double())  # (s, c)
    weights = look_beside(attention, still, torch.cat([readers, groups]) * even, compact.config.grid)
    if not len(weights):
        return coder
    free = untouched(torch.cat([readers, groups, space]))
    coder = coder.with_neighbours(weights, x, len(free), c // heads)
    near = coder.neighbours
    assert near is not None

    constant = [n * len(plan.gains[0]) + i for n, k in enumerate(coder.functions) if k == 0 for i in range(len(plan.gains[0]))]
    unit = readers[constant].norm(dim=1).min() if constant else 1.0
    directions = torch.cat([plan.rows[constant], free[: near.patterns.shape[1]]])  # where corrections are written
    head = (
        compact.head.weight.double() + near.own.double() @ readers + unit * near.patterns.double() @ free[: near.patterns.shape[1]]
    )
    compact.head.weight.copy_(head)
    writers = directions.T @ (torch.linalg.pinv(head @ directions.T) @ near.writers.double())  # (D, c, d)
    for d, (reader, writer) in enumerate(zip(near.readers.double(), writers, strict=True)):
        values, first = 2 * c + d * (c // heads), d * (c // heads)
        read = reader @ (readers / even)
        attention.qkv.weight[values : values + len(read)] = read.float()
        attention.qkv.bias[values : values + len(read)] = -(read @ still.mean(0)).float()
        attention.proj.weight[:, first : first + len(read)] = writer.float()
    return coder
