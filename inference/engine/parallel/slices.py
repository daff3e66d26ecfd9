"""Which part of every tensor a rank holds, where several ranks compute one shard together; pure.

    q, k, v, gate, up    some outputs: whole heads, and as many columns of the ffn for everybody
    o, down              the inputs that those outputs are; what comes out is a summand of the whole product
    all else             as it is: norms, the router of a mixture, and the bias of o and down, which is added to the sum
    embedding, head      the first rank's alone: it looks tokens up and draws them, the others get rows. They are read once, and
                         take their memory once

So a slice of a model is a model with fewer heads and a narrower ffn, the same for every rank, and a layer of it needs two sums:
one behind attention, one behind the ffn (Megatron-LM, arXiv 1909.08053).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd
from typing import Final

from inference.model.config import ModelConfig
from protocols.errors import UserError
from protocols.placement import LayerRange

_BY_OUTPUT: Final = frozenset(
    {"q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj"}
)
_BY_INPUT: Final = frozenset({"o_proj", "down_proj"})


@dataclass(frozen=True, slots=True)
class Slice:
    """Of rank `rank`, where there are `of`."""

    rank: int
    of: int

    @property
    def leads(self) -> bool:
        """Whether it has the ends of the model, and decides for all."""
        return self.rank == 0


WHOLE: Final = Slice(0, 1)


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a tensor, one range below the other, and of each the same columns. A vector has rows of one column."""

    rows: tuple[range, ...]
    columns: range
    width: int  # of the whole tensor

    @property
    def size(self) -> tuple[int, int]:
        return sum(map(len, self.rows)), len(self.columns)

    @property
    def name(self) -> str:
        """Tells it from other parts of the same tensor; fit for the name of a file."""
        rows = "+".join(f"{each.start}-{each.stop}" for each in self.rows)
        return f"rows{rows}-columns{self.columns.start}-{self.columns.stop}"

    def runs(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Where the items `first` to `first + count - 1` of the part lie: (first item of the whole tensor, items in a row)."""
        is_whole = len(self.columns) == self.width
        end, before = first + count, 0
        for rows in self.rows:
            length = len(rows) * self.width if is_whole else len(self.columns)
            lengths = 1 if is_whole else len(rows)
            for index in range(max(0, (first - before) // length), lengths):
                start = before + index * length
                at, stop = max(start, first), min(start + length, end)
                if at >= stop:
                    break
                yield (rows.start + index) * self.width + self.columns.start + at - start, stop - at
            before += lengths * length


def check_ranks(config: ModelConfig, of: int) -> None:
    """Raises `UserError` with the numbers that work if so many ranks can't share the model evenly."""
    evenly = gcd(config.kv_heads, _ffn(config))
    if evenly % of:
        works = [str(each) for each in range(1, evenly + 1) if evenly % each == 0]
        others, last = ", ".join(works[:-1]), works[-1]
        raise UserError(
            f"{of} processes cannot share the {config.kv_heads} key heads and the ffn of {_ffn(config)} of this model evenly:"
            f" set worker.tensor_parallel to {f'{others} or {last}' if others else last}"
        )


def part_config(config: ModelConfig, of: int) -> ModelConfig:
    """The sizes of every rank's slice. Raises `UserError` as `check_ranks`."""
    check_ranks(config, of)
    design = config.design
    if design.experts is not None:
        design = replace(design, experts=replace(design.experts, ffn=design.experts.ffn // of))
    return replace(
        config,
        heads=config.heads // of,
        kv_heads=config.kv_heads // of,
        ffn=config.ffn // of if design.experts is None else config.ffn,
        design=design,
    )


def tensor_part(config: ModelConfig, name: str, own: Slice) -> Part:
    """The part of a tensor of the whole model that a rank holds. Raises `Malformed` for a name that is not of this model."""
    shape = config.expected_shape(name)
    height, width = shape if len(shape) == 2 else (shape[0], 1)
    product, _, kind = name.rpartition(".")
    product = product.rpartition(".")[2]
    by_output, by_input = _BY_OUTPUT, _BY_INPUT
    if config.design.experts is not None and ".experts." in name:
        names = config.design.experts.names
        by_output, by_input = frozenset({names.gate, names.up}), frozenset({names.down})
    if product in by_output:
        return Part(tuple(_rows(_blocks(config, product, height), own)), range(width), width)
    if product in by_input and kind == "weight":
        step = width // own.of
        return Part((range(height),), range(own.rank * step, (own.rank + 1) * step), width)
    return Part((range(height),), range(width), width)


def ranks_bytes(config: ModelConfig, layer_range: LayerRange, dtype: str, of: int) -> int:
    """What the weights of a range take in all ranks together."""
    ends_bytes = config.range_bytes(layer_range, dtype) - layer_range.layers * config.layer_bytes(dtype)
    return ends_bytes + of * layer_range.layers * part_config(config, of).layer_bytes(dtype)


def _ffn(config: ModelConfig) -> int:
    return config.ffn if config.design.experts is None else config.design.experts.ffn


def _blocks(config: ModelConfig, product: str, outputs: int) -> tuple[int, ...]:
    """The heights of the matrices that a tensor consists of, each of which is cut by itself."""
    if product == "qkv_proj":
        keys = config.kv_heads * config.head_dim
        return config.heads * config.head_dim, keys, keys
    return (config.ffn, config.ffn) if product == "gate_up_proj" else (outputs,)


def _rows(blocks: tuple[int, ...], own: Slice) -> Iterator[range]:
    start = 0
    for height in blocks:
        step = height // own.of
        yield range(start + own.rank * step, start + (own.rank + 1) * step)
        start += height
