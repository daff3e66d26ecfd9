"""A layer range with its weights and the caches of the sessions that run through it.

One engine per shard; a cache is known by (session, stage). A step takes a frame's rows through the range: token ids in at
the range that starts the model, rows in and out between, a sampled token out at the range that ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.engine.exactness import exact_spans, fast_spans
from inference.engine.kv_cache import KvBudget, KvCache, cache_bytes
from inference.engine.linear import make_linear
from inference.engine.sampling import draw
from inference.engine.selftest import Arithmetic, find_arithmetic
from inference.model.blocks import DecoderLayer, LayerParts, Linear, Span, StepPlan, causal_mask, rms_norm
from inference.model.config import EMBEDDING, NORM, ModelConfig
from inference.model.rope import RopeTable
from inference.model.weights import TORCH_DTYPES, RangeReader
from protocols.errors import Malformed
from protocols.ids import SessionId
from protocols.placement import LayerRange
from protocols.seams import CacheSpec, ShardLoaded, TensorFile
from protocols.tensor import DType, Frame, Numerics

WIRE_DTYPES: Final = {"f32": DType.F32, "bf16": DType.BF16}
WIRE_NUMERICS: Final = {"fast": Numerics.FAST, "exact": Numerics.EXACT}

CacheKey = tuple[SessionId, int]
"""A session and its stage."""


@dataclass(slots=True)
class _Opened:
    kv: KvCache
    spec: CacheSpec
    size_bytes: int


class ShardEngine:
    """Loads in its constructor, which raises `UserError` if the tensors are not what the configuration says."""

    def __init__(
        self,
        config: ModelConfig,
        layer_range: LayerRange,
        dtype: str,
        numerics: str,
        tensors: Sequence[TensorFile],
        budget: KvBudget,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        config.check_range(layer_range)
        self.config = config
        self.range = layer_range
        self.dtype = dtype
        self.numerics = numerics
        self.arithmetic: Arithmetic = find_arithmetic(config, dtype, numerics)
        self.resident_bytes = config.range_bytes(layer_range, dtype)
        self._numerics = WIRE_NUMERICS[numerics]
        self._torch_dtype = TORCH_DTYPES[dtype]
        self._rope = RopeTable(config, self._torch_dtype)
        self._budget = budget
        self._opened: dict[CacheKey, _Opened] = {}
        with torch.inference_mode(), RangeReader(config, layer_range, tensors, dtype, on_progress) as reader:
            self._embedding = reader.read(EMBEDDING) if self.starts_model else None
            self._layers = [self._layer(reader, index) for index in range(layer_range.start, layer_range.end)]
            self._norm = reader.read(NORM) if self.ends_model else None
            self._head = self._linear(reader.read(config.head_name)) if self.ends_model else None

    @property
    def starts_model(self) -> bool:
        return self.range.start == 0

    @property
    def ends_model(self) -> bool:
        return self.range.end == self.config.layers

    @property
    def loaded(self) -> ShardLoaded:
        return ShardLoaded(self.resident_bytes, self.arithmetic.numerics_class, self.arithmetic.is_exact)

    def open_cache(self, key: CacheKey, spec: CacheSpec) -> int:
        """Reserve `spec.rows_max` rows and give their bytes.

        Raises `Overloaded` if they do not fit, `Malformed` if they can't be served.
        """
        if key in self._opened:
            raise Malformed(f"stage {key[1]} of session {key[0]} is open already")
        if not 1 <= spec.prompt_rows <= spec.rows_max <= self.config.context:
            raise Malformed(
                f"{spec.rows_max} rows with a prompt of {spec.prompt_rows} in a context of {self.config.context}"
            )
        if self.ends_model and spec.sampling is None:
            raise Malformed("the stage that ends the model needs sampling parameters")
        size_bytes = cache_bytes(self.config.kv_bytes_per_row(self.range, self.dtype), spec.rows_max)
        self._budget.reserve(size_bytes)
        kv = KvCache(self.config, self.range.layers, spec.rows_max, self._torch_dtype)
        self._opened[key] = _Opened(kv, spec, size_bytes)
        return size_bytes

    def close_cache(self, key: CacheKey) -> None:
        """Idempotent."""
        opened = self._opened.pop(key, None)
        if opened is not None:
            self._budget.release(opened.size_bytes)

    def close(self) -> None:
        """Let go of the weights and of all caches; the engine is of no use afterwards."""
        for key in list(self._opened):
            self.close_cache(key)
        self._layers.clear()
        self._embedding = self._norm = self._head = None

    @torch.inference_mode()
    def step(
        self, key: CacheKey, frame: Frame, on_layer: Callable[[], None] = lambda: None
    ) -> tuple[memoryview | bytes, int | None]:
        """(output rows, None), or at the end of the model (b"", the token that the frame asks for).

        `on_layer` is called after every layer. Raises `Malformed` if the frame does not follow on from the cache.
        """
        opened = self._checked(key, frame)
        plan = self._plan(frame, opened.spec)
        x = self._padded(self._input(frame), self.arithmetic.rows.padded(frame.header.rows))
        opened.kv.rows = frame.header.position
        for layer, kv in zip(self._layers, opened.kv.layers, strict=True):
            x = layer.forward(x, plan, kv)
            on_layer()
        opened.kv.rows += plan.rows
        if not self.ends_model:
            return _bytes_of(x[: plan.rows]), None
        return b"", self._sample(x[plan.rows - 1], opened) if frame.header.sample else None

    def rows(self, key: CacheKey) -> int:
        """How many rows the cache holds."""
        return self._opened[key].kv.rows

    # The way in ------------------------------------------------------------------------------------------------------

    def _checked(self, key: CacheKey, frame: Frame) -> _Opened:
        opened, header = self._opened.get(key), frame.header
        if opened is None:
            raise Malformed(f"stage {key[1]} of session {key[0]} is not open here")
        if header.truncate_to != header.position or header.position > opened.kv.rows:
            raise Malformed(
                f"a frame at row {header.position} (keep {header.truncate_to}) after {opened.kv.rows} rows"
            )
        if not 0 < header.rows <= opened.kv.rows_max - header.position:
            raise Malformed(f"{header.rows} rows at {header.position} in a cache of {opened.kv.rows_max}")
        width = 0 if self.starts_model else self.config.hidden
        if header.width != width or len(frame.body) != header.body_bytes or len(frame.tokens) != header.rows:
            raise Malformed(f"rows of width {header.width} where {width} is due")
        # The header's numerics are the sender's: where a self-test of `exact` fails, a route mixes both.
        if header.dtype is not WIRE_DTYPES[self.dtype]:
            raise Malformed(f"a frame in {header.dtype.name} for a shard in {self.dtype}")
        return opened

    def _plan(self, frame: Frame, spec: CacheSpec) -> StepPlan:
        position, rows = frame.header.position, frame.header.rows
        if self._numerics is Numerics.EXACT:
            bounds = exact_spans(position, rows, spec.prompt_rows)
        else:
            bounds = fast_spans(position, rows)
        group = self.config.heads // self.config.kv_heads
        spans = tuple(
            Span(start, end, None if end == start + 1 else causal_mask(start, end, group, self._torch_dtype))
            for start, end in bounds
        )
        cos, sin = self._rope.rows(position, self.arithmetic.rows.padded(rows))
        return StepPlan(position, rows, self.arithmetic.rows.blocks(rows), spans, cos, sin)

    def _input(self, frame: Frame) -> Tensor:
        """[rows, hidden]"""
        if not self.starts_model:
            # torch warns of memory that it might write to; a frame off the wire lies in a bytearray and is not copied.
            body = frame.body if not memoryview(frame.body).readonly else bytearray(frame.body)
            return torch.frombuffer(body, dtype=self._torch_dtype).view(frame.header.rows, self.config.hidden)
        if max(frame.tokens) >= self.config.vocabulary:
            raise Malformed(f"token {max(frame.tokens)} in a vocabulary of {self.config.vocabulary}")
        assert self._embedding is not None
        return functional.embedding(torch.tensor(frame.tokens), self._embedding)

    @staticmethod
    def _padded(x: Tensor, rows: int) -> Tensor:
        # Copied in any case: the buffer is the caller's, and kernels may round by how memory is aligned.
        padded = x.new_zeros(rows, x.shape[1])
        padded[: len(x)] = x
        return padded

    # The way out -----------------------------------------------------------------------------------------------------

    def logits(self, row: Tensor) -> Tensor:
        """[hidden] -> [vocabulary] in float32, by one call of one shape, so that no frame can change them."""
        assert self._norm is not None
        assert self._head is not None
        x = self._padded(row[None], self.arithmetic.rows.padded(1))
        return self._head(rms_norm(x, self._norm, self.config.norm_eps))[0].float()

    def _sample(self, row: Tensor, opened: _Opened) -> int:
        assert opened.spec.sampling is not None
        return draw(self.logits(row).numpy(), opened.spec.sampling, opened.kv.rows)

    # Loading ---------------------------------------------------------------------------------------------------------

    def _layer(self, reader: RangeReader, index: int) -> DecoderLayer:
        def name(part: str) -> str:
            return f"model.layers.{index}.{part}.weight"

        normed = self.config.has_head_norms
        parts = LayerParts(
            input_norm=reader.read(name("input_layernorm")),
            qkv=self._linear(reader.read_joined(*(name(f"self_attn.{part}_proj") for part in "qkv"))),
            output=self._linear(reader.read(name("self_attn.o_proj"))),
            ffn_norm=reader.read(name("post_attention_layernorm")),
            gate_up=self._linear(reader.read_joined(name("mlp.gate_proj"), name("mlp.up_proj"))),
            down=self._linear(reader.read(name("mlp.down_proj"))),
            query_norm=reader.read(name("self_attn.q_norm")) if normed else None,
            key_norm=reader.read(name("self_attn.k_norm")) if normed else None,
        )
        return DecoderLayer(self.config, parts)

    def _linear(self, weight: Tensor) -> Linear:
        return make_linear(weight, self.arithmetic.kernel, self.arithmetic.rows.lone)


def _bytes_of(rows: Tensor) -> memoryview:
    """The memory of the rows, which stays theirs."""
    return rows.contiguous().view(torch.uint8).numpy().data.cast("B")
