"""Finds at start which kernel and block sizes serve a shard on this machine: the quickest that keep what was promised.

Kernels are timed first, on a part of the model's largest product. Another than the first is taken only where it is clearly
quicker, so that equal machines choose alike however busy they are. The one chosen is then tried for exactness on all shapes of
the model; if it fails, the next one is. The ways to pad a lone row are chosen between in the same manner: some give the same bits, and those
that do not are told apart by the fingerprint.

The fingerprint is a hash of what the probes come to. It tells machines apart whose kernels round differently, and is part of
the numerics class: equal classes give equal bits. Kernels and block sizes are no part of it, for rows that agree in all
probes come from the same sums, whatever computes them: the 8-bit kernels do so everywhere. Only where a kernel differs from
its like so seldom that probes may not show it, it is named.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, TypeVar

import torch

from inference.engine.device import HOST, Device
from inference.engine.kernels.linear import Kernel, usable_kernels
from inference.engine.numerics.exactness import LONE_ROWS, WHOLE_FRAMES, RowPlan
from inference.engine.numerics.probes import (
    MARKED_ROWS,
    PROBE_ROWS,
    Probe,
    attention_results,
    noise,
    product_probe,
    rowwise_probes,
)
from inference.engine.numerics.timing import Timing, time_kernels
from inference.model.blocks import Linear
from inference.model.config import ModelConfig
from inference.model.kv_form import make_form
from inference.model.precision import precision_of
from inference.model.weights import TORCH_DTYPES
from protocols.errors import Unavailable

_T = TypeVar("_T")

# How much less another must take than the one before it. Far from what is usual, so that equal machines choose alike.
KERNEL_ADVANTAGE: Final = 0.75  # one of two kernels for the same thing is either much better or not worth it
PLAN_ADVANTAGE: Final = (
    0.93  # blocks four times as large for prompts save a sixth, smaller ones for lone rows nothing
)


SELDOM_DIFFERENT: Final = frozenset({Kernel.INT8_HALVES})


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a shard computes. `is_exact` if every row has the bits it has alone, whatever frame it comes in.

    `timings` are of all kernels that could have been chosen, in the order in which they were tried.
    """

    kernel: Kernel
    rows: RowPlan
    is_exact: bool
    numerics_class: str
    timings: tuple[Timing, ...] = field(default=(), compare=False)


def find_arithmetic(
    config: ModelConfig, dtype: str, numerics: str, device: Device = HOST, kv: str = "model"
) -> Arithmetic:
    """The quickest arithmetic that keeps what `numerics` promises, or with `is_exact` false where none does.

    Over caches that are kept in `kv`, one of `KV_KINDS`: rounded rows are a class of their own, with `kv8` in its name.
    Raises `UserError` for a dtype that weft does not run, `Unavailable` for one that it does not run on that device.
    """
    precision, rounded = precision_of(dtype), "/kv8" if kv == "int8" else ""
    release = f"torch{torch.__version__.partition('+')[0]}"
    if device.is_accelerator:
        if precision.is_quantised:
            raise Unavailable(
                f"weft has no kernels for {dtype} on {device.kind}: choose bf16 or f32,"
                ' or set worker.device = "cpu" there'
            )
        # Its attention takes all rows of a step together, and no row has the bits that it has alone.
        kind = "fast" if numerics == "fast" else "inexact"
        place = f"{kind}/{dtype}/{device.label}/{release}/{Kernel.PLAIN.value}{rounded}"
        return Arithmetic(Kernel.PLAIN, WHOLE_FRAMES, False, place)
    threads = f"t{torch.get_num_threads()}"
    place = "/".join((dtype, "cpu", torch.backends.cpu.get_cpu_capability(), release, threads))
    timings = _by_speed(_timings(config, dtype))
    kernel = timings[0].kernel
    if numerics == "fast":
        return Arithmetic(kernel, WHOLE_FRAMES, False, f"fast/{place}/{kernel.value}{rounded}", timings)
    for timing in timings:
        found = _exact(config, dtype, timing, kv)
        if found is not None:
            plan, fingerprint = found
            return Arithmetic(timing.kernel, plan, True, f"exact/{place}/{fingerprint}{rounded}", timings)
    return Arithmetic(kernel, WHOLE_FRAMES, False, f"inexact/{place}/{kernel.value}{rounded}", timings)


@torch.inference_mode()
def find_head_rows(head: Linear, width: int, dtype: str, arithmetic: Arithmetic) -> RowPlan | None:
    """How rows of `width` go through the head of the model; None if each has to go alone.

    Tried on the head itself, which is too large to have twice: it has so many outputs that rounding shows on any data. It is
    no part of the numerics class, for only its holder draws tokens.
    """
    if not arithmetic.is_exact:
        return WHOLE_FRAMES
    lone = arithmetic.rows.lone
    agreeing = Probe(head, noise(PROBE_ROWS, width, TORCH_DTYPES[dtype])).agreeing(lone)
    sizes = tuple(sorted(agreeing & set(arithmetic.rows.sizes)))
    return RowPlan(sizes) if lone in sizes else None


def _timings(config: ModelConfig, dtype: str) -> tuple[Timing, ...]:
    outputs, inputs = max(config.products(), key=math.prod)
    return time_kernels(usable_kernels(dtype), outputs, inputs, TORCH_DTYPES[dtype])


def _by_speed(timings: Sequence[Timing]) -> tuple[Timing, ...]:
    """The one to choose first; then as they were."""
    best = _quickest([(timing.cost(WHOLE_FRAMES), timing) for timing in timings], KERNEL_ADVANTAGE)
    return (best, *(timing for timing in timings if timing is not best))


def _quickest(costs: Sequence[tuple[float, _T]], advantage: float) -> _T:
    """The first, or a later one that has the advantage over it."""
    best_cost, best = costs[0]
    for cost, each in costs[1:]:
        if cost < advantage * best_cost:
            best_cost, best = cost, each
    return best


@torch.inference_mode()
def _exact(config: ModelConfig, dtype: str, timing: Timing, kv: str) -> tuple[RowPlan, str] | None:
    """The quickest plan whose rows have the bits that they have alone, and their fingerprint; None if there is none."""
    torch_dtype = TORCH_DTYPES[dtype]
    findings = [_product(shape, torch_dtype, timing.kernel) for shape in config.products()]
    findings += [_findings(probe) for probe in rowwise_probes(config, make_form(kv, torch_dtype))]
    plans: list[tuple[float, RowPlan]] = []
    for lone in LONE_ROWS:
        sizes = frozenset.intersection(*(finding[lone][0] for finding in findings))
        if lone in sizes:
            plan = RowPlan(tuple(sorted(sizes)))
            plans.append((timing.cost(plan), plan))
    if not plans:
        return None
    plan = _quickest(plans, PLAN_ADVANTAGE)
    sha256 = hashlib.sha256()
    if timing.kernel in SELDOM_DIFFERENT:
        sha256.update(timing.kernel.value.encode())
    for finding in findings:
        sha256.update(finding[plan.lone][1])
    for result in attention_results(config, torch_dtype):
        sha256.update(result.float().contiguous().numpy().tobytes())
    return plan, sha256.hexdigest()[:8]


_Findings = dict[int, tuple[frozenset[int], bytes]]
"""By the rows that are computed for a lone one: the sizes that agree, and a hash of the first rows."""


@cache
@torch.inference_mode()
def _product(shape: tuple[int, int], dtype: torch.dtype, kernel: Kernel) -> _Findings:
    return _findings(product_probe(*shape, dtype, kernel))


def _findings(probe: Probe) -> _Findings:
    found: _Findings = {}
    for lone in LONE_ROWS:
        agreeing = probe.agreeing(lone)
        rows = probe.rows(MARKED_ROWS, lone).float() if agreeing else torch.empty(0)
        found[lone] = (agreeing, hashlib.sha256(rows.contiguous().numpy().tobytes()).digest())
    return found


assert all(MARKED_ROWS % lone == 0 for lone in LONE_ROWS)
