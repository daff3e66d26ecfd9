"""The layers of a range out of its tensors, with every product as the arithmetic of the shard wants it."""

from __future__ import annotations

from inference.engine.linear import make_linear
from inference.engine.selftest import Arithmetic
from inference.model.blocks import DecoderLayer, LayerParts, Linear
from inference.model.config import ModelConfig
from inference.model.weights import RangeReader


def read_layer(config: ModelConfig, reader: RangeReader, index: int, arithmetic: Arithmetic) -> DecoderLayer:
    """Layer `index` of the model. Raises `UserError` for tensors that are not what the configuration says."""

    def name(part: str) -> str:
        return f"model.layers.{index}.{part}.weight"

    def linear(*parts: str) -> Linear:
        return read_linear(reader, arithmetic, *map(name, parts))

    normed = config.has_head_norms
    parts = LayerParts(
        input_norm=reader.read(name("input_layernorm")),
        qkv=linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output=linear("self_attn.o_proj"),
        ffn_norm=reader.read(name("post_attention_layernorm")),
        gate_up=linear("mlp.gate_proj", "mlp.up_proj"),
        down=linear("mlp.down_proj"),
        query_norm=reader.read(name("self_attn.q_norm")) if normed else None,
        key_norm=reader.read(name("self_attn.k_norm")) if normed else None,
    )
    return DecoderLayer(config, parts)


def read_linear(reader: RangeReader, arithmetic: Arithmetic, *names: str) -> Linear:
    """One product of the tensors, one below the other."""
    weight = reader.read(names[0]) if len(names) == 1 else reader.read_joined(*names)
    return make_linear(weight, arithmetic.kernel, arithmetic.rows.lone)
