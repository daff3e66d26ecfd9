"""Rows in 8 bit: how near they stay, what is never a NaN and what always is, and that each is rounded by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.model.kv_form import KvForm, make_form
from inference.model.precision import KV_KINDS, kv_head_bytes
from protocols.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def drawn(rows: int, heads: int = 3, head_dim: int = 20, seed: int = 0) -> torch.Tensor:
    """Heads of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.randint(-6, 6, (rows, heads, 1), generator=generator)
    return torch.randn(rows, heads, head_dim, generator=generator) * sizes


def rounded(form: KvForm, rows: torch.Tensor) -> torch.Tensor:
    return form.read(form.stored(rows, rows)[0])


@each_dtype
@given(seed=st.integers(0, 1000), head_dim=st.integers(1, 130))
def test_every_number_is_within_half_a_step_of_the_largest_of_its_head(
    dtype: torch.dtype, seed: int, head_dim: int
) -> None:
    rows = drawn(5, head_dim=head_dim, seed=seed).to(dtype)
    off = (rounded(KvForm(dtype, is_int8=True), rows).double() - rows.double()).abs()
    largest = rows.double().abs().amax(-1, keepdim=True)
    # Half a step; and in 16 bit the scale is rounded, which moves the largest, and so is what comes out.
    slack = 2 * torch.finfo(dtype).eps
    assert (off <= largest * (0.5 / 127 * (1 + slack) + slack)).all()
    assert (off.norm() / rows.double().norm()) < 0.01


@each_dtype
def test_a_row_is_rounded_by_itself_and_keys_apart_from_values(dtype: torch.dtype) -> None:
    form, keys, values = KvForm(dtype, is_int8=True), drawn(70).to(dtype), drawn(70, seed=1).to(dtype)
    together = form.stored(keys, values)
    for row in range(70):
        alone = form.stored(keys[row : row + 1], values[row : row + 1])
        for many, one in zip(together, alone, strict=True):
            assert torch.equal(many[row : row + 1], one)
            assert torch.equal(form.read(many)[row : row + 1], form.read(one))


@each_dtype
def test_zeros_stay_zeros_and_so_does_memory_that_nobody_wrote(dtype: torch.dtype) -> None:
    form, zeros = KvForm(dtype, is_int8=True), torch.zeros(4, 2, 16, dtype=dtype)
    assert torch.equal(rounded(form, zeros), zeros)
    unwritten = torch.zeros(4, 2, form.width(16), dtype=torch.int8)
    assert torch.equal(form.read(unwritten), zeros)


@each_dtype
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_head_that_is_not_finite_comes_back_as_nan_and_its_neighbours_as_they_were(
    dtype: torch.dtype, value: float
) -> None:
    form, rows = KvForm(dtype, is_int8=True), drawn(3, heads=2).to(dtype)
    expected = rounded(form, rows)
    rows[1, 1, 5] = value
    stored, _ = form.stored(rows, rows)
    found = form.read(stored)
    assert found[1, 1].isnan().all()
    assert not form.is_finite(stored)
    assert form.is_finite(stored[::2])
    found[1, 1] = expected[1, 1]
    assert torch.equal(found, expected)


@each_dtype
@pytest.mark.parametrize("size", [1e-45, 1e-41, 1e-38, 3e38])
def test_the_smallest_and_the_largest_numbers_are_finite(dtype: torch.dtype, size: float) -> None:
    rows = torch.full((1, 1, 8), size).to(dtype)
    found = rounded(KvForm(dtype, is_int8=True), rows)
    assert found.isfinite().all()
    assert (found.double() - rows.double()).abs().max() <= max(0.006 * size, 1.2e-38)


def test_as_the_model_has_them_they_are_not_touched() -> None:
    form, rows = KvForm(torch.bfloat16), drawn(3).bfloat16()
    assert form.stored(rows, rows)[0] is rows
    assert form.read(rows) is rows


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("kv", KV_KINDS)
def test_a_head_takes_the_bytes_that_are_planned_for_it(name: str, kv: str) -> None:
    form = make_form(kv, DTYPES[name])
    for head_dim in (6, 64, 80, 128):
        assert form.width(head_dim) * form.stored_dtype.itemsize == kv_head_bytes(head_dim, name, kv)


def test_at_usual_sizes_8_bit_take_half_of_16() -> None:
    assert kv_head_bytes(128, "bf16", "int8") / kv_head_bytes(128, "bf16") == 130 / 256
    assert kv_head_bytes(64, "int4", "int8") / kv_head_bytes(64, "int4") == 66 / 128
    with pytest.raises(UserError, match="does not run"):
        kv_head_bytes(64, "fp8", "int8")
