"""Finds at start which kernel and block sizes make a row's bits independent of its neighbours on this machine.

Probes have the shapes of the model's own products, because kernels are chosen by shape. Half of the probe rows cancel
(the second half of the inputs repeats the first against negated weights), so that what comes out is rounding alone and
any other order of summation shows, where ordinary data in bf16 would hide it in 9,999 of 10,000 results.

The probes are the same everywhere, so a hash of their results tells machines apart whose kernels round differently. It
is part of the numerics class: equal classes give equal bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.engine.exactness import BLOCK_ROWS, LONE_ROWS, WHOLE_FRAMES, RowPlan
from inference.engine.linear import Kernel, can_pack, make_linear
from inference.model.blocks import Linear, causal_mask, gated, rms_norm
from inference.model.config import ModelConfig
from inference.model.rope import RopeTable, rotate
from inference.model.weights import TORCH_DTYPES

_ROWS: Final = max(BLOCK_ROWS)
_TILE_OUTPUTS: Final = (
    256  # probe weights repeat after this many outputs: a large model's take no time to draw
)
_SEED: Final = 1914


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a shard computes. `is_exact` if every row has the bits it has alone, whatever frame it comes in."""

    kernel: Kernel
    rows: RowPlan
    is_exact: bool
    numerics_class: str


def find_arithmetic(config: ModelConfig, dtype: str, numerics: str) -> Arithmetic:
    """The quickest arithmetic that keeps what `numerics` promises, or with `is_exact` false where none does."""
    torch_dtype = TORCH_DTYPES[dtype]
    kernels = [Kernel.PACKED, Kernel.PLAIN] if can_pack(torch_dtype) else [Kernel.PLAIN]
    place = "/".join(
        (
            dtype,
            "cpu",
            torch.backends.cpu.get_cpu_capability(),
            f"torch{torch.__version__.partition('+')[0]}",
            f"t{torch.get_num_threads()}",
        )
    )
    if numerics == "fast":
        return Arithmetic(kernels[0], WHOLE_FRAMES, False, f"fast/{place}/{kernels[0].value}")
    for kernel in kernels:
        for lone in LONE_ROWS:
            if plan := _exact_plan(config, torch_dtype, kernel, lone):
                # Not the larger blocks: whatever they are, rows have the bits that they have alone.
                mark = f"{kernel.value}{lone}/{_fingerprint(config, torch_dtype, kernel, lone)}"
                return Arithmetic(kernel, plan, True, f"exact/{place}/{mark}")
    return Arithmetic(kernels[0], WHOLE_FRAMES, False, f"inexact/{place}/{kernels[0].value}")


@torch.inference_mode()
def find_head_rows(head: Linear, width: int, dtype: str, arithmetic: Arithmetic) -> RowPlan | None:
    """How rows of `width` go through the head of the model; None if each has to go alone.

    Tried on the head itself, which is too large to have twice: it has so many outputs that rounding shows on any data. It is
    no part of the numerics class, for only its holder draws tokens.
    """
    if not arithmetic.is_exact:
        return WHOLE_FRAMES
    lone = arithmetic.rows.lone
    agreeing = _agreeing(_Rowwise(head, _noise(_ROWS, width, TORCH_DTYPES[dtype])), lone)
    sizes = tuple(sorted(agreeing & set(arithmetic.rows.sizes)))
    return RowPlan(sizes) if lone in sizes else None


def _exact_plan(config: ModelConfig, dtype: torch.dtype, kernel: Kernel, lone: int) -> RowPlan | None:
    """All sizes in which every row has the bits that it has alone, padded to `lone`; None if it has not even there."""
    sizes = frozenset(BLOCK_ROWS)
    for outputs, inputs in _products(config):
        sizes &= _exact_blocks(outputs, inputs, dtype, kernel, lone)
    for rowwise in _rowwise(config, dtype):
        sizes &= _agreeing(rowwise, lone)
    return RowPlan(tuple(sorted(sizes))) if lone in sizes else None


def _products(config: ModelConfig) -> tuple[tuple[int, int], ...]:
    """(outputs, inputs) of a layer's four products."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return (
        (queries + 2 * keys, config.hidden),
        (config.hidden, queries),
        (2 * config.ffn, config.hidden),
        (config.hidden, config.ffn),
    )


@dataclass(frozen=True, slots=True)
class _Rowwise:
    """A function of rows and the rows to try it on."""

    apply: Callable[[Tensor], Tensor]
    x: Tensor


def _rowwise(config: ModelConfig, dtype: torch.dtype) -> Iterator[_Rowwise]:
    """All that a layer does to rows besides products and attention."""
    weight, head_weight = _noise(1, config.hidden, dtype)[0], _noise(1, config.head_dim, dtype)[0]
    heads = config.heads + config.kv_heads
    cos, sin = RopeTable(config, dtype).rows(7, 1)
    yield _Rowwise(lambda x: rms_norm(x, weight, config.norm_eps), _noise(_ROWS, config.hidden, dtype))
    yield _Rowwise(gated, _noise(_ROWS, 2 * config.ffn, dtype) * 4)
    yield _Rowwise(
        lambda x: rotate(rms_norm(x, head_weight, config.norm_eps), cos, sin),
        _noise(_ROWS, heads * config.head_dim, dtype).view(_ROWS, heads, config.head_dim),
    )


@cache
@torch.inference_mode()
def _exact_blocks(outputs: int, inputs: int, dtype: torch.dtype, kernel: Kernel, lone: int) -> frozenset[int]:
    return _agreeing(_product(outputs, inputs, dtype, kernel, lone), lone)


def _product(outputs: int, inputs: int, dtype: torch.dtype, kernel: Kernel, lone: int) -> _Rowwise:
    half = inputs // 2
    weight = _noise(min(outputs, _TILE_OUTPUTS), inputs, dtype)
    weight[:, half : 2 * half] = -weight[:, :half]
    weight = weight.repeat(-(-outputs // len(weight)), 1)[:outputs].contiguous()
    x = _noise(_ROWS, inputs, dtype)
    x[::2, half : 2 * half] = x[::2, :half]
    return _Rowwise(make_linear(weight, kernel, lone), x)


@torch.inference_mode()
def _agreeing(rowwise: _Rowwise, lone: int) -> frozenset[int]:
    """The block sizes in which every row comes out as it does alone; empty if it does not do so in `lone` rows."""
    alone = torch.cat([_alone(rowwise, row, lone) for row in range(lone)])
    grouped = torch.cat([rowwise.apply(part) for part in torch.split(rowwise.x, lone)])
    if not torch.equal(alone, grouped[:lone]):
        return frozenset()
    return frozenset(
        block
        for block in BLOCK_ROWS
        if block >= lone and torch.equal(rowwise.apply(rowwise.x[:block]), grouped[:block])
    )


def _alone(rowwise: _Rowwise, row: int, lone: int) -> Tensor:
    padded = torch.zeros_like(rowwise.x[:lone])
    padded[0] = rowwise.x[row]
    return rowwise.apply(padded)[:1]


@torch.inference_mode()
def _fingerprint(config: ModelConfig, dtype: torch.dtype, kernel: Kernel, lone: int) -> str:
    """A hash of what the probes come to; attention and the rotary table have their part in it."""
    probes = [_product(outputs, inputs, dtype, kernel, lone) for outputs, inputs in _products(config)]
    results = [probe.apply(probe.x[:lone]) for probe in (*probes, *_rowwise(config, dtype))]
    results += RopeTable(config, dtype).rows(0, _ROWS)
    results += _attention(config, dtype)
    sha256 = hashlib.sha256()
    for result in results:
        sha256.update(result.float().contiguous().numpy().tobytes())
    return sha256.hexdigest()[:8]


def _attention(config: ModelConfig, dtype: torch.dtype) -> Iterator[Tensor]:
    """A lone row over many keys, and a whole block."""
    group = config.heads // config.kv_heads
    keys = _noise(config.kv_heads * _ROWS, config.head_dim, dtype).view(1, config.kv_heads, _ROWS, -1)
    queries = _noise(config.heads * _ROWS, config.head_dim, dtype).view(1, config.kv_heads, group * _ROWS, -1)
    attend = functional.scaled_dot_product_attention
    yield attend(queries[:, :, :group], keys, keys)
    yield attend(queries, keys, keys, attn_mask=causal_mask(0, _ROWS, group, dtype))


def _noise(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Numbers in [-1, 1) drawn as integers: the same on every machine."""
    generator = torch.Generator().manual_seed(_SEED + columns)
    drawn = torch.randint(-(1 << 23), 1 << 23, (rows, columns), generator=generator, dtype=torch.int32)
    return (drawn.float() / (1 << 23)).to(dtype)


assert all(_ROWS % lone == 0 for lone in LONE_ROWS)
