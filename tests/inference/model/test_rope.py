"""The rotary table: angles do not depend on how it grew, and are those of transformers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from inference.model.rope import RopeTable, rotate
from tests.inference.engine.checkpoints import parsed

CONFIG = parsed(head_dim=20)
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
    grown = RopeTable(CONFIG, torch.float32)
    grown.rows(0, 1)
    grown.rows(1900, 200)
    fresh = RopeTable(CONFIG, torch.float32)
    for one, other in zip(grown.rows(position, rows), fresh.rows(position, rows), strict=True):
        assert one.shape == (rows, 1, 20)
        assert torch.equal(one, other)


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 1e6}, LLAMA3])
def test_angles_are_those_of_transformers(rope: dict[str, float | str]) -> None:
    theirs = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=48,
            num_attention_heads=4,
            head_dim=16,
            max_position_embeddings=512,
            rope_parameters=rope,
        )
    )
    cos, sin = theirs(torch.zeros(1), torch.arange(512)[None])
    ours = RopeTable(parsed(rope_parameters=rope), torch.float32).rows(0, 512)
    assert torch.allclose(ours[0][:, 0], cos[0], atol=1e-6)
    assert torch.allclose(ours[1][:, 0, 8:], sin[0, :, 8:], atol=1e-6)
    assert torch.equal(ours[1][:, 0, :8], -ours[1][:, 0, 8:])


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    cos, sin = RopeTable(CONFIG, torch.float32).rows(0, 60)
    q, k = torch.randn(1, 1, 20), torch.randn(1, 1, 20)

    def score(at: int, other: int) -> float:
        left = rotate(q, cos[at : at + 1], sin[at : at + 1])
        return float((left * rotate(k, cos[other : other + 1], sin[other : other + 1])).sum())

    assert rotate(q, cos[7:8], sin[7:8]).norm() == pytest.approx(float(q.norm()), rel=1e-5)
    assert score(30, 10) == pytest.approx(score(55, 35), rel=1e-3, abs=1e-4)
