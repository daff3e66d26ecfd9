"""The slices of all ranks put together are the whole model, and nothing is in two of them that is added up."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.parallel.ranks import added
from inference.engine.parallel.slices import (
    Part,
    Slice,
    check_ranks,
    part_config,
    ranks_bytes,
    tensor_part,
)
from inference.model.config import ModelConfig
from inference.model.config_json import parse_config
from protocols.errors import UserError
from protocols.placement import LayerRange
from tests.inference.engine.checkpoints import FAMILY_CHANGES, parsed

LAYER = "model.layers.1."
BIASES = {"attention_bias": True, "mlp_bias": True}


def spans(part: Part) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    return [(rows.start, rows.stop) for rows in part.rows], (part.columns.start, part.columns.stop)


@pytest.mark.parametrize(
    ("family", "name", "rows", "columns"),
    [
        # 4 query heads and 2 key heads of 16, hidden 48, ffn 112; the second of two ranks
        ("llama", "self_attn.q_proj.weight", [(32, 64)], (0, 48)),
        ("llama", "self_attn.k_proj.weight", [(16, 32)], (0, 48)),
        ("llama", "self_attn.v_proj.weight", [(16, 32)], (0, 48)),
        ("llama", "self_attn.o_proj.weight", [(0, 48)], (32, 64)),
        ("llama", "mlp.gate_proj.weight", [(56, 112)], (0, 48)),
        ("llama", "mlp.up_proj.weight", [(56, 112)], (0, 48)),
        ("llama", "mlp.down_proj.weight", [(0, 48)], (56, 112)),
        ("llama", "self_attn.q_proj.bias", [(32, 64)], (0, 1)),
        ("llama", "self_attn.o_proj.bias", [(0, 48)], (0, 1)),
        ("llama", "mlp.down_proj.bias", [(0, 48)], (0, 1)),
        ("llama", "input_layernorm.weight", [(0, 48)], (0, 1)),
        ("qwen3", "self_attn.k_norm.weight", [(0, 16)], (0, 1)),
        ("phi3", "self_attn.qkv_proj.weight", [(32, 64), (80, 96), (112, 128)], (0, 48)),
        ("phi3", "mlp.gate_up_proj.weight", [(56, 112), (168, 224)], (0, 48)),
        ("qwen3_moe", "mlp.gate.weight", [(0, 5)], (0, 48)),
        ("qwen3_moe", "mlp.experts.3.gate_proj.weight", [(20, 40)], (0, 48)),
        ("qwen3_moe", "mlp.experts.3.down_proj.weight", [(0, 48)], (20, 40)),
        ("mixtral", "block_sparse_moe.gate.weight", [(0, 4)], (0, 48)),
        ("mixtral", "block_sparse_moe.experts.0.w1.weight", [(56, 112)], (0, 48)),
        ("mixtral", "block_sparse_moe.experts.0.w2.weight", [(0, 48)], (56, 112)),
        ("mixtral", "block_sparse_moe.experts.0.w3.weight", [(56, 112)], (0, 48)),
    ],
)
def test_what_a_rank_reads_of_a_tensor(
    family: str, name: str, rows: list[tuple[int, int]], columns: tuple[int, int]
) -> None:
    config = parsed(family, **(BIASES if family == "llama" else {}))
    assert spans(tensor_part(config, LAYER + name, Slice(1, 2))) == (rows, columns)


configs = st.builds(
    lambda family, group, kv_heads, ffn, biases: parsed(
        family,
        num_key_value_heads=kv_heads,
        num_attention_heads=group * kv_heads,
        hidden_size=16 * group * kv_heads,
        intermediate_size=ffn,
        **({"moe_intermediate_size": ffn} if family == "qwen3_moe" else {}),
        **(BIASES if biases and family == "llama" else {}),
    ),
    st.sampled_from(sorted(FAMILY_CHANGES)),
    st.integers(1, 3),
    st.sampled_from([2, 4, 6]),
    st.sampled_from([24, 36, 48]),
    st.booleans(),
)


def items(part: Part) -> list[int]:
    return [at for first, count in part.runs(0, math.prod(part.size)) for at in range(first, first + count)]


@given(config=configs, of=st.sampled_from([1, 2]))
def test_slices_put_together_are_the_whole_and_have_the_sizes_of_the_sliced_model(
    config: ModelConfig, of: int
) -> None:
    part = part_config(config, of)
    assert part.tensor_names(part.whole) == config.tensor_names(config.whole)
    for name in config.tensor_names(LayerRange(0, 1)):
        whole, shape = math.prod(config.expected_shape(name)), part.expected_shape(name)
        parts = [tensor_part(config, name, Slice(rank, of)) for rank in range(of)]
        for each in parts:
            assert each.size == (shape if len(shape) == 2 else (*shape, 1))
        held = [items(each) for each in parts]
        if math.prod(shape) == whole:
            assert held == [list(range(whole))] * of
        else:
            assert sorted(at for each in held for at in each) == list(range(whole))
            assert len({each.name for each in parts}) == of


@given(config=configs, data=st.data())
def test_any_stretch_of_a_part_is_what_it_is_in_all_of_it(config: ModelConfig, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(config.tensor_names(LayerRange(0, 1))))
    part = tensor_part(config, name, Slice(data.draw(st.integers(0, 1)), 2))
    every = items(part)
    first = data.draw(st.integers(0, len(every) - 1))
    count = data.draw(st.integers(1, len(every) - first))
    runs = list(part.runs(first, count))
    assert [at for start, size in runs for at in range(start, start + size)] == every[first : first + count]


@given(of=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_sum_of_the_ranks_products_is_the_whole_product(of: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, x = (torch.randn(rows, 12 * of, generator=generator) for rows in (8, 3))
    part = [slice(12 * rank, 12 * (rank + 1)) for rank in range(of)]
    total = added([x[:, each] @ weight[:, each].T for each in part])
    assert torch.allclose(total, x @ weight.T, atol=1e-5)


def test_parts_are_added_in_order_in_32_bit_and_rounded_once() -> None:
    parts = [torch.tensor([value], dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0, -256.0)]
    assert added(parts).item() == 2.0
    assert added(parts).dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("kv_heads", "ffn", "of", "works"),
    [(2, 112, 4, "1 or 2"), (8, 112, 3, "1, 2, 4 or 8"), (3, 112, 3, "1"), (6, 36, 4, "1, 2, 3 or 6")],
)
def test_ranks_that_do_not_divide_a_model_are_refused_with_those_that_do(
    kv_heads: int, ffn: int, of: int, works: str
) -> None:
    config = parsed(num_attention_heads=24, num_key_value_heads=kv_heads, intermediate_size=ffn)
    with pytest.raises(UserError, match=rf"^{of} processes .* set worker.tensor_parallel to {works}$"):
        check_ranks(config, of)
    for each in works.replace(" or ", ", ").split(", "):
        check_ranks(config, int(each))


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8", "int4"])
def test_all_ranks_together_take_what_is_sliced_once_and_the_rest_each(dtype: str) -> None:
    config = parsed()
    inner, last = LayerRange(0, 2), LayerRange(2, 3)
    part = part_config(config, 2)
    for each in (inner, last, config.whole):
        ends_bytes = part.range_bytes(each, dtype) - each.layers * part.layer_bytes(dtype)
        assert ranks_bytes(config, each, dtype, 2) == 2 * each.layers * part.layer_bytes(dtype) + ends_bytes
        assert ranks_bytes(config, each, dtype, 1) == config.range_bytes(each, dtype)
    assert 2 * part.kv_bytes_per_row(config.whole, dtype) == config.kv_bytes_per_row(config.whole, dtype)


def test_a_slice_of_a_large_model_has_its_sizes() -> None:
    config = parse_config(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "vocab_size": 128_256,
                "hidden_size": 8192,
                "intermediate_size": 28_672,
                "num_hidden_layers": 80,
                "num_attention_heads": 64,
                "num_key_value_heads": 8,
                "rms_norm_eps": 1e-5,
            }
        ).encode()
    )
    part = part_config(config, 8)
    assert (part.heads, part.kv_heads, part.ffn, part.head_dim) == (8, 1, 3584, 128)
    down = tensor_part(config, "model.layers.79.mlp.down_proj.weight", Slice(7, 8))
    assert list(down.runs(3584, 2)) == [(28_672 + 7 * 3584, 2)]
    assert list(down.runs(3583, 2)) == [(8 * 3584 - 1, 1), (28_672 + 7 * 3584, 1)]
