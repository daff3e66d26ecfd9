"""In fp32 a shard computes what transformers computes, to 1e-5, for both families and every way a folder is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from inference.engine.engine import ShardEngine
from inference.engine.kv_cache import KvBudget
from inference.engine.reference import tensor_files
from inference.model.config import parse_config
from protocols.placement import LayerRange
from tests.inference.engine.checkpoints import KEY, MIB, run_chain, spec

PROMPT_ROWS, ROWS = 140, 150
SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 72,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def random_model(family: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(11)
    model: PreTrainedModel
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes}))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**{**SIZES, **changes}))
    # Fresh norms are all ones: taking one for another, or none, would go unnoticed.
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def engines_of(folder: Path, cuts: tuple[int, ...], dtype: str, numerics: str) -> list[ShardEngine]:
    config = parse_config((folder / "config.json").read_bytes())
    engines = [
        ShardEngine(config, LayerRange(start, end), dtype, numerics, tensor_files(folder), KvBudget(64 * MIB))
        for start, end in zip((0, *cuts), (*cuts, config.layers), strict=True)
    ]
    for engine in engines:
        engine.open_cache(KEY, spec(PROMPT_ROWS, ROWS))
    return engines


def logits_of(engines: list[ShardEngine], tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """After the prompt in chunks, and after each further token: [1 + ROWS - PROMPT_ROWS, vocabulary]."""
    seen: list[torch.Tensor] = []
    last = engines[-1].head
    compute = last.logits

    def kept(rows: torch.Tensor) -> torch.Tensor:
        seen.append(compute(rows))
        return seen[-1]

    monkeypatch.setattr(last, "logits", kept)
    run_chain(engines, 0, tokens[:128], sample=False)
    run_chain(engines, 128, tokens[128:PROMPT_ROWS])
    for position in range(PROMPT_ROWS, ROWS):
        run_chain(engines, position, [tokens[position]])
    return torch.cat(seen)


TOKENS = torch.randint(0, 120, (ROWS,), generator=torch.Generator().manual_seed(5))


def expected_logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(TOKENS[None], use_cache=False).logits[0, PROMPT_ROWS - 1 :]
    return logits.float()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def error_of(model: PreTrainedModel, engines: list[ShardEngine], monkeypatch: pytest.MonkeyPatch) -> float:
    return relative(logits_of(engines, TOKENS.tolist(), monkeypatch), expected_logits(model))


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("qwen3", {}),
        (
            "qwen3",
            {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        ),
    ],
)
def test_logits_equal_those_of_transformers_in_f32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, changes: dict[str, Any], numerics: str
) -> None:
    model = random_model(family, **changes)
    model.save_pretrained(tmp_path)
    assert error_of(model, engines_of(tmp_path, (), "f32", numerics), monkeypatch) < 1e-5


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_chain_of_shards_from_a_folder_of_many_files_equals_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = random_model(family)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert error_of(model, engines_of(tmp_path, (1, 3), "f32", "exact"), monkeypatch) < 1e-5


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_models_compared_depend_on_their_first_token(family: str) -> None:
    """Else equal logits would say nothing of attention and caches."""
    model = random_model(family)
    tokens = torch.arange(ROWS)[None] % 120
    other = tokens.clone()
    other[0, 0] = 77
    with torch.no_grad():
        one, two = (model(ids, use_cache=False).logits[0, -1] for ids in (tokens, other))
    assert (one - two).norm() > 1e-3 * one.norm()


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_bf16_rounds_no_worse_than_transformers_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = random_model(family)
    model.save_pretrained(tmp_path)
    theirs = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    their_error = relative(expected_logits(theirs), expected_logits(model))
    assert error_of(model, engines_of(tmp_path, (), "bf16", "exact"), monkeypatch) < 1.25 * their_error
