"""The self-test finds kernels that let rows depend on each other, and falls back; the quickest of the others is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from inference.engine.kernels.linear import Kernel, Weight, make_linear, usable_kernels
from inference.engine.numerics import probes, selftest, timing
from inference.engine.numerics.exactness import BLOCK_ROWS, WHOLE_FRAMES, RowPlan
from inference.engine.numerics.selftest import Arithmetic, find_arithmetic
from inference.engine.numerics.timing import Timing, time_kernels
from inference.model.blocks import Linear
from protocols.errors import UserError
from tests.inference.engine.checkpoints import parsed

CONFIG = parsed()
EVEN = dict.fromkeys(BLOCK_ROWS, 10.0)


@pytest.fixture(autouse=True)
def forget_earlier_findings() -> None:
    selftest._product.cache_clear()


def set_times(monkeypatch: pytest.MonkeyPatch, **times: dict[int, float]) -> None:
    """Of the kernels by their names, in the order in which they are tried."""
    found = tuple(Timing(Kernel[name.upper()], us) for name, us in times.items())
    monkeypatch.setattr(selftest, "time_kernels", lambda *_: found)


def use_kernel(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Tensor, Kernel], Tensor]) -> None:
    """Every product is followed by `spoil`."""

    def spoiled(weight: Weight, kernel: Kernel) -> Linear:
        linear = make_linear(weight, Kernel.PLAIN)
        return lambda x: spoil(torch.cat([linear(row) for row in x.split(1)]), kernel)

    monkeypatch.setattr(probes, "make_linear", spoiled)
    set_times(monkeypatch, packed=EVEN, plain=EVEN)


def raised(y: Tensor, at: slice | Sequence[int]) -> Tensor:
    """Those rows a little larger."""
    y = y.clone()
    y[at] *= 1 + 1e-6
    return y


def test_rows_that_never_depend_on_each_other_get_blocks_of_all_sizes_that_are_as_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_kernel(monkeypatch, lambda y, _: y)
    found = find_arithmetic(CONFIG, "f32", "exact")
    # The norm of a lone row, which is torch's own, may round otherwise; then it is padded to four.
    assert found.rows in {RowPlan(BLOCK_ROWS), RowPlan(BLOCK_ROWS[2:])}
    assert (found.kernel, found.is_exact) == (Kernel.PACKED, True)


def test_a_kernel_that_changes_with_many_rows_gets_smaller_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernel(monkeypatch, lambda y, _: y * (1 + 1e-6) if len(y) > 32 else y)
    assert find_arithmetic(CONFIG, "f32", "exact").rows.sizes[-1] == 32


def test_a_kernel_that_changes_up_to_eight_rows_gets_none_of_those_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_kernel(monkeypatch, lambda y, _: raised(y, slice(1, None)) if len(y) < 9 else y)
    assert find_arithmetic(CONFIG, "f32", "exact").rows.sizes[-4:] == (16, 32, 64, 128)
    assert not {2, 4, 8} & set(find_arithmetic(CONFIG, "f32", "exact").rows.sizes)


def test_a_lone_row_with_a_kernel_of_its_own_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernel(monkeypatch, lambda y, _: y * (1 + 1e-6) if len(y) == 1 else y)
    assert find_arithmetic(CONFIG, "f32", "exact").rows == RowPlan((4, 8, 16, 32, 64, 128))


def test_a_place_that_differs_within_a_block_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernel(monkeypatch, lambda y, _: raised(y, [len(y) - 1]) if len(y) > 8 else y)
    assert find_arithmetic(CONFIG, "f32", "exact").rows.sizes[-1] == 8


def test_the_plain_kernel_serves_where_the_packed_one_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(y: Tensor, kernel: Kernel) -> Tensor:
        return y * (1 + 1e-6 * torch.arange(len(y))[:, None]) if kernel is Kernel.PACKED else y

    use_kernel(monkeypatch, spoil)
    # A row alone is exact with any kernel; blocks of one row cost what they cost.
    set_times(monkeypatch, packed=EVEN, plain=EVEN)
    found = find_arithmetic(CONFIG, "f32", "exact")
    assert found.is_exact
    assert found.kernel is Kernel.PLAIN or found.rows == RowPlan((1,))


def test_where_nothing_is_exact_frames_are_taken_as_they_are_and_the_class_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = iter(range(10**9))
    use_kernel(monkeypatch, lambda y, _: y * (1 + 1e-6 * (next(state) % 7)))
    monkeypatch.setattr(selftest, "LONE_ROWS", (4, 16))
    found = find_arithmetic(CONFIG, "f32", "exact")
    assert (found.rows, found.is_exact) == (WHOLE_FRAMES, False)
    assert found.numerics_class.startswith("inexact/f32/cpu/")


def test_another_order_of_summation_gives_another_class(monkeypatch: pytest.MonkeyPatch) -> None:
    set_times(monkeypatch, plain=EVEN)
    ours = find_arithmetic(CONFIG, "f32", "exact").numerics_class

    def backwards(weight: Weight, kernel: Kernel) -> Linear:
        assert isinstance(weight, Tensor)
        linear = make_linear(weight.flip(1).contiguous(), kernel)
        return lambda x: linear(x.flip(1).contiguous())

    selftest._product.cache_clear()
    monkeypatch.setattr(probes, "make_linear", backwards)
    theirs = find_arithmetic(CONFIG, "f32", "exact").numerics_class
    assert theirs.rpartition("/")[0] == ours.rpartition("/")[0]
    assert theirs != ours


@pytest.mark.parametrize(("share", "chosen"), [(0.9, Kernel.PACKED), (0.5, Kernel.PLAIN)])
def test_only_a_much_quicker_kernel_takes_the_place_of_the_first(
    monkeypatch: pytest.MonkeyPatch, share: float, chosen: Kernel
) -> None:
    set_times(monkeypatch, packed=EVEN, plain={size: share * us for size, us in EVEN.items()})
    for numerics in ("exact", "fast"):
        assert find_arithmetic(CONFIG, "f32", numerics).kernel is chosen


def test_a_lone_row_is_padded_where_four_take_less_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernel(monkeypatch, lambda y, _: y)
    set_times(monkeypatch, packed={**EVEN, 1: 100.0, 2: 100.0})
    assert find_arithmetic(CONFIG, "f32", "exact").rows.lone == 4


def test_ways_to_pad_that_agree_are_of_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Arithmetic] = []
    for lone_us in (1.0, 1000.0):
        set_times(monkeypatch, int8_onednn={**EVEN, 1: lone_us, 2: lone_us})
        found.append(find_arithmetic(CONFIG, "int8", "exact"))
    assert found[0].rows.lone < found[1].rows.lone
    assert found[0].numerics_class == found[1].numerics_class


def test_both_kernels_of_eight_bit_are_of_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    if not {Kernel.INT8_ONEDNN, Kernel.INT8_FBGEMM} <= set(usable_kernels("int8")):
        pytest.skip("this processor has but one of them")
    classes = []
    for name in ("int8_onednn", "int8_fbgemm"):
        set_times(monkeypatch, **{name: EVEN})
        classes.append(find_arithmetic(CONFIG, "int8", "exact").numerics_class)
    assert classes[0] == classes[1]


def test_a_kernel_that_seldom_differs_is_of_a_class_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    if Kernel.INT8_HALVES not in usable_kernels("int8"):
        pytest.skip("this build of torch has no fbgemm")
    set_times(monkeypatch, int8_halves=EVEN)
    ours = find_arithmetic(CONFIG, "int8", "exact").numerics_class
    monkeypatch.setattr(selftest, "SELDOM_DIFFERENT", frozenset())
    assert find_arithmetic(CONFIG, "int8", "exact").numerics_class != ours


def test_a_kernel_that_takes_hundreds_of_times_as_long_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Kernel] = []

    def made(weight: Weight, kernel: Kernel) -> Linear:
        linear = make_linear(weight, Kernel.PLAIN)

        def multiply(x: Tensor) -> Tensor:
            calls.append(kernel)
            return linear(x)

        return multiply

    def call_s(linear: Linear, x: Tensor) -> float:
        linear(x)
        return 1.0 if calls[-1] is Kernel.PACKED else 0.01

    monkeypatch.setattr(timing, "make_linear", made)
    monkeypatch.setattr(timing, "_call_s", call_s)
    time_kernels.cache_clear()
    try:
        found = time_kernels((Kernel.PACKED, Kernel.PLAIN), 64, 64, torch.float32)
    finally:
        time_kernels.cache_clear()
    assert [each.kernel for each in found] == [Kernel.PLAIN]
    assert calls.count(Kernel.PACKED) == 2


def test_an_unknown_dtype_is_told_with_those_to_choose_from() -> None:
    with pytest.raises(UserError, match="choose one of bf16"):
        find_arithmetic(CONFIG, "fp8", "exact")


@pytest.mark.parametrize("dtype", ["bf16", "f32", "int8", "int4"])
def test_this_machine_finds_the_same_twice(dtype: str) -> None:
    found = find_arithmetic(CONFIG, dtype, "exact")
    selftest._product.cache_clear()
    assert find_arithmetic(CONFIG, dtype, "exact") == found


def test_kernels_are_timed_on_one_thread_and_the_others_are_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    call_s = timing._call_s

    def noted(linear: Linear, x: Tensor) -> float:
        seen.append(torch.get_num_threads())
        return call_s(linear, x)

    monkeypatch.setattr(timing, "_call_s", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        timing.time_kernels((Kernel.PLAIN,), 24, 40, torch.float32)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}
