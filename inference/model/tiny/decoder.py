"""The decoder that weft-tiny is trained with: a Llama with the tensor names of Hugging Face.

Rule of the file: shapes and names follow `config.json` alone, so that what is trained here loads unchanged in the shard
engine and in transformers. The engine has its own blocks; these ones keep gradients and weigh little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Cache = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of the network; the defaults are those of weft-tiny."""

    vocabulary: int
    hidden: int = 80
    layers: int = 8
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 208
    context: int = 512
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


class RmsNorm(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.hidden))
        self.eps = shape.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv_width, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv_width, bias=False)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, rows, _ = x.shape
        split = (batch, rows, -1, self.shape.head_dim)
        q = rotate(self.q_proj(x).view(split).transpose(1, 2), cos, sin)  # [batch, heads, rows, head_dim]
        k = rotate(self.k_proj(x).view(split).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(split).transpose(1, 2)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        share = self.shape.heads // self.shape.kv_heads
        shared_k, shared_v = k.repeat_interleave(share, dim=1), v.repeat_interleave(share, dim=1)
        # With a cache the query is one row that sees everything; without one the mask is the usual triangle.
        y = functional.scaled_dot_product_attention(
            q, shared_k, shared_v, attn_mask=mask, is_causal=past is None and mask is None
        )
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, rows, -1))
        return out, (k, v)


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape)
        self.mlp = Mlp(shape)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mixed, kept = self.self_attn(self.input_layernorm(x), cos, sin, mask, past)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), kept


class Inner(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RmsNorm(shape)


class Decoder(nn.Module):
    """Token ids to logits, with tied embeddings; hands back the cache that the next call continues from."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Inner(shape)
        pairs = torch.arange(0, shape.head_dim, 2) / shape.head_dim
        angles = torch.outer(torch.arange(shape.context), shape.rope_theta**-pairs).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)  # [context, head_dim]
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=_start_std(name, weight.shape[1]))

    def forward(
        self, ids: Tensor, cache: Cache | None = None, items: Tensor | None = None
    ) -> tuple[Tensor, Cache]:
        """`items` numbers the item that each id belongs to; where given, ids see their own item only."""
        start = cache[0][0].shape[2] if cache else 0
        cos, sin = self.cos[start : start + ids.shape[1]], self.sin[start : start + ids.shape[1]]
        mask = None if items is None else (items[:, None, :, None] == items[:, None, None, :]).tril()
        x = self.model.embed_tokens(ids)  # [batch, rows, hidden]
        kept: Cache = []
        for index, layer in enumerate(self.model.layers):
            x, pair = layer(x, cos, sin, mask, cache[index] if cache else None)
            kept.append(pair)
        return functional.linear(self.model.norm(x), self.model.embed_tokens.weight), kept


def _start_std(name: str, fan_in: int) -> float:
    if "embed_tokens" in name:
        return 0.1
    # What writes into the residual stream starts at nothing, or the first layers drown the embedding.
    return 0.0 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1 / math.sqrt(fan_in)
