"""The weights of a range out of its tensors, with every product as the arithmetic of the shard wants it."""

from __future__ import annotations

from torch import Tensor

from inference.engine.experts import ExpertFfn, make_router
from inference.engine.kernels.linear import make_linear
from inference.engine.numerics.selftest import Arithmetic
from inference.engine.shard_reader import ShardReader
from inference.model.blocks import DecoderLayer, DenseFfn, Ffn, LayerParts, Linear, soft_capped
from inference.model.config import EMBEDDING, ModelConfig
from inference.model.families import Experts


def read_layer(
    config: ModelConfig,
    reader: ShardReader,
    index: int,
    arithmetic: Arithmetic,
    summed: Linear | None = None,
) -> DecoderLayer:
    """Layer `index` of the model. Raises `UserError` for tensors that are not what the configuration says.

    `summed` makes a whole of what attention and the ffn come to, where the reader gives a slice of the weights.
    """
    source = _Source(config, reader, arithmetic, f"model.layers.{index}.", summed)
    design = config.design
    # What Llama calls the norm after attention comes before the ffn; Gemma has one of each.
    ffn_norm = "pre_feedforward_layernorm" if design.has_after_norms else "post_attention_layernorm"
    after = design.has_after_norms
    parts = LayerParts(
        input_norm=source.norm("input_layernorm"),
        qkv=source.linear("self_attn.qkv_proj")
        if design.is_fused
        else source.linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output=source.summing("self_attn.o_proj"),
        ffn_norm=source.norm(ffn_norm),
        ffn=source.ffn(),
        query_norm=source.norm("self_attn.q_norm") if design.has_head_norms else None,
        key_norm=source.norm("self_attn.k_norm") if design.has_head_norms else None,
        after_attention_norm=source.norm("post_attention_layernorm") if after else None,
        after_ffn_norm=source.norm("post_feedforward_layernorm") if after else None,
    )
    return DecoderLayer(config, parts, config.kind_of_layer[index])


def read_embedding(config: ModelConfig, reader: ShardReader) -> Tensor:
    """[vocabulary, hidden], scaled as the family wants it."""
    embedding = reader.read(EMBEDDING)
    if config.design.has_scaled_embedding:
        # In the type of the model: each product is rounded as it would be after the lookup.
        embedding *= embedding.new_tensor(config.hidden**0.5)
    return embedding


def read_norm(config: ModelConfig, reader: ShardReader, name: str) -> Tensor:
    """The weight as `rms_norm` takes it."""
    weight = reader.read(name)
    return weight.float() + 1 if config.design.adds_one_to_norms else weight


def read_head(config: ModelConfig, reader: ShardReader, arithmetic: Arithmetic) -> Linear:
    """hidden -> vocabulary, with what the family does to its logits."""
    linear = read_linear(reader, arithmetic, config.head_name)
    cap = config.design.logit_cap
    return (lambda x: soft_capped(linear(x), cap)) if cap else linear


def read_linear(reader: ShardReader, arithmetic: Arithmetic, *names: str) -> Linear:
    """One product of the tensors, one below the other."""
    return make_linear(reader.read_product(arithmetic.kernel, *names), arithmetic.kernel)


class _Source:
    """The tensors of one layer."""

    def __init__(
        self,
        config: ModelConfig,
        reader: ShardReader,
        arithmetic: Arithmetic,
        prefix: str,
        summed: Linear | None,
    ) -> None:
        self._config = config
        self._reader = reader
        self._arithmetic = arithmetic
        self._prefix = prefix
        self._summed = summed

    def norm(self, part: str) -> Tensor:
        return read_norm(self._config, self._reader, f"{self._prefix}{part}.weight")

    def linear(self, *parts: str) -> Linear:
        return self._biased(self._product(*parts), *parts)

    def summing(self, part: str) -> Linear:
        """A product over all inputs, of which the weight here has some; its bias comes once, after the sum."""
        product, summed = self._product(part), self._summed
        return self._biased(product if summed is None else lambda x: summed(product(x)), part)

    def _product(self, *parts: str) -> Linear:
        return read_linear(
            self._reader, self._arithmetic, *(f"{self._prefix}{part}.weight" for part in parts)
        )

    def _biased(self, linear: Linear, *parts: str) -> Linear:
        if not self._config.design.biased.issuperset(parts):
            return linear
        bias = self._reader.read_joined(*(f"{self._prefix}{part}.bias" for part in parts))
        return lambda x: linear(x).add_(bias)

    def ffn(self) -> Ffn:
        design = self._config.design
        if design.experts is not None:
            return self._experts(design.experts)
        if design.is_fused:
            return self._dense(self.summing("mlp.down_proj"), "mlp.gate_up_proj")
        return self._dense(self.summing("mlp.down_proj"), "mlp.gate_proj", "mlp.up_proj")

    def _dense(self, down: Linear, *gate_up: str) -> DenseFfn:
        return DenseFfn(self.linear(*gate_up), down, self._config.design.activation)

    def _experts(self, experts: Experts) -> Ffn:
        names = experts.names
        plan = self._arithmetic.rows
        router = make_router(self._reader.read(f"{self._prefix}{self._config.router_name}"), plan)
        prefixes = [f"{names.block}.experts.{index}." for index in range(experts.count)]
        each = [
            self._dense(self.linear(prefix + names.down), prefix + names.gate, prefix + names.up)
            for prefix in prefixes
        ]
        ffn, summed = ExpertFfn(experts, router, each, plan), self._summed
        # One sum for all experts of a row: what they come to is weighed alike by everybody.
        return ffn if summed is None else lambda x, rows: summed(ffn(x, rows))
