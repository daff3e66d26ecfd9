"""The decoder layer of Llama and Qwen3, written for shards: h = x + attention(norm(x)); y = h + ffn(norm(h)).

Query, key and value are one product, gate and up another. Grouped queries of a key head are handed to attention as one
longer query, so that keys are neither repeated nor slowly broadcast. Keys and values go straight into the cache.

Rows are computed in the blocks that the step plan gives: every product, norm and activation sees one block at a time and
therefore only the block sizes that the self-test has compared. Attention has spans of its own (inference/engine/exactness.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from inference.model.config import ModelConfig
from inference.model.rope import rotate

Linear = Callable[[Tensor], Tensor]
"""A product with a fixed weight: [rows, inputs] -> [rows, outputs]."""


class LayerKv(Protocol):
    """Keys and values of one session at one layer."""

    def write(self, position: int, keys: Tensor, values: Tensor) -> None:
        """Both [rows, kv_heads, head_dim]."""

    def read(self, end: int) -> tuple[Tensor, Tensor]:
        """Those before `end`, each [1, kv_heads, end, head_dim]."""


@dataclass(frozen=True, slots=True)
class LayerParts:
    """What a layer computes with; products are ready to call, norms are plain weights."""

    input_norm: Tensor
    qkv: Linear  # hidden -> (heads + 2 kv_heads) * head_dim
    output: Linear  # heads * head_dim -> hidden
    ffn_norm: Tensor
    gate_up: Linear  # hidden -> 2 ffn
    down: Linear  # ffn -> hidden
    query_norm: Tensor | None = None  # [head_dim]
    key_norm: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Rows that attend in one call: `start` to `end` - 1 by position. `mask` is None for a lone row."""

    start: int
    end: int
    mask: Tensor | None  # [group * rows, end], 0 or -inf


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one sequence in a step: `rows` of them from row `start` of x on, at `position` of the sequence."""

    start: int
    position: int
    rows: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How the rows of a step are computed: blocks of the padded rows, and segments of the real ones."""

    blocks: tuple[slice, ...]
    segments: tuple[Segment, ...]
    cos: Tensor  # [padded rows, 1, head_dim]
    sin: Tensor

    @property
    def rows(self) -> int:
        """The real ones."""
        return self.segments[-1].start + self.segments[-1].rows


class DecoderLayer:
    """One layer with its weights."""

    def __init__(self, config: ModelConfig, parts: LayerParts) -> None:
        self._config = config
        self._parts = parts

    def forward(self, x: Tensor, plan: StepPlan, kvs: Sequence[LayerKv]) -> Tensor:
        """x [padded rows, hidden] -> the same shape; keys and values of the real rows are in `kvs` afterwards, which has
        one for every segment."""
        heads, kv_heads = self._config.heads, self._config.kv_heads
        qkv = joined([self._project(x[block], plan.cos[block], plan.sin[block]) for block in plan.blocks])
        q, k, v = torch.split(qkv, [heads, kv_heads, kv_heads], 1)
        attended = x.new_zeros(len(x), heads * self._config.head_dim)
        for segment, kv in zip(plan.segments, kvs, strict=True):
            rows = slice(segment.start, segment.start + segment.rows)
            kv.write(segment.position, k[rows], v[rows])
            for span in segment.spans:
                at = segment.start - segment.position
                rows = slice(at + span.start, at + span.end)
                attended[rows] = self._attend(q[rows], span, kv)
        return joined([self._finish(x[block], attended[block]) for block in plan.blocks])

    def _project(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[rows, hidden] -> turned queries and keys, and values: [rows, heads + 2 kv_heads, head_dim]."""
        config, parts = self._config, self._parts
        turned = config.heads + config.kv_heads
        y = parts.qkv(rms_norm(x, parts.input_norm, config.norm_eps))
        y = y.view(len(x), turned + config.kv_heads, config.head_dim)
        if parts.query_norm is not None and parts.key_norm is not None:
            q = rms_norm(y[:, : config.heads], parts.query_norm, config.norm_eps)
            k = rms_norm(y[:, config.heads : turned], parts.key_norm, config.norm_eps)
            qk = torch.cat([q, k], 1)
        else:
            qk = y[:, :turned]
        return torch.cat([rotate(qk, cos, sin), y[:, turned:]], 1)

    def _attend(self, queries: Tensor, span: Span, kv: LayerKv) -> Tensor:
        """queries [rows, heads, head_dim] -> [rows, heads * head_dim], over all keys before `span.end`."""
        rows, kv_heads, head_dim = len(queries), self._config.kv_heads, self._config.head_dim
        keys, values = kv.read(span.end)  # [1, kv_heads, span.end, head_dim]
        q = queries.reshape(rows, kv_heads, -1, head_dim).permute(
            1, 2, 0, 3
        )  # [kv_heads, group, rows, head_dim]
        q = q.reshape(1, kv_heads, -1, head_dim)
        out = functional.scaled_dot_product_attention(q, keys, values, attn_mask=span.mask)
        return out.view(kv_heads, -1, rows, head_dim).permute(2, 0, 1, 3).reshape(rows, -1)

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        parts = self._parts
        h = x + parts.output(attended)
        return h + parts.down(gated(parts.gate_up(rms_norm(h, parts.ffn_norm, self._config.norm_eps))))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(x, weight.shape, weight, eps)


def gated(gate_up: Tensor) -> Tensor:
    """[rows, 2 ffn] -> [rows, ffn]"""
    gate, up = gate_up.chunk(2, -1)
    return functional.silu(gate) * up


def causal_mask(start: int, end: int, group: int, dtype: torch.dtype) -> Tensor:
    """What rows `start` to `end` - 1 may not see, once per query head of a group: [group * rows, end]."""
    hidden = torch.full((end - start, end), float("-inf"), dtype=dtype).triu(start + 1)
    return hidden.repeat(group, 1)


def joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


def padded(parts: Sequence[Tensor], rows: int) -> Tensor:
    """The rows of all parts, [.., width] each, in new memory of `rows` rows; the rest is zero."""
    # Copied in any case: the buffers are the callers', and kernels may round by how memory is aligned.
    whole = parts[0].new_zeros(rows, parts[0].shape[1])
    torch.cat(tuple(parts), out=whole[: sum(map(len, parts))])
    return whole
