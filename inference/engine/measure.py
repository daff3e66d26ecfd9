"""How long one decode step of one layer takes here: what a node answers when it is surveyed.

The weights are all the same number, for the time depends on their size alone. A small layer may stay in the processor's
cache and then look quicker than it is among others; that errs alike on every node.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Final

import torch

from inference.engine.exactness import LONE_ROWS
from inference.engine.kv_cache import LayerKv
from inference.engine.linear import Kernel, can_pack, make_linear
from inference.model.blocks import DecoderLayer, LayerParts, Linear, Segment, Span, StepPlan
from inference.model.config import ModelConfig
from inference.model.rope import RopeTable
from inference.model.weights import TORCH_DTYPES
from protocols.placement import LayerShape

_BUDGET_MS: Final = 50.0
_STEPS_MAX: Final = 64
_CONTEXT_ROWS: Final = 128
_ROWS: Final = LONE_ROWS[0]  # a decoded row as exact numerics pads it


@torch.inference_mode()
def measure_layer(shape: LayerShape, monotonic: Callable[[], float]) -> float:
    """The median step in ms within about 50 ms of steps, or of the first one if it takes longer; `monotonic` in seconds."""
    config, dtype = _config(shape), TORCH_DTYPES[shape.dtype]
    layer = _synthetic_layer(config, dtype)
    kv = LayerKv(shape.kv_heads, _CONTEXT_ROWS, shape.head_dim, dtype)
    kv.keys.zero_()
    kv.values.zero_()
    last = _CONTEXT_ROWS - 1
    cos, sin = RopeTable(config, dtype).rows(last, _ROWS)
    segment = Segment(0, last, 1, (Span(last, last + 1, None),))
    plan = StepPlan((slice(0, _ROWS),), (segment,), cos, sin)
    x = torch.ones(_ROWS, shape.hidden, dtype=dtype)
    layer.forward(x, plan, [kv])  # the first step also builds the kernels
    steps_ms: list[float] = []
    while len(steps_ms) < _STEPS_MAX and sum(steps_ms) < _BUDGET_MS:
        begin = monotonic()
        layer.forward(x, plan, [kv])
        steps_ms.append((monotonic() - begin) * 1e3)
    return median(steps_ms)


def _config(shape: LayerShape) -> ModelConfig:
    return ModelConfig(
        family="llama",
        vocabulary=1,
        hidden=shape.hidden,
        layers=1,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        ffn=shape.ffn,
        context=_CONTEXT_ROWS,
        norm_eps=1e-6,
        rope_theta=10_000.0,
        rope_scaling=None,
        tied=True,
        eos_ids=(),
    )


def _synthetic_layer(config: ModelConfig, dtype: torch.dtype) -> DecoderLayer:
    kernel = Kernel.PACKED if can_pack(dtype) else Kernel.PLAIN

    def linear(outputs: int, inputs: int) -> Linear:
        return make_linear(torch.full((outputs, inputs), 1 / inputs, dtype=dtype), kernel, _ROWS)

    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    norm = torch.ones(config.hidden, dtype=dtype)
    return DecoderLayer(
        config,
        LayerParts(
            input_norm=norm,
            qkv=linear(queries + 2 * keys, config.hidden),
            output=linear(config.hidden, queries),
            ffn_norm=norm,
            gate_up=linear(2 * config.ffn, config.hidden),
            down=linear(config.hidden, config.ffn),
        ),
    )
