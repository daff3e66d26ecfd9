"""Reads a Hugging Face `config.json` into a `ModelConfig`: checked, bounded, and refused by name where weft would run it
wrongly, because that is worse than not running it. What a file leaves out is as transformers takes it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import msgspec

from inference.model.config import ModelConfig
from inference.model.config_fields import ConfigFields, number
from inference.model.families import (
    ATTENTION,
    FAMILIES,
    FFN,
    Activation,
    Design,
    Experts,
    Family,
    LayerKind,
    Windows,
)
from inference.model.rope_json import read_rope
from protocols import limits
from protocols.errors import UserError

_VOCABULARY_MAX: Final = 1 << 22
_CONTEXT_MAX: Final = 1 << 24
_FFN_MAX: Final = 1 << 18  # as LayerShape bounds it
_HEADS_MAX: Final = 1024
_HEAD_DIM_MAX: Final = 1024
_EXPERTS_MAX: Final = 1024
_EOS_MAX: Final = 64  # as OpenStage bounds stop ids


class _Kind(msgspec.Struct, frozen=True):
    """Read first, so that another architecture is named instead of its missing fields."""

    architectures: tuple[str, ...] | None = None
    model_type: str = ""


def parse_config(data: bytes) -> ModelConfig:
    """The configuration in the bytes of a `config.json`. Raises `UserError` for what weft cannot run, naming it."""
    try:
        family = _family(msgspec.json.decode(data, type=_Kind))
        stated = msgspec.json.decode(data, type=dict[str, Any])
        raw = msgspec.convert({**family.defaults, **stated}, ConfigFields)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UserError(f"config.json cannot be read ({error}): download the model again") from error
    _refuse_variants(raw, family)
    heads = raw.num_attention_heads
    head_dim = raw.hidden_size // max(1, heads) if raw.head_dim is None else raw.head_dim
    _check_bounds(raw, heads if raw.num_key_value_heads is None else raw.num_key_value_heads, head_dim)
    kinds, kind_of_layer = _kinds(raw, family, head_dim)
    return ModelConfig(
        family=family.model_type,
        vocabulary=raw.vocab_size,
        hidden=raw.hidden_size,
        layers=raw.num_hidden_layers,
        heads=heads,
        kv_heads=heads if raw.num_key_value_heads is None else raw.num_key_value_heads,
        head_dim=head_dim,
        ffn=raw.intermediate_size,
        context=raw.max_position_embeddings,
        norm_eps=raw.rms_norm_eps,
        tied=raw.tie_word_embeddings,
        eos_ids=_eos_ids(raw),
        kinds=kinds,
        kind_of_layer=kind_of_layer,
        design=_design(raw, family),
    )


def _family(kind: _Kind) -> Family:
    if kind.architectures:
        known = [family for family in FAMILIES if family.architecture in kind.architectures]
        named = ", ".join(kind.architectures)
    else:
        known = [family for family in FAMILIES if family.model_type == kind.model_type]
        named = kind.model_type or "no architecture"
    if not known:
        supported = ", ".join(family.architecture for family in FAMILIES)
        raise UserError(f"config.json names {named}, and weft runs {supported}: choose a model of these")
    return known[0]


def _activation_name(raw: ConfigFields) -> str:
    return raw.hidden_act if raw.hidden_activation is None else raw.hidden_activation


def _refuse_variants(raw: ConfigFields, family: Family) -> None:
    activations = {activation.value for activation in Activation}
    takes_cap = family.model_type == "gemma2"
    refused = {
        "attention_bias": raw.attention_bias and "attention_bias" not in family.may_bias,
        "mlp_bias": raw.mlp_bias and "mlp_bias" not in family.may_bias,
        "use_sliding_window": raw.use_sliding_window and not family.asks_for_windows,
        "use_bidirectional_attention": bool(raw.use_bidirectional_attention),
        "attn_logit_softcapping": raw.attn_logit_softcapping is not None and not takes_cap,
        f"hidden_act {_activation_name(raw)}": _activation_name(raw) not in activations,
        "decoder_sparse_step other than 1": raw.decoder_sparse_step != 1,
        "mlp_only_layers": bool(raw.mlp_only_layers),
        "quantization_config": raw.quantization_config is not None,
    }
    for variant, present in refused.items():
        if present:
            raise UserError(f"config.json asks for {variant}, which weft does not run: choose another model")


# What differs within a family --------------------------------------------------------------------------------------------


def _design(raw: ConfigFields, family: Family) -> Design:
    biased = family.design.biased
    if raw.attention_bias:
        biased |= ATTENTION
    if raw.mlp_bias:
        biased |= FFN
    return replace(
        family.design,
        activation=Activation(_activation_name(raw)),
        biased=biased,
        query_scalar=_optional("query_pre_attn_scalar", raw.query_pre_attn_scalar),
        score_cap=_optional("attn_logit_softcapping", raw.attn_logit_softcapping) or 0.0,
        logit_cap=_optional("final_logit_softcapping", raw.final_logit_softcapping) or 0.0,
        experts=_experts(raw, family),
    )


def _experts(raw: ConfigFields, family: Family) -> Experts | None:
    if family.expert_names is None:
        return None
    # Newer files say `num_local_experts`; the default stands under `num_experts`.
    count = raw.num_experts if raw.num_local_experts is None else raw.num_local_experts
    ffn = raw.intermediate_size if raw.moe_intermediate_size is None else raw.moe_intermediate_size
    chosen = raw.num_experts_per_tok
    if count is None or not 1 <= chosen <= count <= _EXPERTS_MAX or not 1 <= ffn <= _FFN_MAX // chosen:
        raise UserError(
            f"config.json has {count} experts of {ffn}, {chosen} of them for each token, and weft runs up to"
            f" {_EXPERTS_MAX} experts: choose another model"
        )
    return Experts(count, chosen, ffn, raw.norm_topk_prob, family.expert_names)


def _kinds(raw: ConfigFields, family: Family, head_dim: int) -> tuple[tuple[LayerKind, ...], tuple[int, ...]]:
    """The kinds of layers in the order of their first one, and which of them each layer is."""
    found: dict[LayerKind, int] = {}
    ropes = {
        is_local: read_rope(raw, head_dim, is_local=is_local and family.has_local_rope)
        for is_local in (False, True)
    }
    stated = raw.layer_types
    if stated is not None and len(stated) != raw.num_hidden_layers:
        raise UserError(
            f"config.json has {len(stated)} layer_types for {raw.num_hidden_layers} layers: download the model again"
        )
    slides = [_slides(raw, family, layer) for layer in range(raw.num_hidden_layers)]
    window = raw.sliding_window if raw.use_sliding_window or not family.asks_for_windows else None
    if any(slides) and (window is None or window < 1):
        raise UserError(f"config.json has layers with a sliding_window of {window}: download the model again")
    indices = []
    for sliding in slides:
        # A window as long as the context hides nothing.
        width = window if sliding and window is not None and window < raw.max_position_embeddings else 0
        indices.append(found.setdefault(LayerKind(ropes[sliding], width), len(found)))
    return tuple(found), tuple(indices)


def _slides(raw: ConfigFields, family: Family, layer: int) -> bool:
    has_window = raw.sliding_window is not None
    is_asked = has_window and raw.use_sliding_window
    by_rule = {
        Windows.NONE: False,
        Windows.ALL: has_window,
        Windows.ASKED: is_asked,
        Windows.LATE: is_asked and layer >= raw.max_window_layers,
        Windows.PATTERN: (layer + 1) % max(1, raw.sliding_window_pattern) != 0,
    }[family.windows]
    if raw.layer_types is None:
        return by_rule
    kind = raw.layer_types[layer]
    known = {"full_attention": False, "sliding_attention": True}
    follows = family.windows in (Windows.LATE, Windows.PATTERN)
    if kind not in known or not (follows or known[kind] == by_rule):
        raise UserError(
            f"config.json has layer_types with {kind} for layer {layer}, which weft does not run: choose another model"
        )
    return known[kind]


# Checks ------------------------------------------------------------------------------------------------------------------


def _optional(name: str, value: float | None) -> float | None:
    return None if value is None else number(name, value)


def _eos_ids(raw: ConfigFields) -> tuple[int, ...]:
    if raw.eos_token_id is None:
        return ()
    return raw.eos_token_id if isinstance(raw.eos_token_id, tuple) else (raw.eos_token_id,)


def _check_bounds(raw: ConfigFields, kv_heads: int, head_dim: int) -> None:
    bounds = {
        "vocab_size": (raw.vocab_size, _VOCABULARY_MAX),
        "hidden_size": (raw.hidden_size, limits.WIDTH_MAX),
        "num_hidden_layers": (raw.num_hidden_layers, limits.STAGES_MAX),
        "num_attention_heads": (raw.num_attention_heads, _HEADS_MAX),
        "num_key_value_heads": (kv_heads, _HEADS_MAX),
        "head_dim": (head_dim, _HEAD_DIM_MAX),
        "intermediate_size": (raw.intermediate_size, _FFN_MAX),
        "max_position_embeddings": (raw.max_position_embeddings, _CONTEXT_MAX),
    }
    for name, (value, most) in bounds.items():
        if not 1 <= value <= most:
            raise UserError(
                f"config.json has {name} {value}, and weft runs 1 to {most}: choose another model"
            )
    if raw.num_attention_heads % kv_heads or head_dim % 2:
        raise UserError(
            f"config.json has {raw.num_attention_heads} heads of {head_dim} over {kv_heads} key heads,"
            " which do not divide: download the model again"
        )
    if not 0 < raw.rms_norm_eps < 1:
        raise UserError(f"config.json has rms_norm_eps {raw.rms_norm_eps}: download the model again")
    eos_ids = _eos_ids(raw)
    if len(eos_ids) > _EOS_MAX or any(not 0 <= eos < raw.vocab_size for eos in eos_ids):
        raise UserError("config.json has an eos_token_id outside the vocabulary: download the model again")
