"""A decoder's sizes, and from them the names and shapes of its tensors; no torch here.

A layer range that starts at 0 needs the embedding as well, and one that ends the model the last norm and the head; with
tied weights the head *is* the embedding, and both ends need it. All layers of a model have the same tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from inference.model.families import LLAMA, Design, LayerKind
from inference.model.precision import Precision, kv_head_bytes, precision_of
from protocols.errors import Malformed
from protocols.placement import LayerRange, LayerShape

EMBEDDING: Final = "model.embed_tokens.weight"
NORM: Final = "model.norm.weight"
HEAD: Final = "lm_head.weight"


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
    tied: bool
    eos_ids: tuple[int, ...]
    kinds: tuple[LayerKind, ...]
    kind_of_layer: tuple[int, ...]  # an index of `kinds` for every layer
    design: Design = LLAMA

    @property
    def whole(self) -> LayerRange:
        return LayerRange(0, self.layers)

    @property
    def head_name(self) -> str:
        return EMBEDDING if self.tied else HEAD

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.heads // self.kv_heads

    @property
    def score_scale(self) -> float:
        scalar = self.design.query_scalar
        return float((self.head_dim if scalar is None else scalar) ** -0.5)

    def check_range(self, layer_range: LayerRange) -> None:
        """Raises `Malformed` unless the range is one of this model's."""
        if not 0 <= layer_range.start < layer_range.end <= self.layers:
            raise Malformed(f"layers {layer_range} are not a range of a model of {self.layers} layers")

    def tensor_names(self, layer_range: LayerRange) -> tuple[str, ...]:
        """The tensors that a shard of this range reads, in the order of their use. Raises `Malformed`."""
        self.check_range(layer_range)
        names = [EMBEDDING] if layer_range.start == 0 else []
        for layer in range(layer_range.start, layer_range.end):
            names += (f"model.layers.{layer}.{part}" for part in _layer_parts(self))
        if layer_range.end == self.layers:
            names.append(NORM)
            if layer_range.start > 0 or not self.tied:
                names.append(self.head_name)
        return tuple(names)

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
        parts = _layer_parts(self)
        if part not in parts or not layer.isdecimal() or int(layer) >= self.layers:
            raise Malformed(f"a model of this configuration has no tensor {name}")
        return parts[part]

    def products(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of the products of a layer, each shape once; the router is none, which rows go through one by one."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        experts = self.design.experts
        ffn = experts.ffn if experts is not None else self.ffn
        return (
            (queries + 2 * keys, self.hidden),
            (self.hidden, queries),
            (2 * ffn, self.hidden),
            (self.hidden, ffn),
        )

    def layer_shape(self, dtype: str) -> LayerShape:
        """Of a mixture of experts the ffn is as wide as all that one row goes through."""
        experts = self.design.experts
        ffn = experts.chosen * experts.ffn if experts is not None else self.ffn
        return LayerShape(self.hidden, ffn, self.heads, self.kv_heads, self.head_dim, dtype)

    def range_bytes(self, layer_range: LayerRange, dtype: str) -> int:
        """What the weights of a range take in memory; a tied head counts beside the embedding, for it is packed apart."""
        self.check_range(layer_range)
        precision = precision_of(dtype)
        total = layer_range.layers * self.layer_bytes(dtype)
        if layer_range.start == 0:
            total += self.vocabulary * self.hidden * precision.row_bytes
        if layer_range.end == self.layers:
            total += precision.product_bytes(self.vocabulary, self.hidden) + self.hidden * precision.row_bytes
        return total

    def layer_bytes(self, dtype: str) -> int:
        """What the weights of one layer take in memory."""
        precision, router = precision_of(dtype), self.router_name
        return sum(
            _part_bytes(shape, precision) if name != router else math.prod(shape) * precision.row_bytes
            for name, shape in _layer_parts(self).items()
        )

    @property
    def router_name(self) -> str:
        """The tensor, within a layer, that chooses between experts; empty where there are none."""
        experts = self.design.experts
        return "" if experts is None else f"{experts.names.block}.gate.weight"

    def kv_bytes_per_row(self, layer_range: LayerRange, dtype: str, kv: str = "model") -> int:
        """Layers with a window keep all rows too: a session may be cut back to any of them."""
        return layer_range.layers * 2 * self.kv_heads * kv_head_bytes(self.head_dim, dtype, kv)


def _part_bytes(shape: tuple[int, ...], precision: Precision) -> int:
    """Of a tensor of a layer: a product, or a norm or bias, which are rows."""
    return precision.product_bytes(*shape) if len(shape) == 2 else shape[0] * precision.row_bytes


@lru_cache(maxsize=16)  # asked for every tensor, and with experts a layer has hundreds
def _layer_parts(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of a layer's tensors by their names within the layer, in the order of their use."""
    design, hidden = config.design, config.hidden
    parts: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (hidden,)}
    for name, shape in _attention_products(config).items():
        parts[f"{name}.weight"] = shape
        if name in design.biased:
            parts[f"{name}.bias"] = shape[:1]
    if design.has_head_norms:
        parts["self_attn.q_norm.weight"] = (config.head_dim,)
        parts["self_attn.k_norm.weight"] = (config.head_dim,)
    parts["post_attention_layernorm.weight"] = (hidden,)
    if design.has_after_norms:
        parts["pre_feedforward_layernorm.weight"] = (hidden,)
    for name, shape in _ffn_products(config).items():
        parts[f"{name}.weight"] = shape
        if name in design.biased:
            parts[f"{name}.bias"] = shape[:1]
    if design.has_after_norms:
        parts["post_feedforward_layernorm.weight"] = (hidden,)
    return parts


def _attention_products(config: ModelConfig) -> dict[str, tuple[int, int]]:
    hidden = config.hidden
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    output = {"self_attn.o_proj": (hidden, queries)}
    if config.design.is_fused:
        return {"self_attn.qkv_proj": (queries + 2 * keys, hidden), **output}
    return {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        **output,
    }


def _ffn_products(config: ModelConfig) -> dict[str, tuple[int, int]]:
    hidden, ffn, experts = config.hidden, config.ffn, config.design.experts
    if experts is not None:
        names = experts.names
        shapes = {
            names.gate: (experts.ffn, hidden),
            names.up: (experts.ffn, hidden),
            names.down: (hidden, experts.ffn),
        }
        each = {
            f"{names.block}.experts.{expert}.{part}": shape
            for expert in range(experts.count)
            for part, shape in shapes.items()
        }
        return {f"{names.block}.gate": (experts.count, hidden), **each}
    if config.design.is_fused:
        return {"mlp.gate_up_proj": (2 * ffn, hidden), "mlp.down_proj": (hidden, ffn)}
    return {"mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden), "mlp.down_proj": (hidden, ffn)}
