"""Small random model folders, without transformers, and the frames to run them with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from inference.engine.device import HOST, Device
from inference.engine.engine import WIRE_DTYPES, WIRE_NUMERICS, CacheKey, ShardEngine
from inference.engine.memory.kv_cache import KvBudget
from inference.model.config import ModelConfig
from inference.model.config_json import parse_config
from inference.model.families import FAMILIES
from protocols.ids import SessionId
from protocols.placement import LayerRange
from protocols.seams import CacheSpec, TensorFile
from protocols.session import Sampling
from protocols.tensor import Frame, Header, Kind

SESSION = SessionId("5e" * 16)
KEY = (SESSION, 0)
MIB = 1 << 20


# What a family's own config.json has to say beside the sizes, small enough to matter within the tests' few rows.
FAMILY_CHANGES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 50},
    "qwen2": {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1},
    "qwen3": {},
    "gemma2": {"sliding_window": 40, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0},
    "gemma3_text": {
        "rope_theta": 1e6,
        "sliding_window": 40,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 24,
    },
    "phi3": {"sliding_window": 50, "partial_rotary_factor": 0.42},
    "qwen3_moe": {
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "norm_topk_prob": True,
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
}


def config_json(family: str = "llama", **changes: Any) -> dict[str, Any]:
    (architecture,) = (each.architecture for each in FAMILIES if each.model_type == family)
    return {
        "architectures": [architecture],
        "model_type": family,
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "eos_token_id": 0,
        **FAMILY_CHANGES[family],
        **changes,
    }


def parsed(family: str = "llama", **changes: Any) -> ModelConfig:
    return parse_config(json.dumps(config_json(family, **changes)).encode())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    config: ModelConfig
    folder: Path
    tensors: tuple[TensorFile, ...] = field(repr=False)

    def engine(
        self,
        layer_range: LayerRange | None = None,
        dtype: str = "bf16",
        numerics: str = "exact",
        budget: KvBudget | None = None,
        device: Device = HOST,
        kv: str = "model",
    ) -> ShardEngine:
        chosen = self.config.whole if layer_range is None else layer_range
        budget = budget or KvBudget(64 * MIB, kv=kv)
        return ShardEngine(self.config, chosen, dtype, numerics, self.tensors, budget, device=device)


def save_checkpoint(folder: Path, family: str = "llama", seed: int = 0, **changes: Any) -> Checkpoint:
    """Weights wide enough that rows differ clearly; one file."""
    folder.mkdir(parents=True, exist_ok=True)
    config = parsed(family, **changes)
    (folder / "config.json").write_text(json.dumps(config_json(family, **changes)))
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: _drawn(config.expected_shape(name), config, generator)
        for name in config.tensor_names(config.whole)
    }
    path = folder / "model.safetensors"
    save_file(weights, path)
    return Checkpoint(config, folder, tuple(TensorFile(name, str(path), name) for name in weights))


def _drawn(shape: tuple[int, ...], config: ModelConfig, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randn(shape, generator=generator)
    return drawn * 1.5 * config.hidden**-0.5 if len(shape) > 1 else 1 + 0.3 * drawn


def spec(prompt_rows: int, rows_max: int, sampling: Sampling | None = None) -> CacheSpec:
    return CacheSpec(prompt_rows, rows_max, sampling or Sampling())


def frame(
    engine: ShardEngine,
    position: int,
    tokens: Sequence[int],
    body: bytes | bytearray | memoryview = b"",
    /,
    *,
    sample: bool = True,
    **changes: Any,
) -> Frame:
    """Rows for `engine` as the stage before it would send them; token ids alone where it starts the model."""
    values: dict[str, Any] = {
        "kind": Kind.PREFILL,
        "session": SESSION,
        "epoch": 0,
        "stage": 0,
        "position": position,
        "rows": len(tokens),
        "width": 0 if engine.starts_model else engine.config.hidden,
        "truncate_to": position,
        "numerics": WIRE_NUMERICS[engine.numerics],
        "dtype": WIRE_DTYPES[engine.dtype],
        "sample": sample,
        **changes,
    }
    return Frame(Header(**values), tuple(tokens), body)


def run_chain(
    engines: Sequence[ShardEngine], position: int, tokens: Sequence[int], *, sample: bool = True
) -> int | None:
    """One frame through all shards; what the last one drew."""
    body: bytes | memoryview = b""
    token = None
    for engine in engines:
        body, token = engine.step(KEY, frame(engine, position, tokens, body, sample=sample))
    return token


def kv_rows(engine: ShardEngine, rows: int, key: CacheKey = KEY) -> list[torch.Tensor]:
    """Keys and values of every layer, as they lie in the cache."""
    return [rows_of for layer in engine._opened[key].kv.copied(0, rows) for rows_of in layer]
