"""Products of 8-bit weights with rows that are quantised one by one (w8a8), so that no row's result depends on another row.

    level[r, i] = floor(x[r, i] * 127 / most[r] + 128.5)       most[r] the largest |x[r, i]|; 1 .. 255, 128 is zero
    y[r, o]     = most[r] * bf16(sum_i (level[r, i] - 128) * item[o, i] * scale[o] / 127)

The sum is of integers and has no order: kernels that add them all give the same bits, at any number of rows and on any
machine. Those that saturate on the way (8-bit products added in 16 bit, as processors without VNNI do it) are found out in
`is_exact` and not used; there a level goes through the product in two halves that are too small for that. The row's own factor
comes last, for the kernels have one scale for all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from inference.engine.kernels.fbgemm import fbgemm_packing
from inference.engine.kernels.quantised import Int8Weight
from inference.model.blocks import Linear
from inference.model.threads import on_all_threads

_LEAST: Final = 1e-30  # a row of zeros has no scale
_PROBE_INPUTS: Final = 256

Maker = Callable[[Int8Weight], Linear]


def onednn(weight: Int8Weight) -> Linear:
    """Quick at all row counts, with about 10 us more to start than fbgemm."""
    packed = torch.ops.onednn.qlinear_prepack(weight.items, None)
    scales, zeros, bf16 = weight.scales / 127, torch.zeros(1, dtype=torch.long), torch.bfloat16
    pointwise = on_all_threads(torch.ops.onednn.qlinear_pointwise.default)

    def multiply(x: Tensor) -> Tensor:
        levels, most = _levels(x)
        y: Tensor = pointwise(
            levels.to(torch.uint8), 1.0, 128, packed, scales, zeros, None, 1.0, 0, bf16, "none", [], ""
        )
        return y.mul_(most)

    return multiply


def fbgemm(weight: Int8Weight) -> Linear:
    """Quick where rows are few, also without tiles for matrices."""
    packed = _fbgemm_packed(weight.items, weight.scales / 127)
    product = _fbgemm_product()

    def multiply(x: Tensor) -> Tensor:
        levels, most = _levels(x)
        # It quantises what it gets once more, which whole numbers survive.
        y: Tensor = product(levels.floor_().sub_(128), 1.0, 128, packed)
        return y.to(torch.bfloat16).mul_(most)

    return multiply


def halves(weight: Int8Weight) -> Linear:
    """For processors that add 8-bit products in 16 bit: level = 2 high + low, and no two products of 7 bit leave 16.

    Both halves go through the product as rows beside each other, so that weights are read once. What comes out is rounded
    once more than in the others, which shows in one of some 100,000 results.
    """
    packed = _fbgemm_packed(weight.items, weight.scales / 127)
    product = _fbgemm_product()

    def multiply(x: Tensor) -> Tensor:
        low, most = _levels(x)
        high = low.floor_().mul(0.5).floor_()  # 0 .. 127, and 64 is zero
        low.sub_(high, alpha=2)
        above, below = product(torch.cat((high.sub_(64), low)), 1.0, 64, packed).chunk(2)
        return below.add_(above, alpha=2).to(torch.bfloat16).mul_(most)

    return multiply


def widened(weight: Int8Weight) -> Linear:
    """For a processor or a torch that has nothing better: slow, and exact only as far as its float sums are."""

    def multiply(x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, weight.widened(x.dtype))

    return on_all_threads(multiply)


def is_exact(make: Maker) -> bool:
    """Whether the kernel is there, and adds without saturating where every product is as large as it can be."""
    signs = torch.arange(_PROBE_INPUTS) % 3 - 1
    items = torch.stack([signs * 127, (signs | 1) * 127, -(signs | 1) * 127]).to(torch.int8)
    x = torch.stack([(signs | 1), -(signs | 1), torch.ones_like(signs)]).to(torch.bfloat16)
    expected = (x.double() @ items.double().T).to(torch.bfloat16)
    try:
        found = make(Int8Weight(items.repeat(16, 1), torch.ones(48)))(x)
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(found, expected.repeat(1, 16))


def _levels(x: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, inputs] before they are cut to whole numbers, and the largest of each row, [rows, 1]."""
    # In as few calls as will do, for after megabytes of weights each finds its code gone from the caches.
    most = x.abs().amax(1, True).clamp_(min=_LEAST)
    # Widened first: mixed types would take ten times as long. Rounded by an offset and a cut: one call instead of two, and the
    # same in every lane of a vector.
    return x.float().mul_(_LEVELS / most).add_(128.5), most


_LEVELS: Final = torch.tensor([127.0])  # of one dimension, so that 16 bit divide it in 32


def _fbgemm_product() -> Callable[[Tensor, float, int, torch.ScriptObject], Tensor]:
    return on_all_threads(torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default)


def _fbgemm_packed(items: Tensor, scales: Tensor) -> torch.ScriptObject:
    zeros = torch.zeros(len(items), dtype=torch.long)
    with fbgemm_packing():
        quantised = torch._make_per_channel_quantized_tensor(items, scales.double(), zeros, 0)  # noqa: SLF001
        packed: torch.ScriptObject = torch.ops.quantized.linear_prepack(quantised, None)
    return packed
