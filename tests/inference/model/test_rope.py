"""Rotary tables: angles do not depend on how a table grew or on who shares the step, and are those of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, Phi3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from inference.model.families import Rope
from inference.model.rope import RopeTable, RopeTables, Stretch, rotate
from tests.inference.engine.checkpoints import parsed

ROPE = Rope(10_000.0, 20)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 300))
def test_a_position_has_the_same_angles_however_the_table_grew(position: int, rows: int) -> None:
    grown = RopeTable(ROPE, torch.float32)
    grown.rows(0, 1)
    grown.rows(1900, 200)
    fresh = RopeTable(ROPE, torch.float32)
    for one, other in zip(grown.rows(position, rows), fresh.rows(position, rows), strict=True):
        assert one.shape == (rows, 1, 20)
        assert torch.equal(one, other)


YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + pair / 10 for pair in range(8)],
    "long_factor": [2.0 + pair for pair in range(8)],
    "original_max_position_embeddings": 100,
}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 1e6},
        {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
        {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0},
        LLAMA3,
        YARN,
        {**YARN, "truncate": False, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.5},
        {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3, "partial_rotary_factor": 0.5},
        LONG,
        {**LONG, "attention_factor": 1.25, "original_max_position_embeddings": 512},
    ],
)
def test_angles_are_those_of_transformers(rope: dict[str, Any]) -> None:
    sizes = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "pad_token_id": None,
    }
    if rope["rope_type"] in ("default", "longrope"):
        original = rope.get("original_max_position_embeddings", 512)
        of_phi3 = Phi3Config(**sizes, original_max_position_embeddings=original, rope_parameters=dict(rope))
        theirs: nn.Module = Phi3RotaryEmbedding(of_phi3)
    else:
        theirs = LlamaRotaryEmbedding(LlamaConfig(**sizes, rope_parameters=dict(rope)))
    config = parsed(rope_parameters=rope)
    cos, sin = theirs(torch.zeros(1), torch.arange(512)[None])
    ((our_cos, our_sin),) = RopeTables(config, torch.float32).of([(0, 512, 512)], 512)
    half = our_cos.shape[-1] // 2
    assert torch.allclose(our_cos[:, 0], cos[0], atol=3e-6)
    assert torch.allclose(our_sin[:, 0, half:], sin[0, :, half:], atol=3e-6)
    assert torch.equal(our_sin[:, 0, :half], -our_sin[:, 0, half:])


@pytest.mark.parametrize(("rows_max", "is_long"), [(100, False), (101, True)])
def test_a_sequence_has_one_set_of_factors_from_its_first_row_to_its_last(
    rows_max: int, is_long: bool
) -> None:
    config = parsed(
        "phi3", partial_rotary_factor=1.0, rope_scaling=LONG, original_max_position_embeddings=100
    )
    rope = config.kinds[0].rope
    expected = RopeTable(rope, torch.float32, is_long=is_long).rows(0, 101)
    tables = RopeTables(config, torch.float32)
    for position, rows in ((0, 60), (99, 2)):
        ((cos, sin),) = tables.of([(position, rows, rows_max)], rows)
        assert torch.equal(cos, expected[0][position : position + rows])
        assert torch.equal(sin, expected[1][position : position + rows])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 20), st.sampled_from([90, 500])), min_size=1, max_size=5
    ),
    st.integers(0, 5),
)
def test_sequences_that_share_a_step_have_their_own_angles(stretches: list[Stretch], padding: int) -> None:
    config = parsed(
        "phi3", partial_rotary_factor=1.0, rope_scaling=LONG, original_max_position_embeddings=100
    )
    tables = RopeTables(config, torch.float32)
    rows = sum(count for _, count, _ in stretches) + padding
    ((cos, sin),) = tables.of(stretches, rows)
    assert len(cos) == len(sin) == rows
    start = 0
    for position, count, rows_max in stretches:
        ((own_cos, own_sin),) = tables.of([(position, count, rows_max)], count)
        assert torch.equal(cos[start : start + count], own_cos)
        assert torch.equal(sin[start : start + count], own_sin)
        start += count


def test_kinds_of_layers_share_their_angles_unless_they_turn_otherwise() -> None:
    def angles(family: str) -> list[int]:
        return [
            id(cos) for cos, _ in RopeTables(parsed(family), torch.float32).of([(3, 4, 8), (9, 1, 10)], 8)
        ]

    assert len(set(angles("gemma2"))) == 1
    assert len(set(angles("gemma3_text"))) == 2


def test_dimensions_beyond_the_turned_ones_stay_as_they_are() -> None:
    x = torch.randn(5, 2, 30)
    cos, sin = RopeTable(ROPE, torch.float32).rows(3, 5)
    turned = rotate(x, cos, sin)
    assert torch.equal(turned[..., 20:], x[..., 20:])
    assert torch.equal(turned[..., :20], rotate(x[..., :20].contiguous(), cos, sin))


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    cos, sin = RopeTable(ROPE, torch.float32).rows(0, 60)
    q, k = torch.randn(1, 1, 20), torch.randn(1, 1, 20)

    def score(at: int, other: int) -> float:
        left = rotate(q, cos[at : at + 1], sin[at : at + 1])
        return float((left * rotate(k, cos[other : other + 1], sin[other : other + 1])).sum())

    assert rotate(q, cos[7:8], sin[7:8]).norm() == pytest.approx(float(q.norm()), rel=1e-5)
    assert score(30, 10) == pytest.approx(score(55, 35), rel=1e-3, abs=1e-4)
