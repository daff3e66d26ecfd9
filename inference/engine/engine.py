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
from inference.engine.head import Head
from inference.engine.kv_cache import KvBudget, KvCache, cache_bytes
from inference.engine.layers import read_layer, read_linear
from inference.engine.selftest import Arithmetic, find_arithmetic
from inference.model.blocks import Segment, Span, StepPlan, causal_mask, padded
from inference.model.config import EMBEDDING, NORM, ModelConfig
from inference.model.rope import RopeTable
from inference.model.weights import TORCH_DTYPES, RangeReader
from protocols.errors import Malformed, WeftError
from protocols.ids import SessionId
from protocols.placement import LayerRange
from protocols.seams import CacheSpec, ShardLoaded, TensorFile
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Numerics

WIRE_DTYPES: Final = {"f32": DType.F32, "bf16": DType.BF16}
WIRE_NUMERICS: Final = {"fast": Numerics.FAST, "exact": Numerics.EXACT}

CacheKey = tuple[SessionId, int]
"""A session and its stage."""


StepOutput = tuple[memoryview | bytes, int | None]
"""Output rows and None, or at the end of the model b"" and the token that the frame asks for."""


@dataclass(slots=True)
class _Opened:
    kv: KvCache
    spec: CacheSpec
    size_bytes: int

    @property
    def draw(self) -> tuple[Sampling, int]:
        assert self.spec.sampling is not None
        return self.spec.sampling, self.kv.rows


@dataclass(frozen=True, slots=True)
class _Segment:
    """A frame that is right, with its cache and the bounds of its attention spans."""

    opened: _Opened
    frame: Frame
    bounds: tuple[tuple[int, int], ...]


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
            self._layers = [
                read_layer(config, reader, index, self.arithmetic)
                for index in range(layer_range.start, layer_range.end)
            ]
            self._head = self._read_head(reader) if self.ends_model else None

    @property
    def starts_model(self) -> bool:
        return self.range.start == 0

    @property
    def ends_model(self) -> bool:
        return self.range.end == self.config.layers

    @property
    def head(self) -> Head:
        """Only where the range ends the model."""
        assert self._head is not None
        return self._head

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
        self._embedding = self._head = None

    def step(self, key: CacheKey, frame: Frame, on_layer: Callable[[], None] = lambda: None) -> StepOutput:
        """As `step_together` for one frame; raises what is wrong with it."""
        (result,) = self.step_together([(key, frame)], on_layer)
        if isinstance(result, WeftError):
            raise result
        return result

    @torch.inference_mode()
    def step_together(
        self, work: Sequence[tuple[CacheKey, Frame]], on_layer: Callable[[], None] = lambda: None
    ) -> list[StepOutput | WeftError]:
        """What each frame comes to, or what is wrong with it, which is `Malformed` and harms no other one.

        `on_layer` is called after every layer. With exact numerics a frame comes to what it comes to alone.
        """
        results: list[StepOutput | WeftError] = []
        segments: list[_Segment] = []
        keys: set[CacheKey] = set()
        for key, frame in work:
            try:
                if key in keys:
                    raise Malformed(f"two frames of stage {key[1]} of session {key[0]} in one step")
                segment = self._checked(key, frame)
            except WeftError as error:
                results.append(error)
                continue
            keys.add(key)
            results.append((b"", None))
            segments.append(segment)
        if segments:
            computed = iter(self._compute(segments, on_layer))
            results = [result if isinstance(result, WeftError) else next(computed) for result in results]
        return results

    def _compute(
        self, segments: Sequence[_Segment], on_layer: Callable[[], None]
    ) -> list[StepOutput | WeftError]:
        plan = self._plan(segments)
        x = padded([self._input(segment) for segment in segments], plan.blocks[-1].stop)
        caches = [segment.opened.kv for segment in segments]
        for segment in segments:
            segment.opened.kv.rows = segment.frame.header.position
        for index, layer in enumerate(self._layers):
            x = layer.forward(x, plan, [cache.layers[index] for cache in caches])
            on_layer()
        for segment in segments:
            segment.opened.kv.rows += segment.frame.header.rows
        if self.ends_model:
            return self._sampled(x, plan, segments)
        return [(_bytes_of(x[each.start : each.start + each.rows]), None) for each in plan.segments]

    def rows(self, key: CacheKey) -> int:
        """How many rows the cache holds."""
        return self._opened[key].kv.rows

    # The way in ------------------------------------------------------------------------------------------------------

    def _checked(self, key: CacheKey, frame: Frame) -> _Segment:
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
        if self.starts_model and max(frame.tokens) >= self.config.vocabulary:
            raise Malformed(f"token {max(frame.tokens)} in a vocabulary of {self.config.vocabulary}")
        if self._numerics is Numerics.EXACT:
            bounds = exact_spans(header.position, header.rows, opened.spec.prompt_rows)
        else:
            bounds = fast_spans(header.position, header.rows)
        return _Segment(opened, frame, tuple(bounds))

    def _plan(self, segments: Sequence[_Segment]) -> StepPlan:
        group = self.config.heads // self.config.kv_heads
        placed: list[Segment] = []
        rows = 0
        for segment in segments:
            spans = tuple(
                Span(
                    start,
                    end,
                    None if end == start + 1 else causal_mask(start, end, group, self._torch_dtype),
                )
                for start, end in segment.bounds
            )
            header = segment.frame.header
            placed.append(Segment(rows, header.position, header.rows, spans))
            rows += header.rows
        row_plan = self.arithmetic.rows
        cos, sin = self._angles(placed, row_plan.padded(rows))
        return StepPlan(row_plan.blocks(rows), tuple(placed), cos, sin)

    def _angles(self, segments: Sequence[Segment], rows: int) -> tuple[Tensor, Tensor]:
        if len(segments) == 1:
            return self._rope.rows(segments[0].position, rows)
        positions = [row for each in segments for row in range(each.position, each.position + each.rows)]
        return self._rope.at(positions + [0] * (rows - len(positions)))

    def _input(self, segment: _Segment) -> Tensor:
        """[rows, hidden]"""
        frame = segment.frame
        if not self.starts_model:
            # torch warns of memory that it might write to; a frame off the wire lies in a bytearray and is not copied.
            body = frame.body if not memoryview(frame.body).readonly else bytearray(frame.body)
            return torch.frombuffer(body, dtype=self._torch_dtype).view(frame.header.rows, self.config.hidden)
        assert self._embedding is not None
        return functional.embedding(torch.tensor(frame.tokens), self._embedding)

    # The way out -----------------------------------------------------------------------------------------------------

    def _sampled(
        self, x: Tensor, plan: StepPlan, segments: Sequence[_Segment]
    ) -> list[StepOutput | WeftError]:
        asking = [
            (placed.start + placed.rows - 1, segment.opened)
            for placed, segment in zip(plan.segments, segments, strict=True)
            if segment.frame.header.sample
        ]
        if not asking:
            return [(b"", None) for _ in segments]
        rows, opened = zip(*asking, strict=True)
        tokens = iter(self.head.tokens(x[list(rows)], [each.draw for each in opened]))
        return [self._drawn(next(tokens)) if each.frame.header.sample else (b"", None) for each in segments]

    @staticmethod
    def _drawn(token: int | Malformed) -> StepOutput | WeftError:
        return token if isinstance(token, Malformed) else (b"", token)

    def _read_head(self, reader: RangeReader) -> Head:
        linear = read_linear(reader, self.arithmetic, self.config.head_name)
        return Head(reader.read(NORM), linear, self.config.norm_eps, self.dtype, self.arithmetic)


def _bytes_of(rows: Tensor) -> memoryview:
    """The memory of the rows, which stays theirs."""
    return rows.contiguous().view(torch.uint8).numpy().data.cast("B")
