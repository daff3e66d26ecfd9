"""The model that simulated meshes serve: real files, of the width that the virtual worker computes with."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from inference.model.config import parse_config
from protocols.placement import LayerRange
from simulations.machine.worker import VOCABULARY, WIDTH

NAME: Final = "model"
CONTEXT: Final = 8192


def write_model(folder: Path, layers: int) -> Path:
    """A Hugging Face folder whose weights are zeros that nobody reads; a token is a byte of the prompt."""
    folder.mkdir(parents=True)
    config = json.dumps(_config(layers))
    (folder / "config.json").write_text(config)
    parsed = parse_config(config.encode())
    names = parsed.tensor_names(LayerRange(0, layers))
    save_file(
        {name: np.zeros(parsed.expected_shape(name), np.float32) for name in names},
        folder / "model.safetensors",
    )
    _tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def encode(prompt: str) -> tuple[int, ...]:
    """The tokens of a prompt, as every node of the mesh has them."""
    return tuple(_tokenizer().encode(prompt).ids)


@cache
def _tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _config(layers: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 8,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "eos_token_id": None,
    }
