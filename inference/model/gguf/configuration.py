"""The `config.json` of a GGUF file's model.

What a Gemma divides its scores by is not in its file: llama.cpp goes by the number of layers, and so does this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from inference.model.gguf.architectures import INPUT, OUTPUT, Architecture
from inference.model.gguf.file import GgufFile
from inference.model.gguf.rope_settings import rope_settings
from protocols.errors import Malformed, UserError

_WIDE_GEMMAS: Final = {
    "gemma2": 46,
    "gemma3": 62,
}  # the 27 B models, by their layers: hidden / heads, not head_dim
_WINDOW_PATTERN: Final = {"gemma2": 2, "gemma3": 6}
_GEMMA3_LOCAL_BASE: Final = 10_000.0

Settings = dict[str, Any]


def config_of(file: GgufFile, architecture: Architecture) -> Settings:
    """All but the tokens that end a text. Raises `Malformed` and `UserError`."""
    sizes = _sizes(file, architecture)
    head_dim = sizes["head_dim"]
    config: Settings = {
        "architectures": [architecture.hugging_face],
        "model_type": architecture.model_type,
        "torch_dtype": "bfloat16",
        **sizes,
        "rms_norm_eps": file.metadata.need(f"{architecture.name}.attention.layer_norm_rms_epsilon", float),
        "tie_word_embeddings": OUTPUT not in file.tensors,
        **rope_settings(file, architecture.name, head_dim),
    }
    if "blk.0.attn_output.bias" in file.tensors:
        config["attention_bias"] = True
    if "blk.0.ffn_gate.bias" in file.tensors:
        config["mlp_bias"] = True
    own = _OWN.get(architecture.model_type)
    return config if own is None else config | own(file, architecture, config)


def _sizes(file: GgufFile, architecture: Architecture) -> Settings:
    metadata, name = file.metadata, architecture.name
    embedding = file.tensors.get(INPUT)
    if embedding is None:
        raise Malformed(f"it has no tensor {INPUT}")
    hidden, heads = (
        metadata.need(f"{name}.{key}", int) for key in ("embedding_length", "attention.head_count")
    )
    if not 1 <= heads <= hidden:
        raise Malformed(f"it has {heads} heads in {hidden} dimensions")
    head_dim = metadata.find(f"{name}.attention.key_length", int) or hidden // heads
    values = metadata.find(f"{name}.attention.value_length", int)
    if values is not None and values != head_dim:
        raise UserError(
            f"{file.path} has keys of {head_dim} and values of {values}, which weft does not run: choose another model"
        )
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": metadata.need(f"{name}.feed_forward_length", int),
        "num_hidden_layers": metadata.need(f"{name}.block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.find(f"{name}.attention.head_count_kv", int) or heads,
        "head_dim": head_dim,
        "max_position_embeddings": metadata.need(f"{name}.context_length", int),
    }


def _phi3(file: GgufFile, architecture: Architecture, config: Settings) -> Settings:
    # A window of 0 is how files of Phi-4 say that they have none.
    return {"sliding_window": file.metadata.find("phi3.attention.sliding_window", int) or None}


def _gemma(file: GgufFile, architecture: Architecture, config: Settings) -> Settings:
    metadata, name = file.metadata, architecture.name
    is_wide = config["num_hidden_layers"] == _WIDE_GEMMAS[name]
    scalar = config["hidden_size"] // config["num_attention_heads"] if is_wide else config["head_dim"]
    pattern = metadata.find(f"{name}.attention.sliding_window_pattern", int) or _WINDOW_PATTERN[name]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "sliding_window": metadata.need(f"{name}.attention.sliding_window", int),
        "sliding_window_pattern": pattern,
        "layer_types": list(_kinds(config["num_hidden_layers"], pattern)),
        "attn_logit_softcapping": metadata.find(f"{name}.attn_logit_softcapping", float),
        "final_logit_softcapping": metadata.find(f"{name}.final_logit_softcapping", float),
    }


def _gemma2(file: GgufFile, architecture: Architecture, config: Settings) -> Settings:
    own = _gemma(file, architecture, config)
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    return own | {name: cap for name, cap in caps.items() if own[name] is None}


def _gemma3(file: GgufFile, architecture: Architecture, config: Settings) -> Settings:
    local = file.metadata.find("gemma3.rope.freq_base_swa", float) or _GEMMA3_LOCAL_BASE
    return {**_gemma(file, architecture, config), "rope_local_base_freq": local}


def _kinds(layers: int, pattern: int) -> Iterable[str]:
    for layer in range(min(layers, 4096)):
        is_full = (layer + 1) % max(1, pattern) == 0
        yield "full_attention" if is_full else "sliding_attention"


def _experts(file: GgufFile, architecture: Architecture, config: Settings) -> Settings:
    metadata, name = file.metadata, architecture.name
    count = metadata.need(f"{name}.expert_count", int)
    return {
        "num_experts": count,
        "num_local_experts": count,
        "num_experts_per_tok": metadata.need(f"{name}.expert_used_count", int),
        "moe_intermediate_size": metadata.find(f"{name}.expert_feed_forward_length", int)
        or config["intermediate_size"],
        "norm_topk_prob": True,
    }


_OWN: Final[dict[str, Callable[[GgufFile, Architecture, Settings], Settings]]] = {
    "phi3": _phi3,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "mixtral": _experts,
    "qwen3_moe": _experts,
}
