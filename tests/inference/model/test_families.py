"""What the models of a family choose among: windows, rotary bases, biases, experts; and what none of them has is refused."""

from __future__ import annotations

from typing import Any

import pytest

from inference.model.families import ATTENTION, FFN, QUERY_KEY_VALUE, LinearScaling, Rope
from protocols.errors import UserError
from protocols.placement import LayerRange
from tests.inference.engine.checkpoints import parsed


@pytest.mark.parametrize(
    ("family", "changes", "windows"),
    [
        ("llama", {}, [0, 0, 0]),
        ("mistral", {}, [50, 50, 50]),
        ("mistral", {"sliding_window": None}, [0, 0, 0]),
        ("mistral", {"sliding_window": 512}, [0, 0, 0]),
        ("qwen2", {}, [0, 40, 40]),
        ("qwen2", {"use_sliding_window": False}, [0, 0, 0]),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2}, [0, 0, 9]),
        ("gemma2", {}, [40, 0, 40]),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, [0, 40, 0]),
        ("gemma3_text", {"sliding_window_pattern": 3}, [40, 40, 0]),
        ("phi3", {}, [50, 50, 50]),
        ("qwen3_moe", {"sliding_window": 30}, [0, 0, 0]),
        ("qwen3_moe", {"sliding_window": 30, "use_sliding_window": True}, [30, 30, 30]),
    ],
)
def test_every_layer_has_its_window(family: str, changes: dict[str, Any], windows: list[int]) -> None:
    config = parsed(family, **changes)
    assert [config.kinds[kind].window for kind in config.kind_of_layer] == windows
    assert len(config.kinds) == len(set(windows))


@pytest.mark.parametrize(
    "changes",
    [
        {
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
    ],
)
def test_gemma3_turns_heads_otherwise_where_the_window_slides(changes: dict[str, Any]) -> None:
    local, full = parsed("gemma3_text", **changes).kinds
    assert (local.window, local.rope) == (40, Rope(1e4, 16))
    assert (full.window, full.rope) == (0, Rope(1e6, 16, LinearScaling(8.0)))


@pytest.mark.parametrize(
    ("family", "changes", "biased"),
    [
        ("llama", {}, frozenset()),
        ("llama", {"attention_bias": True}, ATTENTION),
        ("llama", {"mlp_bias": True}, FFN),
        ("qwen2", {}, QUERY_KEY_VALUE),
        ("gemma2", {"attention_bias": True}, ATTENTION),
    ],
)
def test_biases_are_tensors_of_their_products(
    family: str, changes: dict[str, Any], biased: frozenset[str]
) -> None:
    config = parsed(family, **changes)
    named = {name for name in config.tensor_names(LayerRange(0, 1)) if name.endswith(".bias")}
    assert named == {f"model.layers.0.{part}.bias" for part in biased}
    for name in named:
        assert config.expected_shape(name) == config.expected_shape(name.replace(".bias", ".weight"))[:1]


def test_a_mixture_has_all_its_experts_in_every_layer() -> None:
    config = parsed("mixtral", num_local_experts=4, num_experts_per_tok=2)
    experts = [name for name in config.tensor_names(LayerRange(1, 2)) if ".experts." in name]
    assert len(experts) == 3 * 4
    assert config.expected_shape("model.layers.1.block_sparse_moe.experts.3.w2.weight") == (48, 112)
    assert config.expected_shape("model.layers.1.block_sparse_moe.gate.weight") == (4, 48)
    assert config.layer_shape("bf16").ffn == 2 * 112
    one = parsed("mixtral", num_local_experts=2, num_experts_per_tok=2)
    router_and_two = 4 * (2 * 48 + 2 * 3 * 112 * 48)
    range_bytes = (each.range_bytes(LayerRange(1, 2), "f32") for each in (config, one))
    assert next(range_bytes) - next(range_bytes) == router_and_two


@pytest.mark.parametrize(
    ("family", "changes", "complaint"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window of 0"),
        ("mistral", {"attention_bias": True}, "attention_bias"),
        (
            "mistral",
            {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
            "layer_types",
        ),
        ("qwen2", {"layer_types": ["full_attention"] * 2}, "2 layer_types for 3 layers"),
        ("qwen2", {"layer_types": ["full_attention"] * 4}, "layer_types"),
        ("qwen3", {"layer_types": ["linear_attention"] * 3}, "linear_attention for layer 0"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "sliding_window of None"),
        ("gemma2", {"hidden_activation": "relu"}, "hidden_act relu"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar 0"),
        ("gemma2", {"final_logit_softcapping": -1.0}, "final_logit_softcapping -1"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"rope_parameters": {"full_attention": 5}}, "rope_parameters 5"),
        ("phi3", {"partial_rotary_factor": 0.35}, "turns 5 of 16"),
        ("phi3", {"partial_rotary_factor": 1.5}, "turns 24 of 16"),
        (
            "phi3",
            {"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}},
            "short_factor",
        ),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, "mlp_only_layers"),
        ("qwen3_moe", {"num_experts_per_tok": 6}, "5 experts of 40, 6 of them"),
        ("qwen3_moe", {"num_experts": 2000}, "2000 experts"),
        ("qwen3_moe", {"moe_intermediate_size": 0}, "5 experts of 0"),
        ("mixtral", {"num_local_experts": 0}, "0 experts"),
    ],
)
def test_what_no_model_of_a_family_has_is_refused_by_name(
    family: str, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        parsed(family, **changes)
    assert "\n" not in str(caught.value)
