"""The fields of a Hugging Face `config.json` that weft reads, as they stand there."""

from __future__ import annotations

from typing import Any

import msgspec

from protocols.errors import UserError


class ConfigFields(msgspec.Struct, frozen=True):
    """Families put their own defaults below what a file states; what no family states has the default here."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    hidden_activation: str | None = None
    max_position_embeddings: int = 2048
    original_max_position_embeddings: int | None = None
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_local_base_freq: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: float | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = None
    sliding_window_pattern: int = 1
    max_window_layers: int = 28
    layer_types: tuple[str, ...] | None = None
    use_bidirectional_attention: bool | None = None
    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    num_experts: int | None = None
    num_local_experts: int | None = None
    num_experts_per_tok: int = 1
    moe_intermediate_size: int | None = None
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] | None = None
    quantization_config: dict[str, Any] | None = None
    eos_token_id: int | tuple[int, ...] | None = None


def number(name: str, value: object) -> float:
    """The value of a setting that has to be a positive number. Raises `UserError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise UserError(f"config.json has {name} {value!r}, not a positive number: download the model again")
    return float(value)
