"""VidTwin on principal coefficients of patches instead of pixels: the same numbers, for a fraction of a training step.

The patch embedding and the head's linear map act on the k coefficients of a patch (`patches.PatchBasis`) instead of its 3 p p pixel
values; all between is VidTwin's own. `unfold` folds the basis into both maps and gives a plain VidTwin, `fold` is the inverse.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import Latents, Posterior
from vidtwin.model.vidtwin import VidTwin
from vidtwin.training.folded import FoldedBlock
from vidtwin.training.patches import PatchBasis, block_side


class CompactTwin(nn.Module):
    """A VidTwin whose clips are coefficients (B, f, s, k).

    Attributes:
        twin: everything but the two maps between pixels and tokens.
        embedding, head: these maps, on coefficients: k -> c and c -> k.
    """

    mean: Tensor
    vectors: Tensor
    signs: Tensor

    def __init__(self, config: VidTwinConfig, components: int):
        super().__init__()
        self.config, b = config, block_side(config.patch)
        k, c = (config.patch // b) ** 2 * components, config.hidden
        self.register_buffer("mean", torch.zeros(3 * b * b))
        self.register_buffer("vectors", torch.zeros(components, 3 * b * b))
        self.register_buffer("signs", torch.ones(components))
        self.embedding, self.head = nn.Linear(k, c), nn.Linear(c, k)
        self.twin = VidTwin(config)
        self.twin.encoder.patch_embedding = nn.Identity()  # type: ignore[assignment]
        self.twin.decoder.head.linear = nn.Identity()  # type: ignore[assignment]
        causal = config.temporal_attention == "causal"
        for transformer in (self.twin.encoder.transformer, self.twin.decoder.transformer):
            transformer.blocks = nn.ModuleList(FoldedBlock(config.hidden, config.heads, causal) for _ in range(config.depth))

    @property
    def basis(self) -> PatchBasis:
        return PatchBasis(block_side(self.config.patch), self.mean, self.vectors, self.signs)

    @basis.setter
    def basis(self, basis: PatchBasis) -> None:
        self.mean.copy_(basis.mean)
        self.vectors.copy_(basis.vectors)
        self.signs.copy_(basis.signs)

    def posterior(self, x: Tensor) -> Posterior:
        """q(z_S, z_D | x) of coefficients (B, f, s, k)."""
        h, w = self.config.grid
        z = self.twin.encoder.transformer(self.embedding(x).float())
        z = rearrange(z, "b f (h w) c -> b c f h w", h=h, w=w)
        return self.twin.posterior_of(z)

    def decode(self, latents: Latents, alone: Tensor | None = None) -> Tensor:
        """Coefficients (B, f, s, k); of clips with a 1 in `alone` (B,) from u_S alone, with a 2 from u_D alone."""
        u_S, u_D = self.twin.u_S(latents), self.twin.u_D(latents)
        if alone is not None:
            u_S, u_D = (u * (alone != other)[:, None, None, None, None] for u, other in ((u_S, 2), (u_D, 1)))
        u = u_S + u_D
        u = self.twin.decoder.transformer(rearrange(u, "b c f h w -> b f (h w) c"))
        return self.head(self.twin.decoder.head(u))

    def forward(
        self,
        x: Tensor,
        sample: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        alone: Tensor | None = None,
    ) -> tuple[Tensor, Posterior]:
        """As `VidTwin.forward`, on coefficients; `alone` as of `decode`."""
        posterior = self.posterior(x).to(torch.float32)
        return self.decode(posterior.sample(generator) if sample else posterior.mean, alone), posterior

    @torch.no_grad()
    def unfold(self) -> VidTwin:
        """The same model on pixels, in eval mode."""
        vectors, mean = self.basis.of_patches(self.config.patch)  # (k, 3 p p), (3 p p,)
        p, c = self.config.patch, self.config.hidden
        model = VidTwin(self.config)
        state = {name.removeprefix("twin."): tensor for name, tensor in self.state_dict().items() if name.startswith("twin.")}
        embedding = self.embedding.weight.double() @ vectors
        state["encoder.patch_embedding.weight"] = embedding.view(c, 3, 1, p, p).float()
        state["encoder.patch_embedding.bias"] = (self.embedding.bias.double() - embedding @ mean).float()
        pixels = torch.cat([self.head.weight.double(), self.head.bias.double()[:, None]], 1).T @ vectors  # (c + 1, 3 p p)
        pixels[-1] += mean
        pixels = rearrange(pixels, "o (c p q) -> (p q c) o", c=3, p=p).float()
        state["decoder.head.linear.weight"], state["decoder.head.linear.bias"] = pixels[:, :-1], pixels[:, -1]
        model.load_state_dict(state)
        return model.eval()

    @classmethod
    @torch.no_grad()
    def fold(cls, model: VidTwin, basis: PatchBasis) -> "CompactTwin":
        """A model on coefficients from one on pixels: exact for clips and weights inside the subspace of the basis."""
        vectors, mean = basis.of_patches(model.config.patch)
        compact = cls(model.config, len(basis))
        compact.basis = basis
        state = dict(model.state_dict())
        embedding = state.pop("encoder.patch_embedding.weight").double().flatten(1)
        compact.embedding.weight.copy_(embedding @ vectors.T)
        compact.embedding.bias.copy_(state.pop("encoder.patch_embedding.bias").double() + embedding @ mean)
        names = ("decoder.head.linear.weight", "decoder.head.linear.bias")
        weight, bias = (
            rearrange(state.pop(name).double(), "(p q c) ... -> (c p q) ...", c=3, p=model.config.patch) for name in names
        )
        compact.head.weight.copy_(vectors @ weight)
        compact.head.bias.copy_(vectors @ (bias - mean))
        compact.twin.load_state_dict(state)
        return compact
