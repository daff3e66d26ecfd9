"""One decoder layer for all families: h = x + attention(norm(x)); y = h + ffn(norm(h)), and what a `Design` changes in it.

Query, key and value are one product, gate and up another. Grouped queries of a key head are handed to attention as one
longer query, so that keys are neither repeated nor slowly broadcast. Keys and values go straight into the cache.

Rows are computed in the blocks that the step plan gives: every product, norm and activation sees one block at a time and
therefore only the block sizes that the self-test has compared. Attention has spans of its own (inference/engine/numerics/exactness.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from inference.model.config import ModelConfig
from inference.model.families import Activation
from inference.model.rope import Angles, rotate
from inference.model.step_plan import Segment, Span, StepPlan
from inference.model.threads import on_all_threads, on_one_thread, threads_for

_CACHE_LINE_BYTES: Final = 64
_FEW_ITEMS: Final = 1 << 21  # of all heads' keys: what a row does to them is not worth another thread

Linear = Callable[[Tensor], Tensor]
"""A product with a fixed weight: [rows, inputs] -> [rows, outputs]."""

Ffn = Callable[[Tensor, int], Tensor]
"""[rows, hidden] -> the same shape; how many of the rows are real, the others may come to anything finite."""


class LayerKv(Protocol):
    """Keys and values of one session at one layer."""

    def write(self, position: int, keys: Tensor, values: Tensor) -> None:
        """Both [rows, kv_heads, head_dim]."""

    def read(self, end: int, first: int = 0) -> tuple[Tensor, Tensor]:
        """Those from `first` to `end` - 1, each [1, kv_heads, end - first, head_dim]."""


class StepKv(Protocol):
    """Keys and values of all sequences of a step at one layer, whose rows attend in one call."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, kind: int, scale: float, cap: float) -> Tensor:
        """The rows of all segments, one below the other, [rows, heads or kv_heads, head_dim] -> [rows, heads * head_dim]."""


@dataclass(frozen=True, slots=True)
class LayerParts:
    """What a layer computes with; products are ready to call, norms are weights as `rms_norm` takes them."""

    input_norm: Tensor
    qkv: Linear  # hidden -> (heads + 2 kv_heads) * head_dim
    output: Linear  # heads * head_dim -> hidden
    ffn_norm: Tensor
    ffn: Ffn
    query_norm: Tensor | None = None  # [head_dim]
    key_norm: Tensor | None = None
    after_attention_norm: Tensor | None = None  # [hidden]
    after_ffn_norm: Tensor | None = None


@dataclass(frozen=True, slots=True)
class DenseFfn:
    """down(activation(gate) * up), all rows through the same weights."""

    gate_up: Linear  # hidden -> 2 ffn
    down: Linear  # ffn -> hidden
    activation: Activation = Activation.SILU

    def __call__(self, x: Tensor, rows: int) -> Tensor:
        del rows  # padding costs nothing here
        return self.down(gated(self.gate_up(x), self.activation))


class DecoderLayer:
    """One layer with its weights; `kind` is an index of `config.kinds`."""

    def __init__(self, config: ModelConfig, parts: LayerParts, kind: int = 0) -> None:
        self._config = config
        self._parts = parts
        self._kind = kind
        self._scale = config.score_scale
        self._cap = config.design.score_cap
        self._attention = make_attention(config)

    def forward(self, x: Tensor, plan: StepPlan, kvs: Sequence[LayerKv] | StepKv) -> Tensor:
        """x [padded rows, hidden] -> the same shape; keys and values of the real rows are in `kvs` afterwards, which has
        one for every segment, or is one for all of them and then takes no padding."""
        with threads_for(len(x)):
            return self._forward(x, plan, kvs)

    def _forward(self, x: Tensor, plan: StepPlan, kvs: Sequence[LayerKv] | StepKv) -> Tensor:
        heads, kv_heads = self._config.heads, self._config.kv_heads
        blocks = plan.cut(x)
        angles = plan.angles[self._kind]
        qkv = joined([self._project(*each) for each in zip(blocks, angles, strict=True)])
        q, k, v = torch.split(qkv, [heads, kv_heads, kv_heads], 1)
        if isinstance(kvs, Sequence):
            attended = self._attended(q, k, v, plan.segments, kvs)
        else:
            attended = kvs.attend(q, k, v, self._kind, self._scale, self._cap)
        cut = zip(plan.blocks, blocks, plan.cut(attended), strict=True)
        return joined([self._finish(x, y, min(plan.rows - block.start, len(x))) for block, x, y in cut])

    def _attended(
        self, q: Tensor, k: Tensor, v: Tensor, segments: Sequence[Segment], kvs: Sequence[LayerKv]
    ) -> Tensor:
        """Sequence by sequence, [padded rows, heads or kv_heads, head_dim] -> [padded rows, heads * head_dim]."""
        if len(q) == 1:
            (segment,), (kv,) = segments, kvs
            (span,) = segment.spans
            kv.write(segment.position, k, v)
            return self._attend(q, span, kv)
        attended = q.new_zeros(len(q), self._config.heads * self._config.head_dim)
        for segment, kv in zip(segments, kvs, strict=True):
            rows = slice(segment.start, segment.start + segment.rows)
            kv.write(segment.position, k[rows], v[rows])
            for span in segment.spans:
                at = segment.start - segment.position
                rows = slice(at + span.start, at + span.end)
                attended[rows] = self._attend(q[rows], span, kv)
        return attended

    def _project(self, x: Tensor, angles: Angles) -> Tensor:
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
        return torch.cat([rotate(qk, *angles), y[:, turned:]], 1)

    def _attend(self, queries: Tensor, span: Span, kv: LayerKv) -> Tensor:
        """queries [rows, heads, head_dim] -> [rows, heads * head_dim], over the keys that the layer's kind lets them see."""
        rows, kv_heads, head_dim = len(queries), self._config.kv_heads, self._config.head_dim
        view = span.views[self._kind]
        keys, values = kv.read(span.end, view.first)  # [1, kv_heads, keys, head_dim]
        if rows == 1:  # as below, where nothing needs to change places
            q = aligned(queries.view(1, kv_heads, -1, head_dim))
            return self._attention(q, keys, values, view.mask).view(1, -1)
        q = queries.reshape(rows, kv_heads, -1, head_dim).permute(
            1, 2, 0, 3
        )  # [kv_heads, group, rows, head_dim]
        q = aligned(q.reshape(1, kv_heads, -1, head_dim))
        out = self._attention(q, keys, values, view.mask)
        return out.view(kv_heads, -1, rows, head_dim).permute(2, 0, 1, 3).reshape(rows, -1)

    def _finish(self, x: Tensor, attended: Tensor, rows: int) -> Tensor:
        parts, eps = self._parts, self._config.norm_eps
        h = parts.output(attended)
        if parts.after_attention_norm is not None:
            h = rms_norm(h, parts.after_attention_norm, eps)
        h = x + h
        y = parts.ffn(rms_norm(h, parts.ffn_norm, eps), rows)
        if parts.after_ffn_norm is not None:
            y = rms_norm(y, parts.after_ffn_norm, eps)
        return h + y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Over the last dimension. With a weight in float32 the rows are rounded to their own type once, at the end."""
    if weight.dtype is not x.dtype:
        return functional.rms_norm(x.float(), weight.shape, weight, eps).to(x.dtype)
    return functional.rms_norm(x, weight.shape, weight, eps)


def gated(gate_up: Tensor, activation: Activation = Activation.SILU) -> Tensor:
    """[rows, 2 ffn] -> [rows, ffn]"""
    gate, up = gate_up.chunk(2, -1)
    if activation is Activation.SILU:
        return functional.silu(gate) * up
    return functional.gelu(gate, approximate="tanh") * up


def make_attention(config: ModelConfig) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]:
    """`attention` of a sequence by itself: on the threads that its rows and keys are worth, whatever step they come in."""
    scale, cap = config.score_scale, config.design.score_cap
    on_one, on_all = on_one_thread(attention), on_all_threads(attention)
    few = _FEW_ITEMS // config.head_dim

    def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        is_brief = q.shape[1] * q.shape[2] * keys.shape[2] <= few
        return (on_one if is_brief else on_all)(q, keys, values, mask, scale, cap)

    return attend


def attention(
    q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, cap: float
) -> Tensor:
    """q [1, kv_heads, queries, head_dim] over keys and values [1, kv_heads, keys, head_dim]; the shape of q."""
    if not cap:
        return functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale)
    scores = torch.matmul(q, keys.transpose(-1, -2)).float().mul_(scale / cap).tanh_().mul_(cap)
    if mask is not None:
        scores += mask
    return torch.matmul(scores.softmax(-1).to(q.dtype), values)


def soft_capped(logits: Tensor, cap: float) -> Tensor:
    """cap * tanh(logits / cap), in float32."""
    return (logits.float() / cap).tanh_().mul_(cap)


def aligned(x: Tensor) -> Tensor:
    """The same numbers from the start of a cache line on, where torch's own memory begins.

    Some processors' kernels for attention round by how their rows lie, and in a frame a row lies elsewhere than alone.
    """
    return x if x.data_ptr() % _CACHE_LINE_BYTES == 0 else x.clone(memory_format=torch.contiguous_format)


def joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim)


def padded(parts: Sequence[Tensor], rows: int) -> Tensor:
    """The rows of all parts, [.., width] each, in new memory of `rows` rows; the rest is zero."""
    # Copied in any case: the buffers are the callers', and kernels may round by how memory is aligned.
    whole = parts[0].new_zeros(rows, parts[0].shape[1])
    torch.cat(tuple(parts), out=whole[: sum(map(len, parts))])
    return whole
