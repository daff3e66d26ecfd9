"""A shard computes what transformers computes: in fp32 to 1e-5, in bf16 with no more error than transformers has there.

For every family, for what its models choose among (windows, biases, rotary scalings), and for every way a folder is saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from inference.engine.engine import ShardEngine
from inference.engine.memory.kv_cache import KvBudget
from inference.engine.reference import tensor_files
from inference.model.config_json import parse_config
from inference.model.families import FAMILIES
from protocols.placement import LayerRange
from tests.inference.engine.checkpoints import KEY, MIB, run_chain, spec

PROMPT_ROWS, ROWS = 140, 150
SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 72,
    "intermediate_size": 176,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 0,
}
# Windows shorter than the prompt, than a block of it, and than what is decoded.
GEMMA = {"query_pre_attn_scalar": 31, "sliding_window": 37}
EXPERTS = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 56, "norm_topk_prob": True}
FAMILY_SIZES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 37},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {**GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0},
    "gemma3_text": {**GEMMA, "sliding_window_pattern": 3},
    "phi3": {"sliding_window": 130},
    "qwen3_moe": EXPERTS,
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 50},
}

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + 0.1 * pair for pair in range(6)],
    "long_factor": [2.0 + pair for pair in range(6)],
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
LATE = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 3}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("llama", {"rope_parameters": LINEAR}),
    ("llama", {"rope_parameters": {**LINEAR, "rope_type": "dynamic"}}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_pytorch_tanh"}),
    ("llama", {"hidden_size": 42, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10}),
    ("mistral", {"sliding_window": None, "tie_word_embeddings": True}),
    ("qwen2", {**LATE, "rope_parameters": YARN}),
    ("qwen3", {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    (
        "qwen3",
        {**LATE, "attention_bias": True, "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.4}},
    ),
    (
        "gemma2",
        {
            "attention_bias": True,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "query_pre_attn_scalar": 400,
        },
    ),
    (
        "gemma3_text",
        {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default"}}},
    ),
    ("gemma3_text", {"final_logit_softcapping": 3.0, "tie_word_embeddings": False}),
    ("phi3", {"rope_parameters": LONG, "head_dim": 12, "original_max_position_embeddings": 64}),
    ("phi3", {"rope_parameters": LONG, "head_dim": 12, "original_max_position_embeddings": 200}),
    (
        "phi3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}},
    ),
    ("qwen3_moe", {"norm_topk_prob": False, "use_sliding_window": True, "sliding_window": 30}),
    ("mixtral", {"sliding_window": None, "intermediate_size": 33}),
]
KINDS: list[tuple[str, dict[str, Any]]] = [*((family.model_type, {}) for family in FAMILIES), *VARIANTS]


def random_model(family: str, **changes: Any) -> PreTrainedModel:
    (architecture,) = (each.architecture for each in FAMILIES if each.model_type == family)
    torch.manual_seed(11)
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILY_SIZES[family], **changes})
    config._attn_implementation = config._experts_implementation = "eager"
    model: PreTrainedModel = getattr(transformers, architecture)(config)
    # Fresh norms and biases are all alike: taking one for another, or none, would go unnoticed.
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif "bias" in name:
            nn.init.normal_(parameter, std=0.5)
        elif "embed" in name and family.startswith("gemma"):
            nn.init.normal_(
                parameter, std=0.5 * SIZES["hidden_size"] ** -0.5
            )  # it is multiplied by the root of that
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


def logits_of(engines: list[ShardEngine], tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """After the prompt in chunks, and after each further token: [1 + ROWS - PROMPT_ROWS, vocabulary]."""
    seen: list[Tensor] = []
    last = engines[-1].head
    compute = last.logits

    def kept(rows: Tensor) -> Tensor:
        seen.append(compute(rows))
        return seen[-1]

    monkeypatch.setattr(last, "logits", kept)
    run_chain(engines, 0, tokens[:128], sample=False)
    run_chain(engines, 128, tokens[128:PROMPT_ROWS])
    for position in range(PROMPT_ROWS, ROWS):
        run_chain(engines, position, [tokens[position]])
    return torch.cat(seen)


TOKENS = torch.randint(0, 120, (ROWS,), generator=torch.Generator().manual_seed(5))


def expected_logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(TOKENS[None], use_cache=False).logits[0, PROMPT_ROWS - 1 :]
    return logits.float()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def error_of(model: PreTrainedModel, engines: list[ShardEngine], monkeypatch: pytest.MonkeyPatch) -> float:
    """Of the logits; and that the likeliest tokens are the same."""
    found, expected = logits_of(engines, TOKENS.tolist(), monkeypatch), expected_logits(model)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    return relative(found, expected)


@pytest.mark.parametrize(("family", "changes"), KINDS)
def test_logits_equal_those_of_transformers_in_f32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, changes: dict[str, Any]
) -> None:
    model = random_model(family, **changes)
    model.save_pretrained(tmp_path)
    for numerics in ("exact", "fast"):
        assert error_of(model, engines_of(tmp_path, (), "f32", numerics), monkeypatch) < 1e-5


@pytest.mark.parametrize("family", [family.model_type for family in FAMILIES])
def test_chains_of_shards_from_a_folder_of_many_files_equal_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = random_model(family)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    for cuts in ((2,), (1, 2, 3, 4)):
        assert error_of(model, engines_of(tmp_path, cuts, "f32", "exact"), monkeypatch) < 1e-5


@pytest.mark.parametrize("family", [family.model_type for family in FAMILIES])
def test_the_models_compared_depend_on_their_first_token(family: str) -> None:
    """Else equal logits would say nothing of attention and caches."""
    # Through windows it reaches the last row in several layers only.
    model = random_model(family, sliding_window=60)
    other = TOKENS.clone()
    other[0] = 77
    with torch.no_grad():
        one, two = (model(ids[None], use_cache=False).logits[0, -1] for ids in (TOKENS, other))
    assert (one - two).norm() > 1e-4 * one.norm()


BIASED = ("llama", {"attention_bias": True, "mlp_bias": True})


@pytest.mark.parametrize(("family", "changes"), [*((family.model_type, {}) for family in FAMILIES), BIASED])
def test_bf16_rounds_no_worse_than_transformers_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, changes: dict[str, Any]
) -> None:
    model = random_model(family, **changes)
    model.save_pretrained(tmp_path)
    theirs = (
        type(model)
        .from_pretrained(
            tmp_path, dtype=torch.bfloat16, attn_implementation="eager", experts_implementation="eager"
        )
        .eval()
    )
    expected = expected_logits(model)
    found = logits_of(engines_of(tmp_path, (), "bf16", "exact"), TOKENS.tolist(), monkeypatch)
    assert relative(found, expected) < 1.25 * relative(expected_logits(theirs), expected)
