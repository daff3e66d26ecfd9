"""How long a kernel takes for a few rows and for many: what the self-test chooses between kernels by."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

from inference.engine.kernels.linear import Kernel, as_wanted, make_linear
from inference.engine.numerics.exactness import BLOCK_ROWS, RowPlan
from inference.engine.numerics.probes import noise
from inference.model.blocks import Linear

_ITEMS_MAX: Final = 1 << 22  # of the weight: more than caches next to a core hold, and packed in a moment
_TURNS: Final = 3
HOPELESS_FACTOR: Final = 16
"""A kernel that takes so many times as long for a lone row as another is not looked at any further: a processor that lacks what
it was made for may need hundreds of times as long, and minutes for all row counts."""
TYPICAL_ROWS: Final = (1, 8, max(BLOCK_ROWS))  # a lone stream, a few, and a prompt


@dataclass(frozen=True, slots=True)
class Timing:
    """The least processor time in microseconds for each of `BLOCK_ROWS`, over one product of the model (or a part of it)."""

    kernel: Kernel
    us: Mapping[int, float]

    def cost(self, plan: RowPlan) -> float:
        """The geometric mean over the row counts that come most often, as the plan computes them; only for comparing."""
        return math.prod(self.plan_us(plan, rows) for rows in TYPICAL_ROWS) ** (1 / len(TYPICAL_ROWS))

    def plan_us(self, plan: RowPlan, rows: int) -> float:
        return sum(self.us[block.stop - block.start] for block in plan.blocks(rows))


@cache
@torch.inference_mode()
def time_kernels(
    kernels: tuple[Kernel, ...], outputs: int, inputs: int, dtype: torch.dtype
) -> tuple[Timing, ...]:
    """Those that are not hopeless, in their order. Measured once in a process, on one thread; in turns, so that what else the
    machine does hits all alike."""
    threads = torch.get_num_threads()
    # A thread that waits for another spins, and that is processor time too: on a busy machine far more than the kernel's.
    torch.set_num_threads(1)
    try:
        return _timed(kernels, outputs, inputs, dtype)
    finally:
        torch.set_num_threads(threads)


def _timed(kernels: tuple[Kernel, ...], outputs: int, inputs: int, dtype: torch.dtype) -> tuple[Timing, ...]:
    weight = noise(max(1, min(outputs, _ITEMS_MAX // inputs)), inputs, dtype)
    made = {kernel: make_linear(as_wanted(weight, kernel), kernel) for kernel in kernels}
    kernels = _hopeful(made, noise(1, inputs, dtype))
    linears = [made[kernel] for kernel in kernels]
    best_s = [dict.fromkeys(BLOCK_ROWS, math.inf) for _ in kernels]
    for turn in range(_TURNS):
        for size in BLOCK_ROWS:
            x = noise(size, inputs, dtype)
            for linear, best in zip(linears, best_s, strict=True):
                if turn == 0:
                    linear(x)  # the first call builds what the kernel needs for that shape
                best[size] = min(best[size], _call_s(linear, x))
    return tuple(
        Timing(kernel, {size: best[size] * 1e6 for size in BLOCK_ROWS})
        for kernel, best in zip(kernels, best_s, strict=True)
    )


def _hopeful(made: Mapping[Kernel, Linear], row: Tensor) -> tuple[Kernel, ...]:
    costs_s = {}
    for kernel, linear in made.items():
        if len(made) > 1:
            linear(row)
            costs_s[kernel] = _call_s(linear, row)
    quickest_s = min(costs_s.values(), default=math.inf)
    return tuple(kernel for kernel in made if costs_s.get(kernel, 0.0) <= HOPELESS_FACTOR * quickest_s)


def _call_s(linear: Linear, x: Tensor) -> float:
    # Processor time, for what others do on the machine must not choose for us.
    begin = time.thread_time()
    linear(x)
    return time.thread_time() - begin
