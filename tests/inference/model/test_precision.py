"""The table of precisions says what products really take, and knows all dtypes that messages may name."""

from __future__ import annotations

import msgspec
import pytest
import torch

from inference.engine.kernels import int4
from inference.engine.kernels.quantised import quantise_int4, quantise_int8
from inference.model.precision import PRECISIONS, precision_of, wire_of
from inference.model.weights import TORCH_DTYPES
from node.config import Config
from protocols.errors import UserError
from protocols.placement import LayerRange, LayerShape
from protocols.tensor import DType
from tests.inference.engine.checkpoints import parsed


@pytest.mark.parametrize(("outputs", "inputs"), [(48, 128), (33, 40), (256, 200)])
def test_a_product_takes_the_bytes_that_the_table_says(outputs: int, inputs: int) -> None:
    weight = torch.randn(outputs, inputs)
    eight, four = quantise_int8(weight), quantise_int4(weight)
    rows, columns = PRECISIONS["int4"].padded(outputs, inputs)
    packed = int4._packed(four, rows)
    taken = {
        "f32": weight.nbytes,
        "bf16": weight.bfloat16().nbytes,
        "int8": eight.items.nbytes + eight.scales.nbytes,
        "int4": packed.nbytes + rows * columns // 64 * 4,
    }
    assert taken == {name: each.product_bytes(outputs, inputs) for name, each in PRECISIONS.items()}


def test_rows_have_the_type_that_is_sent() -> None:
    for name, precision in PRECISIONS.items():
        assert TORCH_DTYPES[name].itemsize == precision.row_bytes == precision.wire.item_bytes
        assert wire_of(name) is precision.wire
    assert wire_of("news") is DType.BF16


def test_a_range_in_fewer_bits_takes_less_and_its_keys_and_values_do_not() -> None:
    config = parsed(hidden_size=256, intermediate_size=512, head_dim=64)
    layers = LayerRange(1, 2)
    sizes = {name: config.range_bytes(layers, name) for name in ("f32", "bf16", "int8", "int4")}
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    assert sizes["int4"] / sizes["bf16"] == pytest.approx(4.5 / 16, abs=0.01)
    assert len({config.kv_bytes_per_row(layers, name) for name in ("bf16", "int8", "int4")}) == 1


def test_messages_and_settings_take_these_dtypes_and_no_others() -> None:
    for name in PRECISIONS:
        shape = LayerShape(48, 112, 4, 2, 16, name)
        assert msgspec.convert(msgspec.to_builtins(shape), LayerShape) == shape
        assert msgspec.convert({"model": {"dtype": name}}, Config).model.dtype == name
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert([48, 112, 4, 2, 16, "int2"], LayerShape)


def test_an_unknown_dtype_is_one_line_with_those_to_choose_from() -> None:
    with pytest.raises(UserError, match=r"does not run dtype 'fp8': choose one of bf16, f32, int8, int4"):
        precision_of("fp8")
