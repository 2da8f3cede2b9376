"""A network that is a linear coder at step 0: the coder of `coder.fit_coder`, written into the weights of a `CompactTwin`.

The network is full of LayerNorms, ReLUs, GELUs and softmaxes. Each is kept where it is linear: norms by a constant direction with
far more energy than the content, ReLUs and GELUs by an offset that what follows takes off again, softmaxes by logits that depend on
time alone. What tells queries apart is the other side of the same coin: a unit whose offset is negative is shut.

docs/linear-start.md goes through it layer by layer; the functions here stand in the order of the walk.
"""

import math

import torch
from torch import Tensor, nn

from vidtwin.model.backbone import Attention, SpaceTimeBlock, SpaceTimeTransformer
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.dynamics import DynamicsEncoder
from vidtwin.model.qformer import QFormer, QFormerLayer, QueryAttention
from vidtwin.model.structure import StructureEncoder
from vidtwin.training.centring import CENTRED_ON, Centring
from vidtwin.training.compact import CompactTwin
from vidtwin.training.linear.coder import LinearCoder, fit_coder
from vidtwin.training.linear.decoder import OPEN, flag_levels, write_decoder
from vidtwin.training.linear.directions import bias_of, clear, orthonormal_complement
from vidtwin.training.linear.neighbours import look_beside
from vidtwin.training.linear.reading import BETA, CODE_GAIN, GAMMA, SHARPNESS, TimeReading, read_time

CONSTANT = 6000.0  # energy of the Q-Former's constant direction, as a multiple of the content's
TILT = 0.3  # share of that direction's amplitude that tells queries apart
GATE = 8.0  # offset of the Q-Former's GELUs: open for a query's own components, shut for the others
TAME = 3.0  # components enter the GELUs divided by this, which stay linear up to GATE * TAME standard deviations
UNREAD = 0.1  # scale of drawn weights of channels that nothing reads yet
SMALL = 0.1  # amplitude of a component in the Q-Former's output, before its last norm


def heads_needed(config: VidTwinConfig, counts: list[int]) -> int:
    """Heads of the Q-Former that read the components of so many queries of each temporal function: constants need one each `width`
    components, the others a pair."""
    width, per = config.query_dim // config.query_heads, config.structure_channels - 1
    return sum(-(-count * per // width) * (2 if k else 1) for k, count in enumerate(counts))


def check_room(config: VidTwinConfig, coefficients: int) -> None:
    """Raise a ValueError that names the field when a config has no room for a linear start."""
    n_q, per = config.num_queries, config.structure_channels - 1
    least = {
        "structure_channels": 2,  # a component and the flag
        "query_dim": 2 + n_q + n_q * per + per,
        "query_mlp": n_q * per,
        "structure_width": max(per + n_q + 1, config.structure_channels),
    }
    for field, low in least.items():
        if getattr(config, field) < low:
            raise ValueError(
                f"{field}={getattr(config, field)}: a linear start needs {low} or more; or choose another initialization"
            )
    for field in ("structure_downsamples", "dynamics_downsamples"):
        if getattr(config, field) > 1:
            raise ValueError(f"{field}={getattr(config, field)}: a linear start allows 1 at most; or choose another one")
    if config.structure_branch != "qformer" or config.dynamics_branch == "qformer":
        branch = config.structure_branch if config.structure_branch != "qformer" else config.dynamics_branch
        raise ValueError(f"branch {branch!r}: a linear start is of the model's own branches; choose another one")
    if config.query_dropout:
        raise ValueError(f"query_dropout={config.query_dropout}: a linear start needs 0, noise there would hide what it codes")


@torch.no_grad()
def start_linear(compact: CompactTwin, x: Tensor, outside: Tensor, logvar: float, seed: int = 0) -> LinearCoder:
    """Let a network start as the best linear coder for clips.

    Args:
        x: coefficients (N, f, s, k) of some hundred clips. outside: (N,) their squared error outside the subspace.
        logvar: of the posterior, at the start.
        seed: of the directions in which content lies, and of what is drawn at random.

    Returns:
        The coder that the network now is, but for rounding and what its nonlinearities bend.

    Raises:
        ValueError: the config has no room; names the field and the least value.
    """
    config, twin = compact.config, compact.twin
    check_room(config, x.shape[-1])
    generator = torch.Generator().manual_seed(seed)
    transformer = twin.encoder.transformer
    reading = read_time(config, transformer.space, transformer.time)
    coder = fit_coder(config, reading, x, outside, lambda counts: heads_needed(config, counts) <= config.query_heads)

    for blocks in (transformer.blocks, twin.decoder.transformer.blocks):
        for block in blocks:
            assert isinstance(block, SpaceTimeBlock)
            _as_identity(block)
    to_coefficients, free = write_embedding(compact, reading, x, generator)
    look_ahead(transformer, to_coefficients, config.grid)
    attentions = [block.temporal_attention for block in transformer.blocks if isinstance(block, SpaceTimeBlock)]
    write_time_code(attentions[0], reading)
    if reading.kernels.any():
        write_subtraction(attentions[1], coder, to_coefficients, free)
    assert isinstance(twin.structure_encoder.qformer, QFormer)
    slots = write_qformer(twin.structure_encoder.qformer, config, coder, to_coefficients, generator)
    write_structure_encoder(twin.structure_encoder, config, slots, logvar)
    if isinstance(twin.dynamics_encoder, DynamicsEncoder):
        write_dynamics_encoder(twin.dynamics_encoder, coder, to_coefficients, free, logvar)
    coder = write_decoder(compact, coder, x, generator)
    centre_attention(compact, x[:CENTRED_ON].float())
    return coder


def look_ahead(transformer: SpaceTimeTransformer, content: Tensor, grid: tuple[int, int]) -> None:
    """First block, spatial attention of the encoder: heads look beside a place, as the decoder's do. Nothing is written yet."""
    block = transformer.blocks[0]
    assert isinstance(block, SpaceTimeBlock)
    space = transformer.space.double()
    spread = space - space.mean(1, keepdim=True)
    still = spread / (spread.square().mean() + 1).sqrt()  # the content's mean square is 1
    look_beside(block.spatial_attention, still, content, grid)


def centre_attention(compact: CompactTwin, x: Tensor) -> None:
    """The decoder's temporal attention reads the residual stream without a norm: take the stream's constants off, by its biases."""
    decoder = compact.twin.decoder
    centring = Centring(decoder)
    centring.measure(lambda: compact(x))
    for name, module in decoder.named_modules():
        if name.endswith("temporal_attention") and isinstance(module, Attention):
            module.qkv.bias.copy_(-module.qkv.weight @ centring.means[f"{name}.qkv"])


def _as_identity(block: SpaceTimeBlock) -> None:
    """A block that passes the residual stream on: gates at 1, so that it learns at once, and maps back into the stream at 0."""
    block.modulation.zero_()
    block.modulation[2].fill_(1.0)
    block.modulation[5].fill_(1.0)
    for layer in (block.spatial_attention.proj, block.temporal_attention.proj, block.mlp.fc2):
        clear(layer)


def write_embedding(compact: CompactTwin, reading: TimeReading, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Patch embedding: principal components of patches, the square root of whitened, in directions that both position tables and
    the ones vector leave free.

    Returns:
        The map back, (k, c): token -> coefficients. Free directions (d_D, c).
    """
    config, space = compact.config, compact.twin.encoder.transformer.space.double()
    c, d_D = config.hidden, config.dynamics_x_shape[0]
    rows = x.flatten(0, 2)
    rows = rows[torch.randperm(len(rows), generator=generator)[:100_000]].float()
    variances, vectors = torch.linalg.eigh((rows.T @ rows).double() / len(rows))
    variances, vectors = variances.flip(0), vectors.flip(1)

    ones = torch.full((1, c), c**-0.5, dtype=torch.float64)
    taken = torch.cat([space / torch.linalg.matrix_norm(space, 2), reading.directions, ones])
    directions = orthonormal_complement(taken, None, generator)
    count = min(len(directions) - d_D, int((variances > 1e-10 * variances[0]).sum()))
    if count < 1:
        raise ValueError(f"hidden={c}: a linear start needs {c - len(directions) + d_D + 1} or more")
    E, free = directions[:count], directions[count : count + d_D]
    deviations = variances[:count].sqrt()
    gains = deviations.sqrt() / deviations.mean().sqrt() / deviations * math.sqrt(c / count)
    compact.embedding.weight.copy_((E.T * gains) @ vectors[:, :count].T)
    compact.embedding.bias.zero_()
    return (vectors[:, :count] / gains) @ E, free


def write_time_code(attention: Attention, reading: TimeReading) -> None:
    """First block, temporal attention: reads the time table, which enters it alone, and writes the time code into the stream."""
    c, heads = attention.proj.weight.shape[0], attention.heads
    d, r = c // heads, len(reading.strengths)
    read = reading.directions / reading.strengths[:, None]  # (r, c): a frame's row of U
    sharp = math.sqrt(SHARPNESS * math.sqrt(d))
    means = reading.means / reading.strengths
    weight, bias = attention.qkv.weight, attention.qkv.bias
    for head in range(heads):
        for part in (0, 1):  # queries and keys
            rows = slice(part * c + head * d, part * c + (head + 1) * d)
            weight[rows], bias[rows] = 0, 0
            rows = slice(rows.start, rows.start + r)
            weight[rows], bias[rows] = (sharp * read).float(), (-sharp * means).float()
    rows, gain = slice(2 * c, 2 * c + r), math.sqrt(len(reading.code))
    weight[rows], bias[rows] = (gain * read).float(), (-gain * means).float()
    attention.proj.weight[:, :r] = (CODE_GAIN * reading.directions.T).float()


def write_subtraction(attention: Attention, coder: LinearCoder, to_coefficients: Tensor, free: Tensor) -> None:
    """Second block, temporal attention: writes - sum_k M_k x W_k W_k^T A^T into the free directions, what Dynamics must not code
    again. Head k has logits gamma phi_k(t) phi_k(t'), head 0 is uniform."""
    reading, (c, heads) = coder.reading, (attention.proj.weight.shape[0], attention.heads)
    d, d_D = c // heads, len(free)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    weight.zero_()
    bias.zero_()
    values = {k: coder.analysis.double() @ (W @ W.T).double() @ to_coefficients for k, W in coder.bases()}  # (d_D, c) each
    constant = torch.zeros(d_D, c, dtype=torch.float64)
    for k, value in values.items():
        if k == 0:
            constant += value
        if k == 0 or not reading.kernels[k].any():
            continue
        logits = (reading.logits[k] @ reading.directions).float()  # of the residual stream
        scale = GAMMA * math.sqrt(d)
        weight[k * d], bias[k * d] = scale * logits, scale * reading.offsets[k].float()
        weight[c + k * d] = logits
        gain = reading.kernel_gains[k]
        weight[2 * c + k * d :][:d_D] = (gain * value).float()
        constant -= gain * value
        attention.proj.weight[:, k * d : k * d + d_D] = -free.T.float()
    weight[2 * c :][:d_D] = constant.float()
    attention.proj.weight[:, :d_D] = -free.T.float()


def write_qformer(
    qformer: QFormer, config: VidTwinConfig, coder: LinearCoder, to_coefficients: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Q-Former: every query reads all components; its MLP keeps those of its own and puts them into the same slots for all queries.

    Returns:
        Rows that read the output: the slots (per, d_q), of deviation 1, and the flag (d_q,), as `flag_levels`.
    """
    layers = [layer for layer in qformer.layers if isinstance(layer, QFormerLayer)]
    n_q, d_q, per = config.num_queries, config.query_dim, config.structure_channels - 1
    content = n_q * per
    basis = orthonormal_complement(torch.ones(1, d_q), 1 + n_q + content + per, generator)
    constant, own, read, slots = basis[0], basis[1 : 1 + n_q], basis[1 + n_q : 1 + n_q + content], basis[1 + n_q + content :]
    first, cross = layers[0], layers[0].cross_attention
    assert cross is not None
    loud = math.sqrt(CONSTANT * content)  # the constant's norm
    unit = loud / math.sqrt(d_q)  # what the norm after the attention divides by
    scale = coder.deviations.sqrt() / coder.deviations.mean().sqrt()  # of components inside, (n_q, per): mean square 1

    for layer in layers:
        for attention in (layer.self_attention, layer.cross_attention):
            if attention is not None:
                for linear in (attention.query, attention.key, attention.value, attention.proj):
                    clear(linear, None if linear is attention.proj or attention is cross else 0)
                nn.init.constant_(attention.norm.weight, 1.0 if layer is first else 1 / SMALL)
        clear(layer.mlp.fc1, None if layer is first else 0)
        clear(layer.mlp.fc2)
        nn.init.constant_(layer.mlp.norm.weight, 1 / SMALL)
    qformer.queries.copy_((math.sqrt(1 - TILT**2) * constant + TILT * own) * math.sqrt(d_q))
    first.self_attention.norm.weight.fill_(unit)

    _write_heads(cross, coder, to_coefficients, scale, constant / (loud * math.sqrt(1 - TILT**2)), read)

    tau = TILT * math.sqrt(d_q)  # what a query has of its own direction after the norm
    for n in range(n_q):
        units = slice(n * per, (n + 1) * per)
        first.mlp.fc1.weight[units] = (read[units] * unit / scale[n][:, None] / TAME + 2 * GATE / tau * own[n]).float()
        first.mlp.fc1.bias[units] = -GATE
        first.mlp.fc2.weight[:, units] = (SMALL * TAME * slots.T).float()
    first.mlp.fc2.bias.copy_(-SMALL * TAME * GATE * slots.sum(0))
    return slots, (flag_levels(n_q).double() @ own) / tau * SMALL


def _write_heads(
    cross: QueryAttention, coder: LinearCoder, to_coefficients: Tensor, scale: Tensor, ask: Tensor, read: Tensor
) -> None:
    """Cross-attention: head after head reads components through a window of time; of a temporal function above 0 the window is
    the difference of two softmaxes, whose sum with both signs the output map makes."""
    reading, per = coder.reading, scale.shape[1]
    width = len(ask) // cross.heads
    head = 0
    for k in sorted(set(coder.functions)):
        todo = [(n, i) for n, of in enumerate(coder.functions) if of == k for i in range(per)]
        for first in range(0, len(todo), width):
            for sign in (1, -1) if k else (1,):
                if k:
                    cross.query.weight[head * width] = ask.float()
                    cross.key.weight[head * width] = (
                        sign * BETA * math.sqrt(width) * reading.logits[k] @ reading.directions
                    ).float()
                for slot, (n, i) in enumerate(todo[first : first + width], head * width):
                    component = coder.components[n][:, i].double() @ to_coefficients
                    cross.value.weight[slot] = (component * scale[n][i] / coder.deviations[n][i]).float()
                    cross.proj.weight[:, slot] = (sign * reading.pair_gains[k] * read[n * per + i]).float()
                head += 1


def write_structure_encoder(encoder: StructureEncoder, config: VidTwinConfig, slots: tuple[Tensor, Tensor], logvar: float) -> None:
    """Convolutions: centre taps to z_S = (components of deviation 1, flag). A stride-2 one takes means of places, and the flag
    where it stands."""
    per, d_S = len(slots[0]), config.structure_channels
    encoder.conv_in.weight.mul_(UNREAD)
    clear(encoder.conv_in, d_S)
    encoder.conv_in.weight[:d_S, :, 1, 1] = torch.cat([slots[0], slots[1][None]]).float()
    for conv in _convolutions(encoder.down):
        conv.weight.mul_(UNREAD)
        clear(conv, d_S)
        for i in range(per):
            conv.weight[i, i, 1:, 1:] = 0.25
        conv.weight[per, per, 1, 1] = 1.0
        bias_of(conv)[:d_S] = OPEN
    clear(encoder.moments)
    for i in range(d_S):
        encoder.moments.weight[i, i, 1, 1] = 1.0
    bias = bias_of(encoder.moments)
    bias[:d_S], bias[d_S:] = -OPEN if len(encoder.down) else 0.0, logvar


def write_dynamics_encoder(
    encoder: DynamicsEncoder, coder: LinearCoder, to_coefficients: Tensor, free: Tensor, logvar: float
) -> None:
    """Means over axes, then a centre tap: z_D = A r', of deviation 1. A stride-2 convolution reads A r' first and takes means."""
    d_D = len(free)
    rows = (coder.analysis.double() @ to_coefficients + (free if coder.reading.kernels.any() else 0)).float()
    rows = rows / coder.dynamics_deviations[:, None]
    for conv in _convolutions(encoder.down):
        conv.weight.mul_(UNREAD)
        clear(conv, d_D)
        conv.weight[:d_D, :, 1:, 1:] = 0.25 * rows[:, :, None, None]
        bias_of(conv)[:d_D] = OPEN
    clear(encoder.moments)
    encoder.moments.weight[:d_D, :, 1, 1] = torch.eye(d_D, encoder.moments.weight.shape[1]) if len(encoder.down) else rows
    bias = bias_of(encoder.moments)
    bias[:d_D], bias[d_D:] = -OPEN if len(encoder.down) else 0.0, logvar


def _convolutions(modules: nn.ModuleList) -> list[nn.Conv2d]:
    """The stride-2 convolutions of a branch; a linear start has one at most."""
    return [module for module in modules if isinstance(module, nn.Conv2d)]
