"""bf16 weights kept in fp16: as they were, whatever their sizes, in no more memory; and no row depends on another one."""

from __future__ import annotations

import pytest
import torch

from inference.engine.kernels import fp16
from inference.engine.kernels.linear import Kernel, usable_kernels
from inference.model.blocks import Linear

needs_fbgemm = pytest.mark.skipif(
    Kernel.FP16 not in usable_kernels("bf16"), reason="this build of torch or this processor has no fbgemm"
)


@pytest.fixture(params=["filled", "in groups"])
def tails(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done with inputs that are no whole block."""
    if request.param == "in groups":
        monkeypatch.setattr(fp16, "_FILLED_ITEMS", 0)


HIDDEN_SIZES = (512, 576, 768, 896, 960, 1152, 1536, 2048, 2304, 2752, 4864, 5632, 8960, 11008, 13696)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(torch.bfloat16)


def weights_of(multiply: Linear, inputs: int) -> torch.Tensor:
    """What the product takes its weights for, read one input at a time."""
    return multiply(torch.eye(inputs, dtype=torch.bfloat16)).T


@needs_fbgemm
@pytest.mark.usefixtures("tails")
@pytest.mark.parametrize(("outputs", "inputs"), [(48, 512), (33, 40), (21, 601), (64, 960)])
def test_weights_of_many_sizes_stay_as_they_were(outputs: int, inputs: int) -> None:
    signed = drawn(outputs, inputs)
    ones = torch.copysign(1 + signed.abs() % 1, signed)
    weight = ones * (2.0 ** torch.linspace(0, -28, inputs).round()).to(torch.bfloat16)
    assert torch.equal(weights_of(fp16.fbgemm(weight), inputs), weight)


@needs_fbgemm
@pytest.mark.parametrize("power", [-60, -30, 30, 100, 120])
def test_weights_may_be_far_larger_and_smaller_than_fp16_has_them(power: int) -> None:
    weight = drawn(16, 64) * 2.0**power
    assert torch.equal(weights_of(fp16.fbgemm(weight), 64), weight)


@needs_fbgemm
def test_weights_of_zero_come_to_zero() -> None:
    assert (fp16.fbgemm(torch.zeros(16, 700, dtype=torch.bfloat16))(drawn(3, 700)) == 0).all()


@needs_fbgemm
@pytest.mark.usefixtures("tails")
@pytest.mark.parametrize(("outputs", "inputs"), [(48, 512), (33, 40), (21, 601), (64, 960)])
def test_a_row_has_the_bits_that_it_has_alone(outputs: int, inputs: int) -> None:
    weight, x = drawn(outputs, inputs), drawn(70, inputs)
    half = inputs // 2
    weight[:, half : 2 * half] = -weight[:, :half]
    x[:, half : 2 * half] = x[:, :half]  # what comes out is rounding alone
    multiply = fp16.fbgemm(weight)
    alone = torch.cat([multiply(row) for row in x.split(1)])
    for rows in (2, 3, 4, 5, 7, 8, 14, 32, 70):
        assert torch.equal(torch.cat([multiply(part) for part in x.split(rows)]), alone)


@needs_fbgemm
@pytest.mark.usefixtures("tails")
def test_a_row_that_is_not_finite_leaves_the_others_alone() -> None:
    multiply, x = fp16.fbgemm(drawn(40, 832)), drawn(5, 832)
    expected = multiply(x)
    x[1, 3], x[2, 700] = torch.nan, torch.inf
    found = multiply(x)
    assert not torch.isfinite(found[1:3]).any()
    assert torch.equal(found[[0, 3, 4]], expected[[0, 3, 4]])


@needs_fbgemm
@pytest.mark.usefixtures("tails")
def test_a_large_weight_is_packed_in_pieces_that_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = drawn(50, 600), drawn(4, 600)
    whole = fp16.fbgemm(weight)(x)
    monkeypatch.setattr(fp16, "_PIECE_ITEMS", 600 * 16)
    assert torch.equal(fp16.fbgemm(weight)(x), whole)


@pytest.mark.parametrize("inputs", HIDDEN_SIZES)
def test_inputs_take_hardly_more_than_they_are(inputs: int) -> None:
    parts = list(fp16._cut(32000, inputs))
    kept = sum(
        fp16._BLOCK_INPUTS // groups if groups > 1 else part.stop - part.start for part, groups in parts
    )
    assert inputs <= kept <= inputs * (1 + fp16._FILLED_SHARE)
    assert [part.start for part, _ in parts] == [0, *(part.stop for part, _ in parts[:-1])]
    assert parts[-1][0].stop == inputs


def test_a_torch_without_fbgemm_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_weight: torch.Tensor) -> Linear:
        raise AttributeError("'_OpNamespace' 'quantized' object has no attribute 'linear_prepack_fp16'")

    monkeypatch.setattr(fp16, "fbgemm", missing)
    assert not fp16.is_right()


def test_a_kernel_that_cuts_small_weights_off_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(weight: torch.Tensor) -> Linear:
        kept = torch.where(weight.abs() < 2.0**-56, 0, weight)
        return lambda x: torch.nn.functional.linear(x, kept)

    monkeypatch.setattr(fp16, "fbgemm", cut_off)
    assert not fp16.is_right()
