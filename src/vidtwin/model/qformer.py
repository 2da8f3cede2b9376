"""The temporal Q-Former: learned queries that read a sequence (BLIP-2's, arXiv 2301.12597; VidTwin Sec. 3.3).

Letters: b sequences, l length of a sequence, c its width, n_q queries of width d_q, n heads.
"""

import torch
import torch.nn.functional as nnf
from einops import rearrange
from torch import Tensor, nn

NORM_EPS = 1e-12  # as released (BERT's)


class QueryAttention(nn.Module):
    """Queries attend to a context, output projection, residual, post-norm: (b, n_q, d_q), (b, l, c) -> (b, n_q, d_q)."""

    def __init__(self, d_q: int, context: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(d_q, d_q)
        self.key = nn.Linear(context, d_q)
        self.value = nn.Linear(context, d_q)
        self.proj = nn.Linear(d_q, d_q)
        self.norm = nn.LayerNorm(d_q, eps=NORM_EPS)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            rearrange(y, "b l (n d) -> b n l d", n=self.heads) for y in (self.query(h), self.key(context), self.value(context))
        )
        dropout = self.dropout if self.training else 0.0
        y = rearrange(nnf.scaled_dot_product_attention(q, k, v, dropout_p=dropout), "b n l d -> b l (n d)")
        return self.norm(nnf.dropout(self.proj(y), dropout) + h)


class QueryMLP(nn.Module):
    def __init__(self, d_q: int, mlp: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.fc1 = nn.Linear(d_q, mlp)
        self.fc2 = nn.Linear(mlp, d_q)
        self.norm = nn.LayerNorm(d_q, eps=NORM_EPS)

    def forward(self, h: Tensor) -> Tensor:
        return self.norm(nnf.dropout(self.fc2(nnf.gelu(self.fc1(h))), self.dropout, self.training) + h)


class QFormerLayer(nn.Module):
    """Self-attention among the queries, cross-attention to the context (in every second layer), MLP; all post-norm."""

    def __init__(self, d_q: int, c: int, heads: int, mlp: int, dropout: float, cross: bool):
        super().__init__()
        self.self_attention = QueryAttention(d_q, d_q, heads, dropout)
        self.cross_attention = QueryAttention(d_q, c, heads, dropout) if cross else None
        self.mlp = QueryMLP(d_q, mlp, dropout)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        h = self.self_attention(h, h)
        if self.cross_attention is not None:
            h = self.cross_attention(h.expand(len(context), -1, -1), context)
        return self.mlp(h)


class QFormer(nn.Module):
    """n_q learned queries summarise each sequence: (b, l, c) -> (b, n_q, d_q).

    The context carries no position code of its own: permuting its l elements changes nothing.
    """

    def __init__(self, n_q: int, d_q: int, c: int, layers: int, heads: int, mlp: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.queries = nn.Parameter(torch.empty(n_q, d_q))
        nn.init.normal_(self.queries)
        self.norm = nn.LayerNorm(d_q, eps=NORM_EPS)
        self.layers = nn.ModuleList(QFormerLayer(d_q, c, heads, mlp, dropout, cross=index % 2 == 0) for index in range(layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, context: Tensor) -> Tensor:
        b = len(context) if self.training else 1  # until they meet a context, queries differ by dropout only
        h = nnf.dropout(self.norm(self.queries).expand(b, -1, -1), self.dropout, self.training)
        for layer in self.layers:
            h = layer(h, context)
        return h
