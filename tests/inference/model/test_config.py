"""config.json: the families as they are saved, what is refused, and what a range needs."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.model.config import EMBEDDING, HEAD, NORM
from inference.model.config_fields import ConfigFields
from inference.model.config_json import parse_config
from inference.model.families import (
    FAMILIES,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Rope,
    Scaling,
    YarnScaling,
)
from protocols.errors import Malformed, UserError
from protocols.placement import LayerRange, LayerShape
from tests.inference.engine.checkpoints import config_json, parsed

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_sizes_are_taken_as_they_stand() -> None:
    config = parsed("qwen3", eos_token_id=[3, 5], tie_word_embeddings=True)
    assert (config.family, config.design.has_head_norms, config.tied) == ("qwen3", True, True)
    assert (config.vocabulary, config.hidden, config.ffn, config.layers) == (97, 48, 112, 3)
    assert (config.heads, config.kv_heads, config.head_dim, config.context) == (4, 2, 16, 512)
    assert config.eos_ids == (3, 5)
    assert config.layer_shape("bf16") == LayerShape(48, 112, 4, 2, 16, "bf16")


def test_what_older_files_leave_out_has_the_default_of_its_family() -> None:
    least = {
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    llama = parse_config(json.dumps({**least, "model_type": "llama"}).encode())
    qwen3 = parse_config(json.dumps({**least, "model_type": "qwen3"}).encode())
    assert (llama.kv_heads, llama.head_dim, llama.kinds[0].rope.theta, llama.eos_ids) == (4, 12, 10_000.0, ())
    assert qwen3.head_dim == 128


@pytest.mark.parametrize(
    ("rope", "theta", "scaling"),
    [
        ({"rope_theta": 5e5}, 5e5, None),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 1e6, None),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, 5e5, Llama3Scaling(8, 1, 4, 8192)),
        ({"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}, 5e5, Llama3Scaling(8, 1, 4, 8192)),
        ({"rope_scaling": {**LLAMA3, "type": "yarn"}}, 1e4, Llama3Scaling(8, 1, 4, 8192)),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 1e4, LinearScaling(2.0)),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, 1e4, None),
    ],
)
def test_rotary_settings_are_read_from_older_and_newer_files(
    rope: dict[str, Any], theta: float, scaling: Scaling | None
) -> None:
    (kind,) = parsed(**rope).kinds
    assert (kind.rope, kind.window) == (Rope(theta, 16, scaling), 0)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("changes", "amplitude"),
    [
        ({}, 1.1386294),
        ({"factor": 1.0}, 1.0),
        ({"factor": None}, 1.1386294),
        ({"attention_factor": 0.5}, 0.5),
        ({"mscale": 2.0, "mscale_all_dim": 1.0}, 1.2772589 / 1.1386294),
    ],
)
def test_yarn_has_its_amplitude_from_its_factor_unless_it_is_given(
    changes: dict[str, Any], amplitude: float
) -> None:
    rope = parsed(rope_scaling={**YARN, **changes}).kinds[0].rope
    assert rope.scaling == YarnScaling(changes.get("factor") or 4.0, 32, 1, 128, True)
    assert rope.amplitude == pytest.approx(amplitude)


@pytest.mark.parametrize("name", ["longrope", "su", "yarn"])
def test_long_factors_are_read_by_all_their_names(name: str) -> None:
    factors = {"short_factor": [1.0, 2.0, 3], "long_factor": [4, 5, 6]}
    rope = (
        parsed("phi3", rope_scaling={"type": name, **factors}, original_max_position_embeddings=64)
        .kinds[0]
        .rope
    )
    assert (rope.turned, rope.scaling) == (6, LongScaling((1, 2, 3), (4, 5, 6), 64))
    assert rope.amplitude == pytest.approx(1.5**0.5)  # sqrt(1 + ln 8 / ln 64)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "names MambaForCausalLM, and weft runs LlamaForCausalLM, Mistral",
        ),
        ({"architectures": None, "model_type": "gpt2"}, "names gpt2"),
        ({"architectures": [], "model_type": ""}, "names no architecture"),
        ({"rope_scaling": {"rope_type": "proportional", "factor": 2.0}}, "rope scaling 'proportional'"),
        ({"rope_scaling": {"type": "linear"}}, "factor None"),
        ({"rope_scaling": {**YARN, "factor": -4.0}}, "factor -4"),
        ({"rope_scaling": {**YARN, "beta_fast": 1, "beta_slow": 32}}, "contradicts itself"),
        ({"rope_scaling": YARN, "rope_theta": 1.0}, "contradicts itself"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"rope_scaling": {**LLAMA3, "factor": "8"}}, "factor '8'"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "contradicts itself"),
        ({"rope_theta": -1.0}, "rope_theta -1"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"hidden_size": "48"}, r"\$.hidden_size"),
        ({"hidden_size": 0}, "hidden_size 0"),
        ({"hidden_size": 1 << 20}, "hidden_size 1048576"),
        ({"num_hidden_layers": 513}, "num_hidden_layers 513"),
        ({"num_attention_heads": 0}, "num_attention_heads 0"),
        ({"num_key_value_heads": 0}, "num_key_value_heads 0"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"head_dim": 15}, "do not divide"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps"),
        ({"eos_token_id": 97}, "eos_token_id"),
        ({"eos_token_id": list(range(65))}, "eos_token_id"),
        ({"max_position_embeddings": 0}, "max_position_embeddings 0"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        parsed(**changes)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(
    st.binary(max_size=64)
    | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_other_bytes_are_refused_in_a_sentence(data: bytes) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        parse_config(data)


HOSTILE: tuple[Any, ...] = (
    *(10**400, -1, 0, 1e308, 1e-320, None, True, "x", [], {}, [1], [[]]),
    {"rope_type": ["yarn"]},
    {"full_attention": [1]},
    {"rope_type": "yarn", "factor": 1e-300, "beta_fast": 10**400},
    {"rope_type": "yarn", "factor": 1e11, "mscale": 1e-11, "mscale_all_dim": 1e11, "rope_theta": 1e11},
    {"rope_type": "longrope", "short_factor": [10**400] * 8, "long_factor": [0] * 8},
    {"rope_type": "llama3", "factor": 1e-300, "low_freq_factor": 1e-300, "high_freq_factor": 1},
)


@pytest.mark.parametrize("family", [family.model_type for family in FAMILIES])
def test_any_value_of_any_field_is_taken_or_refused_in_a_sentence(family: str) -> None:
    for field in ConfigFields.__struct_fields__:
        for value in HOSTILE:
            complaint = "config.json "
            try:
                config = parsed(family, **{field: value})
            except UserError as error:
                complaint = str(error)
            else:
                assert len(config.kind_of_layer) == config.layers
            assert complaint.startswith("config.json ")
            assert "\n" not in complaint


def test_missing_sizes_are_named() -> None:
    without = {key: value for key, value in config_json().items() if key != "intermediate_size"}
    with pytest.raises(UserError, match="intermediate_size"):
        parse_config(json.dumps(without).encode())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", [family.model_type for family in FAMILIES])
def test_ranges_need_their_layers_and_the_ends_what_lies_beyond(family: str, tied: bool) -> None:
    config = parsed(family, tie_word_embeddings=tied)
    first, middle, last = (set(config.tensor_names(LayerRange(at, at + 1))) for at in range(3))
    head = EMBEDDING if tied else HEAD
    per_layer = len(middle)
    assert all(name.startswith("model.layers.1.") for name in middle)
    assert first - {EMBEDDING} == {name.replace("layers.1.", "layers.0.") for name in middle}
    assert last - {name.replace("layers.1.", "layers.2.") for name in middle} == {NORM, head}
    assert set(config.tensor_names(config.whole)) == first | middle | last
    assert len(config.tensor_names(config.whole)) == 3 * per_layer + (2 if tied else 3)


@pytest.mark.parametrize("bounds", [(0, 0), (2, 1), (2, 4), (3, 3)])
def test_a_range_outside_the_model_is_malformed(bounds: tuple[int, int]) -> None:
    config = parsed()
    for ask in (config.tensor_names, lambda layers: config.range_bytes(layers, "f32")):
        with pytest.raises(Malformed, match="3 layers"):
            ask(LayerRange(*bounds))


@pytest.mark.parametrize("name", ["model.layers.3.mlp.up_proj.weight", "model.layers.0.mlp.up_proj", "x", ""])
def test_a_tensor_of_another_model_is_malformed(name: str) -> None:
    with pytest.raises(Malformed, match="no tensor"):
        parsed().expected_shape(name)


@pytest.mark.parametrize("family", [family.model_type for family in FAMILIES])
def test_bytes_are_those_of_the_tensors_and_add_up_over_ranges(family: str) -> None:
    config = parsed(family)
    shapes = [config.expected_shape(name) for name in config.tensor_names(config.whole)]
    assert config.range_bytes(config.whole, "f32") == 4 * sum(map(math.prod, shapes))
    cut = (LayerRange(0, 2), LayerRange(2, 3))
    assert sum(config.range_bytes(part, "bf16") for part in cut) == config.range_bytes(config.whole, "bf16")
    assert config.kv_bytes_per_row(LayerRange(1, 3), "bf16") == 2 * 2 * 2 * 16 * 2


def test_a_tied_head_counts_beside_the_embedding() -> None:
    tied, untied = parsed(tie_word_embeddings=True), parsed()
    assert tied.range_bytes(tied.whole, "f32") == untied.range_bytes(untied.whole, "f32")
