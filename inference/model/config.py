"""What a Hugging Face `config.json` says about a decoder, checked and bounded; no torch here.

Two families are known: Llama (`LlamaForCausalLM`) and Qwen3 (`Qwen3ForCausalLM`, which normalises every query and key
head). Whatever would change the arithmetic and is not built (biases, sliding windows, other rotary scalings) is refused
by name, because a model that runs wrongly is worse than one that does not run.

A layer range that starts at 0 needs the embedding as well, and one that ends the model the last norm and the head; with
tied weights the head *is* the embedding, and both ends need it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from protocols import limits
from protocols.errors import Malformed, UserError
from protocols.placement import LayerRange, LayerShape

FAMILIES: Final = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
ITEM_BYTES: Final = {"f32": 4, "bf16": 2}
EMBEDDING: Final = "model.embed_tokens.weight"
NORM: Final = "model.norm.weight"
HEAD: Final = "lm_head.weight"

_VOCABULARY_MAX: Final = 1 << 22
_CONTEXT_MAX: Final = 1 << 24
_FFN_MAX: Final = 1 << 18  # as LayerShape bounds it
_HEADS_MAX: Final = 1024
_HEAD_DIM_MAX: Final = 1024
_EOS_MAX: Final = 64  # as OpenStage bounds stop ids


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Rotary frequencies stretched by wavelength, as Llama 3.1 does it."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The sizes of a decoder and the shapes of its tensors."""

    family: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    context: int
    norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    tied: bool
    eos_ids: tuple[int, ...]

    @property
    def has_head_norms(self) -> bool:
        return self.family == "qwen3"

    @property
    def whole(self) -> LayerRange:
        return LayerRange(0, self.layers)

    def check_range(self, layer_range: LayerRange) -> None:
        """Raises `Malformed` unless the range is one of this model's."""
        if not 0 <= layer_range.start < layer_range.end <= self.layers:
            raise Malformed(f"layers {layer_range} are not a range of a model of {self.layers} layers")

    def tensor_names(self, layer_range: LayerRange) -> tuple[str, ...]:
        """The tensors that a shard of this range reads, in the order of their use. Raises `Malformed`."""
        self.check_range(layer_range)
        names = [EMBEDDING] if layer_range.start == 0 else []
        for layer in range(layer_range.start, layer_range.end):
            names += (f"model.layers.{layer}.{part}" for part in self._layer_parts())
        if layer_range.end == self.layers:
            names.append(NORM)
            if self.head_name not in names:
                names.append(self.head_name)
        return tuple(names)

    @property
    def head_name(self) -> str:
        return EMBEDDING if self.tied else HEAD

    def expected_shape(self, name: str) -> tuple[int, ...]:
        """The shape that the tensor must have. Raises `Malformed` for a name that is not of this model."""
        ends = {
            EMBEDDING: (self.vocabulary, self.hidden),
            HEAD: (self.vocabulary, self.hidden),
            NORM: (self.hidden,),
        }
        if name in ends:
            return ends[name]
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        parts = self._layer_parts()
        if part not in parts or not layer.isdecimal() or int(layer) >= self.layers:
            raise Malformed(f"a model of this configuration has no tensor {name}")
        return parts[part]

    def layer_shape(self, dtype: str) -> LayerShape:
        return LayerShape(self.hidden, self.ffn, self.heads, self.kv_heads, self.head_dim, dtype)

    def range_bytes(self, layer_range: LayerRange, dtype: str) -> int:
        """What the weights of a range take in memory; a tied head counts beside the embedding, for it is packed apart."""
        self.check_range(layer_range)
        items = layer_range.layers * sum(math.prod(shape) for shape in self._layer_parts().values())
        if layer_range.start == 0:
            items += self.vocabulary * self.hidden
        if layer_range.end == self.layers:
            items += self.vocabulary * self.hidden + self.hidden
        return items * ITEM_BYTES[dtype]

    def kv_bytes_per_row(self, layer_range: LayerRange, dtype: str) -> int:
        return layer_range.layers * 2 * self.kv_heads * self.head_dim * ITEM_BYTES[dtype]

    def _layer_parts(self) -> dict[str, tuple[int, ...]]:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        parts: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (self.hidden,),
            "self_attn.q_proj.weight": (queries, self.hidden),
            "self_attn.k_proj.weight": (keys, self.hidden),
            "self_attn.v_proj.weight": (keys, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, queries),
            "post_attention_layernorm.weight": (self.hidden,),
            "mlp.gate_proj.weight": (self.ffn, self.hidden),
            "mlp.up_proj.weight": (self.ffn, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.ffn),
        }
        if self.has_head_norms:
            parts["self_attn.q_norm.weight"] = (self.head_dim,)
            parts["self_attn.k_norm.weight"] = (self.head_dim,)
        return parts


class _Json(msgspec.Struct, frozen=True):
    """The fields of config.json that matter here, with the defaults of transformers; the rest is ignored."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    architectures: tuple[str, ...] | None = None
    model_type: str = ""
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    layer_types: tuple[str, ...] | None = None
    eos_token_id: int | tuple[int, ...] | None = None


class _Kind(msgspec.Struct, frozen=True):
    """Read first, so that another architecture is named instead of its missing fields."""

    architectures: tuple[str, ...] | None = None
    model_type: str = ""


def parse_config(data: bytes) -> ModelConfig:
    """The configuration in the bytes of a `config.json`. Raises `UserError` for what weft cannot run, naming it."""
    try:
        family = _family(msgspec.json.decode(data, type=_Kind))
        raw = msgspec.json.decode(data, type=_Json)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UserError(f"config.json cannot be read ({error}): download the model again") from error
    _refuse_variants(raw)
    heads = raw.num_attention_heads
    default_head_dim = 128 if family == "qwen3" else raw.hidden_size // max(1, heads)
    config = ModelConfig(
        family=family,
        vocabulary=raw.vocab_size,
        hidden=raw.hidden_size,
        layers=raw.num_hidden_layers,
        heads=heads,
        kv_heads=heads if raw.num_key_value_heads is None else raw.num_key_value_heads,
        head_dim=default_head_dim if raw.head_dim is None else raw.head_dim,
        ffn=raw.intermediate_size,
        context=raw.max_position_embeddings,
        norm_eps=raw.rms_norm_eps,
        rope_theta=_rope_theta(raw),
        rope_scaling=_rope_scaling(raw),
        tied=raw.tie_word_embeddings,
        eos_ids=_eos_ids(raw),
    )
    _check_bounds(config)
    return config


def _family(kind: _Kind) -> str:
    if kind.architectures:
        known = [family for family, name in FAMILIES.items() if name in kind.architectures]
        named = ", ".join(kind.architectures)
    else:
        known = [kind.model_type] if kind.model_type in FAMILIES else []
        named = kind.model_type or "no architecture"
    if not known:
        supported = " and ".join(FAMILIES.values())
        raise UserError(f"config.json names {named}, and weft runs {supported}: choose a model of these")
    return known[0]


def _refuse_variants(raw: _Json) -> None:
    refused = {
        "attention_bias": raw.attention_bias,
        "mlp_bias": raw.mlp_bias,
        "use_sliding_window": raw.use_sliding_window,
        "layer_types other than full_attention": bool(set(raw.layer_types or ()) - {"full_attention"}),
        f"hidden_act {raw.hidden_act}": raw.hidden_act != "silu",
    }
    for variant, present in refused.items():
        if present:
            raise UserError(f"config.json asks for {variant}, which weft does not run: choose another model")


def _rope(raw: _Json) -> dict[str, Any]:
    """Older files have `rope_theta` and `rope_scaling`, newer ones put both into `rope_parameters`."""
    return raw.rope_parameters or raw.rope_scaling or {}


def _rope_theta(raw: _Json) -> float:
    theta = _rope(raw).get("rope_theta", raw.rope_theta)
    return _number("rope_theta", 10_000.0 if theta is None else theta)


def _rope_scaling(raw: _Json) -> Llama3Scaling | None:
    rope = _rope(raw)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise UserError(f"config.json asks for rope scaling {kind!r}, and weft runs default and llama3")
    scaling = Llama3Scaling(
        _number("factor", rope.get("factor")),
        _number("low_freq_factor", rope.get("low_freq_factor")),
        _number("high_freq_factor", rope.get("high_freq_factor")),
        int(_number("original_max_position_embeddings", rope.get("original_max_position_embeddings"))),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        raise UserError("config.json has a rope scaling that contradicts itself: download the model again")
    return scaling


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise UserError(f"config.json has {name} {value!r}, not a positive number: download the model again")
    return float(value)


def _eos_ids(raw: _Json) -> tuple[int, ...]:
    if raw.eos_token_id is None:
        return ()
    return raw.eos_token_id if isinstance(raw.eos_token_id, tuple) else (raw.eos_token_id,)


def _check_bounds(config: ModelConfig) -> None:
    bounds = {
        "vocab_size": (config.vocabulary, _VOCABULARY_MAX),
        "hidden_size": (config.hidden, limits.WIDTH_MAX),
        "num_hidden_layers": (config.layers, limits.STAGES_MAX),
        "num_attention_heads": (config.heads, _HEADS_MAX),
        "num_key_value_heads": (config.kv_heads, _HEADS_MAX),
        "head_dim": (config.head_dim, _HEAD_DIM_MAX),
        "intermediate_size": (config.ffn, _FFN_MAX),
        "max_position_embeddings": (config.context, _CONTEXT_MAX),
    }
    for name, (value, most) in bounds.items():
        if not 1 <= value <= most:
            raise UserError(
                f"config.json has {name} {value}, and weft runs 1 to {most}: choose another model"
            )
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise UserError(
            f"config.json has {config.heads} heads of {config.head_dim} over {config.kv_heads} key heads,"
            " which do not divide: download the model again"
        )
    if not 0 < config.norm_eps < 1:
        raise UserError(f"config.json has rms_norm_eps {config.norm_eps}: download the model again")
    if len(config.eos_ids) > _EOS_MAX or any(not 0 <= eos < config.vocabulary for eos in config.eos_ids):
        raise UserError("config.json has an eos_token_id outside the vocabulary: download the model again")
