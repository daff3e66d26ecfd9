"""How long one decode step of one layer takes here: what a node answers when it is surveyed.

The weights are all the same number, for the time depends on their size alone. A small layer may stay in the processor's
cache and then look quicker than it is among others; that errs alike on every node.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Final

import torch

from inference.engine.device import HOST, Device
from inference.engine.kernels.linear import as_wanted, make_linear
from inference.engine.numerics.selftest import Arithmetic, find_arithmetic
from inference.engine.numerics.trial import make_trial
from inference.model.blocks import DecoderLayer, DenseFfn, LayerParts, Linear
from inference.model.config import ModelConfig
from inference.model.families import LayerKind, Rope
from inference.model.kv_form import make_form
from inference.model.weights import TORCH_DTYPES
from protocols.placement import LayerShape

_BUDGET_MS: Final = 50.0
_STEPS_MAX: Final = 64
_CONTEXT_ROWS: Final = 128


@torch.inference_mode()
def measure_layer(
    shape: LayerShape, monotonic: Callable[[], float], device: Device = HOST, kv: str = "model"
) -> float:
    """The median step in ms within about 50 ms of steps, or of the first one if it takes longer; `monotonic` in seconds.

    Raises `Unavailable` for a dtype that the device does not run: others are to be asked then.
    """
    config, dtype = _config(shape), TORCH_DTYPES[shape.dtype]
    # A decoded row as exact numerics pads it: what shards are loaded with unless someone says otherwise.
    arithmetic = find_arithmetic(config, shape.dtype, "exact", device, kv)
    layer = _synthetic_layer(config, dtype, arithmetic, device)
    step = make_trial(config, make_form(kv, dtype), arithmetic, device, 1, _CONTEXT_ROWS)
    step(layer)  # the first step also builds the kernels
    steps_ms: list[float] = []
    while len(steps_ms) < _STEPS_MAX and sum(steps_ms) < _BUDGET_MS:
        begin = monotonic()
        step(layer)
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
        tied=True,
        eos_ids=(),
        kinds=(LayerKind(Rope(10_000.0, shape.head_dim)),),
        kind_of_layer=(0,),
    )


def _synthetic_layer(
    config: ModelConfig, dtype: torch.dtype, arithmetic: Arithmetic, device: Device
) -> DecoderLayer:
    def linear(outputs: int, inputs: int) -> Linear:
        weight = torch.full((outputs, inputs), 1 / inputs, dtype=dtype, device=device.place)
        return make_linear(as_wanted(weight, arithmetic.kernel), arithmetic.kernel)

    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    norm = torch.ones(config.hidden, dtype=dtype, device=device.place)
    return DecoderLayer(
        config,
        LayerParts(
            input_norm=norm,
            qkv=linear(queries + 2 * keys, config.hidden),
            output=linear(config.hidden, queries),
            ffn_norm=norm,
            ffn=DenseFfn(linear(2 * config.ffn, config.hidden), linear(config.hidden, config.ffn)),
        ),
    )
