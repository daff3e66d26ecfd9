"""Decode steps as one recorded piece of work: a card is asked once for a whole step and not for each of its hundreds of products.

    step        recorded are those over pages in which every sequence brings one row; all others are computed as they come
    shape       the shapes of all tensors of a step; it is recorded when it has been met `RECORDED_AFTER` times
    buffers     copies of those tensors, which a recording reads; later steps bring theirs in there
    check       a shape's first replay has to come to what the same step came to without it, or nothing is recorded any more
    how many    `RECORDINGS_MAX`, of which the one that was unused for longest goes first
    how long    until the pool of pages lies elsewhere, or the last session has closed: nothing of any session stays

A recording holds addresses. Those of the weights stay for as long as the shard, those of the pages until the pool moves, and
everything else of a step lies in the buffers. Experts ask the processor which of them a row goes to, and ranks wait for each other:
such steps can't be recorded, and their engines have no recordings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from inference.engine.device import Device
from inference.engine.memory.kv_store import LayerKvs
from inference.engine.memory.pages import PagedLayers
from inference.model.blocks import DecoderLayer
from inference.model.step_plan import StepPlan, make_plan

log = logging.getLogger("weft.worker")

RECORDED_AFTER: Final = 8  # steps of a shape: recording one takes as long as several
RECORDINGS_MAX: Final = 32
_SHAPES_MAX: Final = 256  # that are counted

# As far as a step may differ from itself, of its length: the kernels are the same, and only their sums may be split otherwise.
_TOLERANCE: Final = {torch.bfloat16: 1e-2, torch.float32: 1e-4}

Shape = tuple[torch.Size, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """One step through the layers of a shard."""

    x: Tensor  # [rows, hidden]
    plan: StepPlan
    kvs: PagedLayers

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that differs from step to step."""
        angles = [tensor for ((cos, sin),) in self.plan.angles for tensor in (cos, sin)]
        return (self.x, *angles, *self.kvs.step.tensors)

    def over(self, tensors: Sequence[Tensor]) -> Work:
        """The same with others in the places of its own."""
        x, *others = tensors
        turning, placing = others[: 2 * len(self.plan.angles)], others[2 * len(self.plan.angles) :]
        angles = zip(turning[::2], turning[1::2], strict=True)
        plan = make_plan(self.plan.blocks, self.plan.segments, angles)
        return Work(x, plan, PagedLayers(self.kvs.step.over(placing), self.kvs.pool))


@dataclass(frozen=True, slots=True)
class Recording:
    """Its buffers, and what computes over them."""

    buffers: tuple[Tensor, ...]
    again: Callable[[], Tensor]

    def replayed(self, tensors: Sequence[Tensor]) -> Tensor:
        for buffer, tensor in zip(self.buffers, tensors, strict=True):
            buffer.copy_(tensor)
        return self.again()


class Recordings:
    """Those of one shard."""

    def __init__(self, device: Device, layers: Sequence[DecoderLayer]) -> None:
        self._device = device
        self._layers = layers
        self._met: dict[Shape, int] = {}  # how often; the one met last is the last
        self._kept: dict[Shape, Recording] = {}  # the one used last is the last
        self._moves = 0  # of the pool, when they were recorded
        self._is_off = False

    def __len__(self) -> int:
        return len(self._kept)

    def through(self, x: Tensor, plan: StepPlan, kvs: LayerKvs, on_layer: Callable[[], None]) -> Tensor:
        """As the function `through`. What it comes to is there until the next step."""
        if self._is_off or not isinstance(kvs, PagedLayers) or not _is_decode(plan):
            return through(self._layers, x, plan, kvs, on_layer)
        if self._moves != kvs.pool.moves:
            self.clear()
            self._moves = kvs.pool.moves
        work = Work(x, plan, kvs)
        tensors = work.tensors
        shape = tuple(tensor.shape for tensor in tensors)
        recording = self._kept.pop(shape, None)
        if recording is not None:
            self._kept[shape] = recording
            out = recording.replayed(tensors)
            for _ in self._layers:
                on_layer()
            return out
        if self._is_due(shape):
            return self._record(shape, work, on_layer)
        return through(self._layers, x, plan, kvs, on_layer)

    def clear(self) -> None:
        """Let go of all of them, and of their memory."""
        if self._kept:
            self._kept.clear()
            self._device.release()

    def _is_due(self, shape: Shape) -> bool:
        times = self._met[shape] = self._met.pop(shape, 0) + 1
        if len(self._met) > _SHAPES_MAX:
            del self._met[next(iter(self._met))]
        return times >= RECORDED_AFTER

    def _record(self, shape: Shape, work: Work, on_layer: Callable[[], None]) -> Tensor:
        """The step without a recording, of which there is one afterwards if it comes to the same."""
        buffers = tuple(tensor.clone() for tensor in work.tensors)
        over = work.over(buffers)
        expected = through(self._layers, over.x, over.plan, over.kvs, on_layer)
        if not torch.isfinite(expected).all():  # a session's fault, and nothing to compare with
            return expected
        try:
            # Keys and values are written where they are already: the same ones.
            again = self._device.recorded(
                lambda: through(self._layers, over.x, over.plan, over.kvs, lambda: None)
            )
            is_same = _is_close(again(), expected)
        except RuntimeError as error:
            self._switch_off(f"{type(error).__name__}: {error}")
            return expected
        if not is_same:
            self._switch_off("it came to other numbers")
            return expected
        self._kept[shape] = Recording(buffers, again)
        if len(self._kept) > RECORDINGS_MAX:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            self._met.pop(oldest, None)  # or shapes that take turns would be recorded at every step
        return expected

    def _switch_off(self, reason: str) -> None:
        self._is_off = True
        self.clear()
        log.warning(
            "decode steps on %s are not recorded from now on: %s", self._device.label, reason.splitlines()[0]
        )


def through(
    layers: Sequence[DecoderLayer], x: Tensor, plan: StepPlan, kvs: LayerKvs, on_layer: Callable[[], None]
) -> Tensor:
    """All rows through all layers; keys and values are in the caches afterwards."""
    for index, layer in enumerate(layers):
        x = layer.forward(x, plan, kvs(index))
        on_layer()
    return x


def _is_decode(plan: StepPlan) -> bool:
    return len(plan.blocks) == 1 and all(segment.rows == 1 for segment in plan.segments)


def _is_close(found: Tensor, expected: Tensor) -> bool:
    difference = (found.float() - expected.float()).norm()
    return bool(difference <= _TOLERANCE[expected.dtype] * expected.float().norm())
