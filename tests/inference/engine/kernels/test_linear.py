"""Every kernel computes the product, within what its dtype promises."""

from __future__ import annotations

import pytest
import torch

from inference.engine.kernels import int8
from inference.engine.kernels.linear import Kernel, as_wanted, empty_quantised, make_linear, usable_kernels
from inference.engine.kernels.quantised import Int8Weight, quantise_int4, quantise_int8
from inference.engine.numerics.contract import CONTRACTS
from inference.model.blocks import Linear
from inference.model.precision import PRECISIONS
from inference.model.weights import TORCH_DTYPES

SIZES = ((48, 80), (33, 40), (256, 192))
EVERY = [
    (dtype, kernel)
    for dtype in PRECISIONS
    for kernel in dict.fromkeys(
        (*usable_kernels(dtype), *(each for each in Kernel if each.value == f"{dtype}-widened"))
    )
]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("dtype", "kernel"), EVERY)
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_every_kernel_computes_the_product_within_its_tolerance(
    dtype: str, kernel: Kernel, outputs: int, inputs: int
) -> None:
    generator = torch.Generator().manual_seed(outputs)
    weight = torch.randn(outputs, inputs, generator=generator).to(TORCH_DTYPES[dtype])
    linear = make_linear(as_wanted(weight, kernel), kernel)
    for rows in (1, 3, 16):
        x = torch.randn(rows, inputs, generator=generator).to(TORCH_DTYPES[dtype])
        found = linear(x)
        assert (found.dtype, found.shape) == (TORCH_DTYPES[dtype], (rows, outputs))
        expected = x.double() @ weight.double().T
        assert relative(found, expected) < CONTRACTS[dtype, "fast"].product_tolerance


@pytest.mark.parametrize("kernel", [Kernel.INT8_ONEDNN, Kernel.INT8_FBGEMM, Kernel.INT8_HALVES])
def test_eight_bit_kernels_give_the_bits_of_the_formula(kernel: Kernel) -> None:
    if kernel not in usable_kernels("int8"):
        pytest.skip("this build of torch or this processor has no such kernel")
    weight = quantise_int8(torch.randn(40, 96))
    x = torch.randn(9, 96).to(torch.bfloat16)
    most = x.float().abs().amax(1, True)
    levels = (x.float() * (127 / most) + 128.5).floor() - 128
    sums = (levels.double() @ weight.items.double().T).float()
    expected = (sums * (weight.scales / 127)).to(torch.bfloat16) * most.to(torch.bfloat16)
    assert torch.equal(make_linear(weight, kernel)(x), expected)


@pytest.mark.parametrize("kernel", usable_kernels("int8"))
def test_a_row_that_is_not_finite_and_a_row_of_zeros_leave_the_others_alone(kernel: Kernel) -> None:
    linear = make_linear(quantise_int8(torch.randn(32, 64)), kernel)
    x = torch.randn(5, 64).to(torch.bfloat16)
    expected = linear(x)
    x[1, 3], x[2] = torch.nan, 0
    found = linear(x)
    assert torch.isnan(found[1]).all()
    assert (found[2] == 0).all()
    assert torch.equal(found[[0, 3, 4]], expected[[0, 3, 4]])


def test_a_kernel_that_saturates_is_not_used() -> None:
    def saturating(weight: Int8Weight) -> Linear:
        exact = int8.onednn(weight)
        return lambda x: exact(x).clamp(-30_000, 30_000)

    assert int8.is_exact(int8.onednn)
    assert not int8.is_exact(saturating)


def test_halves_of_levels_never_saturate_where_whole_ones_may() -> None:
    if Kernel.INT8_HALVES not in usable_kernels("int8"):
        pytest.skip("this build of torch has no fbgemm")
    # Every product as large as it can be, and of one sign.
    weight = quantise_int8(torch.full((16, 512), 3.0))
    x = torch.full((2, 512), 5.0, dtype=torch.bfloat16)
    found = make_linear(weight, Kernel.INT8_HALVES)(x)
    assert torch.equal(found, torch.full((2, 16), 512 * 15.0, dtype=torch.bfloat16))


def test_a_kernel_that_torch_lacks_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_weight: Int8Weight) -> Linear:
        raise AttributeError("'_OpNamespace' 'onednn' object has no attribute 'qlinear_prepack'")

    assert not int8.is_exact(missing)
    usable_kernels.cache_clear()
    monkeypatch.setattr(int8, "is_exact", lambda _make: False)
    try:
        assert usable_kernels("int8") == (Kernel.INT8_WIDENED,)
    finally:
        usable_kernels.cache_clear()


@pytest.mark.parametrize("kernel", [Kernel.INT8_ONEDNN, Kernel.INT4_GROUPED])
def test_tensors_quantised_one_by_one_are_the_product_of_all_of_them(kernel: Kernel) -> None:
    weight = torch.randn(48, 100)
    before = weight.clone()
    whole = as_wanted(weight, kernel)
    assert torch.equal(weight, before)
    joined = empty_quantised(kernel, 48, 100)
    for rows in (slice(0, 7), slice(7, 47), slice(47, 48)):
        joined.part(rows).fill(weight[rows])
    assert not isinstance(whole, torch.Tensor)
    assert torch.equal(joined.widened(torch.float32), whole.widened(torch.float32))


def test_weights_in_eight_bit_are_off_by_half_a_step_at_most() -> None:
    weight = torch.randn(20, 70) * torch.logspace(-20, 10, 20)[:, None]
    weight[3] = 0
    quantised = quantise_int8(weight)
    off = (quantised.widened(torch.float32) - weight).abs()
    assert (off <= 0.5001 * quantised.scales[:, None]).all()


def test_weights_in_four_bit_are_off_by_little_more_than_half_a_step() -> None:
    weight = torch.randn(20, 130) + torch.linspace(-2, 2, 20)[:, None]
    quantised = quantise_int4(weight)
    steps = quantised.scales[..., 0].float().repeat_interleave(64, 1)[:, :130]
    # The ends of a group may fall outside, by what the rounded scale and offset are off.
    assert ((quantised.widened(torch.float32) - weight).abs() <= 0.8 * steps).all()
