"""A decode step of one layer to try out how long it takes: for surveys and for how many rows are worth computing together."""

from __future__ import annotations

from collections.abc import Callable

import torch

from inference.engine.device import Device
from inference.engine.memory.kv_store import KvPart
from inference.engine.memory.pages import make_kv_store
from inference.engine.numerics.selftest import Arithmetic
from inference.model.blocks import DecoderLayer
from inference.model.config import ModelConfig
from inference.model.kv_form import KvForm
from inference.model.rope import RopeTables
from inference.model.step_plan import Segment, make_plan


@torch.inference_mode()
def make_trial(
    config: ModelConfig,
    form: KvForm,
    arithmetic: Arithmetic,
    device: Device,
    sessions: int,
    context_rows: int,
) -> Callable[[DecoderLayer], None]:
    """Computes a layer of such a model for the last of `context_rows` rows of each of so many sessions; nothing is kept."""
    last, rows = context_rows - 1, arithmetic.rows
    store, dtype = make_kv_store(config, 1, form, device), form.dtype
    shape = (1, 2, config.kv_heads, context_rows, form.width(config.head_dim))
    nothing = torch.zeros(shape, dtype=form.stored_dtype, device=device.place)
    parts = []
    for _ in range(sessions):
        kv = store.open(context_rows)
        kv.append(nothing)
        parts.append(KvPart(kv, last, 1))
    spans = store.spans([(last, context_rows)])
    segments = tuple(Segment(at, last, 1, spans) for at in range(sessions))
    stretches = [(last, 1, context_rows)] * sessions
    angles = RopeTables(config, dtype, device.place).of(stretches, rows.padded(sessions))
    plan = make_plan(rows.blocks(sessions), segments, angles)
    kvs = store.step(parts)(0)
    x = torch.ones(plan.blocks[-1].stop, config.hidden, dtype=dtype, device=device.place)

    @torch.inference_mode()
    def step(layer: DecoderLayer) -> None:
        layer.forward(x, plan, kvs)
        device.settle()

    return step
