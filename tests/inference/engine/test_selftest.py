"""The self-test finds kernels that let rows depend on each other, and falls back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from inference.engine import selftest
from inference.engine.exactness import WHOLE_FRAMES, RowPlan
from inference.engine.linear import Kernel, can_pack, make_linear
from inference.engine.selftest import find_arithmetic
from inference.model.blocks import Linear
from tests.inference.engine.checkpoints import parsed

CONFIG = parsed()


@pytest.fixture(autouse=True)
def forget_earlier_findings() -> None:
    selftest._exact_blocks.cache_clear()


def use_kernel(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Tensor, Kernel], Tensor]) -> None:
    """Every product is followed by `spoil`."""

    def spoiled(weight: Tensor, kernel: Kernel, rows_hint: int) -> Linear:
        linear = make_linear(weight, Kernel.PLAIN, rows_hint)
        return lambda x: spoil(torch.cat([linear(row) for row in x.split(1)]), kernel)

    monkeypatch.setattr(selftest, "make_linear", spoiled)
    monkeypatch.setattr(selftest, "can_pack", lambda _dtype: True)


def test_rows_that_never_depend_on_each_other_get_blocks_of_all_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_kernel(monkeypatch, lambda y, _: y)
    found = find_arithmetic(CONFIG, "f32", "exact")
    assert (found.rows, found.kernel, found.is_exact) == (
        RowPlan((4, 8, 16, 32, 64, 128)),
        Kernel.PACKED,
        True,
    )


def test_a_kernel_that_changes_with_many_rows_gets_smaller_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernel(monkeypatch, lambda y, _: y * (1 + 1e-6) if len(y) > 32 else y)
    assert find_arithmetic(CONFIG, "f32", "exact").rows == RowPlan((4, 8, 16, 32))


def test_a_kernel_that_changes_up_to_eight_rows_is_padded_further(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernel(monkeypatch, lambda y, _: torch.cat([y[:1], y[1:] * (1 + 1e-6)]) if len(y) < 9 else y)
    assert find_arithmetic(CONFIG, "f32", "exact").rows == RowPlan((16, 32, 64, 128))


def test_a_place_that_differs_within_a_block_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernel(monkeypatch, lambda y, _: torch.cat([y[:-1], y[-1:] * (1 + 1e-6)]) if len(y) > 8 else y)
    assert find_arithmetic(CONFIG, "f32", "exact").rows == RowPlan((4, 8))


def test_the_plain_kernel_serves_where_the_packed_one_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(y: Tensor, kernel: Kernel) -> Tensor:
        return y * (1 + 1e-6 * torch.arange(len(y))[:, None]) if kernel is Kernel.PACKED else y

    use_kernel(monkeypatch, spoil)
    found = find_arithmetic(CONFIG, "f32", "exact")
    assert (found.kernel, found.is_exact) == (Kernel.PLAIN, True)


def test_where_nothing_is_exact_frames_are_taken_as_they_are_and_the_class_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_kernel(monkeypatch, lambda y, _: y * (1 + 1e-6 * torch.arange(len(y))[:, None]))
    found = find_arithmetic(CONFIG, "f32", "exact")
    assert (found.rows, found.is_exact) == (WHOLE_FRAMES, False)
    assert found.numerics_class.startswith("inexact/f32/cpu/")


def test_another_order_of_summation_gives_another_class(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = find_arithmetic(CONFIG, "f32", "exact").numerics_class

    def backwards(weight: Tensor, kernel: Kernel, rows_hint: int) -> Linear:
        linear = make_linear(weight.flip(1).contiguous(), kernel, rows_hint)
        return lambda x: linear(x.flip(1).contiguous())

    selftest._exact_blocks.cache_clear()
    monkeypatch.setattr(selftest, "make_linear", backwards)
    theirs = find_arithmetic(CONFIG, "f32", "exact").numerics_class
    assert theirs.rpartition("/")[0] == ours.rpartition("/")[0]
    assert theirs != ours


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_this_machine_finds_the_same_twice(dtype: str) -> None:
    found = find_arithmetic(CONFIG, dtype, "exact")
    selftest._exact_blocks.cache_clear()
    assert find_arithmetic(CONFIG, dtype, "exact") == found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_kernels_compute_the_product(dtype: torch.dtype) -> None:
    weight, x = torch.randn(48, 80, dtype=dtype), torch.randn(7, 80, dtype=dtype)
    expected = x.float() @ weight.float().T
    for kernel in [Kernel.PLAIN] + [Kernel.PACKED] * can_pack(dtype):
        found = make_linear(weight, kernel, 4)(x).float()
        assert (found - expected).norm() < 5e-3 * expected.norm()
