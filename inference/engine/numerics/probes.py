"""What the self-test computes: the products of a model's own shapes, and all else that a layer does to rows.

Kernels are chosen by shape, so that probes have the shapes of the model. Half of the probe rows cancel (the second half of
the inputs repeats the first against negated weights), so that what comes out is rounding alone and any other order of
summation shows, where ordinary data in bf16 would hide it in 9,999 of 10,000 results. They are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import torch
from torch import Tensor

from inference.engine.experts import make_router, routed
from inference.engine.kernels.linear import Kernel, as_wanted, make_linear, take
from inference.engine.numerics.exactness import BLOCK_ROWS, RowPlan
from inference.model.blocks import gated, make_attention, rms_norm
from inference.model.config import ModelConfig
from inference.model.families import Rope
from inference.model.kv_form import KvForm
from inference.model.rope import Angles, RopeTable, rotate
from inference.model.step_plan import causal_mask

PROBE_ROWS: Final = max(BLOCK_ROWS)
MARKED_ROWS: Final = 16  # of a probe that are part of a machine's fingerprint
_BLOCKS_MAX: Final = 16  # that are computed to see whether a larger one agrees with them
_TILE_OUTPUTS: Final = 256  # weights repeat after this many outputs: a large model's take no time to draw
_SEED: Final = 1914

Apply = Callable[[Tensor], Tensor]


class Probe:
    """A function of rows with rows to try it on, each block of them computed once."""

    def __init__(self, apply: Apply, x: Tensor) -> None:
        self._apply = apply
        self._x = x
        self._blocks: dict[tuple[int, int], Tensor] = {}

    def agreeing(self, lone: int) -> frozenset[int]:
        """The block sizes in which every row comes out as it does alone; empty if it does not do so in `lone` rows."""
        alone = torch.cat([self._alone(row, lone) for row in range(lone)])
        if not torch.equal(alone, self._block(0, lone)):
            return frozenset()
        # A size that agrees stands for the smaller ones from then on: it is quicker to compute.
        agreeing, step = {lone}, lone
        for size in (size for size in BLOCK_ROWS if size > lone):
            if size > _BLOCKS_MAX * step:
                break
            if torch.equal(self._block(0, size), self.rows(size, step)):
                agreeing.add(size)
                step = size
        return frozenset(agreeing)

    def rows(self, rows: int, step: int) -> Tensor:
        """The first rows, computed in blocks of `step`."""
        return torch.cat([self._block(start, start + step) for start in range(0, rows, step)])

    def _block(self, start: int, end: int) -> Tensor:
        if (start, end) not in self._blocks:
            self._blocks[start, end] = self._apply(self._x[start:end])
        return self._blocks[start, end]

    def _alone(self, row: int, lone: int) -> Tensor:
        padded = torch.zeros_like(self._x[:lone])
        padded[0] = self._x[row]
        return self._apply(padded)[:1]


def product_probe(outputs: int, inputs: int, dtype: torch.dtype, kernel: Kernel) -> Probe:
    half = inputs // 2
    weight = noise(min(outputs, _TILE_OUTPUTS), inputs, dtype)
    weight[:, half : 2 * half] = -weight[:, :half]
    whole = take(as_wanted(weight, kernel), torch.arange(outputs) % len(weight))
    x = noise(PROBE_ROWS, inputs, dtype)
    x[::2, half : 2 * half] = x[::2, :half]
    return Probe(make_linear(whole, kernel), x)


def rowwise_probes(config: ModelConfig, form: KvForm) -> Iterator[Probe]:
    """All that layers of this model, and caches of that form, do to rows besides products and attention."""
    design, eps, dtype = config.design, config.norm_eps, form.dtype
    experts, heads = design.experts, config.heads + config.kv_heads
    ffn = config.ffn if experts is None else experts.ffn
    norm_dtype = torch.float32 if design.adds_one_to_norms else dtype
    weight, head_weight = noise(1, config.hidden, norm_dtype)[0], noise(1, config.head_dim, norm_dtype)[0]
    rows = noise(PROBE_ROWS, config.hidden, dtype)
    turned = noise(PROBE_ROWS, heads * config.head_dim, dtype).view(PROBE_ROWS, heads, config.head_dim)
    yield Probe(lambda x: rms_norm(x, weight, eps), rows)
    yield Probe(lambda x: gated(x, design.activation), noise(PROBE_ROWS, 2 * ffn, dtype) * 4)
    for rope in _ropes(config):
        angles = RopeTable(rope, dtype).rows(7, 1)
        yield Probe(partial(_turned, weight=head_weight, eps=eps, angles=angles), turned)
    if form.is_int8:
        yield Probe(lambda x: form.read(form.stored(x, x)[0]), turned)
    if experts is not None:
        yield Probe(make_router(noise(experts.count, config.hidden, dtype), RowPlan((1,))), rows)
        yield Probe(lambda x: torch.cat(routed(x, experts), 1), noise(PROBE_ROWS, experts.count, dtype) * 4)


def attention_results(config: ModelConfig, dtype: torch.dtype) -> Iterator[Tensor]:
    """Angles, a lone row over many keys, and a whole block."""
    for rope in _ropes(config):
        yield from RopeTable(rope, dtype).rows(0, PROBE_ROWS)
    group, rows = config.group, PROBE_ROWS
    keys = noise(config.kv_heads * rows, config.head_dim, dtype).view(1, config.kv_heads, rows, -1)
    queries = noise(config.heads * rows, config.head_dim, dtype).view(1, config.kv_heads, group * rows, -1)
    attend = make_attention(config)
    yield attend(queries[:, :, :group], keys, keys, None)
    yield attend(queries, keys, keys, causal_mask(0, rows, group, dtype))


def _ropes(config: ModelConfig) -> tuple[Rope, ...]:
    return tuple(dict.fromkeys(kind.rope for kind in config.kinds))


def _turned(x: Tensor, weight: Tensor, eps: float, angles: Angles) -> Tensor:
    return rotate(rms_norm(x, weight, eps), *angles)


def noise(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Numbers in [-1, 1) drawn as integers: the same on every machine."""
    generator = torch.Generator().manual_seed(_SEED + columns)
    drawn = torch.randint(-(1 << 23), 1 << 23, (rows, columns), generator=generator, dtype=torch.int32)
    return (drawn.float() / (1 << 23)).to(dtype)
