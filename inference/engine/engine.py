"""A layer range with its weights and the caches of the sessions that run through it.

One engine per shard; a cache is known by (session, stage). A step takes a frame's rows through the range: token ids in at
the range that starts the model, rows in and out between, a sampled token out at the range that ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.engine.device import HOST, Device
from inference.engine.head import Head
from inference.engine.kernels.quantised_folder import QuantisedFolder
from inference.engine.layers import read_embedding, read_head, read_layer, read_norm
from inference.engine.memory.kv_cache import KvBudget, cache_bytes
from inference.engine.memory.pages import make_kv_store
from inference.engine.memory.prefixes import Block, Chain, left_blocks, taken_blocks_max
from inference.engine.numerics.selftest import Arithmetic, find_arithmetic
from inference.engine.numerics.trial import make_trial
from inference.engine.opened import Opened, OpenedFrame, with_bounds
from inference.engine.parallel.ranks import ALONE, Ranks
from inference.engine.parallel.slices import part_config, ranks_bytes
from inference.engine.recordings import Recordings, through
from inference.engine.sampling.drawing import make_drawing
from inference.engine.sampling.grammar import GrammarTokens
from inference.engine.sampling.sampling import Drawn
from inference.engine.shard_reader import ShardReader
from inference.model.blocks import padded
from inference.model.config import NORM, ModelConfig
from inference.model.kv_form import make_form
from inference.model.precision import PRECISIONS
from inference.model.rope import RopeTables
from inference.model.step_plan import Segment, StepPlan, make_plan
from inference.model.weights import TORCH_DTYPES
from protocols import limits
from protocols.errors import Malformed, Overloaded, WeftError
from protocols.ids import SessionId
from protocols.placement import LayerRange
from protocols.seams import CacheSpec, ShardLoaded, TensorFile
from protocols.tensor import Frame, Numerics

WIRE_DTYPES: Final = {name: precision.wire for name, precision in PRECISIONS.items()}
WIRE_NUMERICS: Final = {"fast": Numerics.FAST, "exact": Numerics.EXACT}

_TRIAL_ROWS: Final = 64  # of context: attention costs next to nothing then

CacheKey = tuple[SessionId, int]
"""A session and its stage."""


StepOutput = tuple[memoryview | bytes, int | None]
"""Output rows and None, or at the end of the model the token that the frame asks for and its log-probabilities, if the session
wants them."""


class ShardEngine:
    """Loads in its constructor, which raises `UserError` if the tensors are not what the configuration says, and
    `Unavailable` if the device does not run the dtype."""

    def __init__(
        self,
        config: ModelConfig,
        layer_range: LayerRange,
        dtype: str,
        numerics: str,
        tensors: Sequence[TensorFile],
        budget: KvBudget,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
        tokenizer: str = "",
        kept: QuantisedFolder | None = None,
        device: Device = HOST,
        ranks: Ranks = ALONE,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        """`ranks` compute it together, each with its slice, and the first one decides for them; sizes are those of all.
        `arithmetic` None: what is best here."""
        config.check_range(layer_range)
        self._grammar_tokens = GrammarTokens(tokenizer, config.vocabulary)
        self.config = config
        self.range = layer_range
        self.dtype = dtype
        self.numerics = numerics
        self._ranks = ranks
        self._part = part_config(config, ranks.own.of)
        self.arithmetic = arithmetic or find_arithmetic(self._part, dtype, numerics, device, budget.kv)
        self._device = device
        self.resident_bytes = ranks_bytes(config, layer_range, dtype, ranks.own.of)
        self._row_bytes = config.kv_bytes_per_row(layer_range, dtype, budget.kv)
        self._numerics = WIRE_NUMERICS[numerics]
        self._torch_dtype = TORCH_DTYPES[dtype]
        self._rope = RopeTables(config, self._torch_dtype, device.place)
        self._budget = budget
        self._store = make_kv_store(
            self._part,
            layer_range.layers,
            make_form(budget.kv, self._torch_dtype),
            device,
            lambda: budget.bytes_max - budget.reserved_bytes,
        )
        self._opened: dict[CacheKey, Opened] = {}
        self._identity = object()  # of what is kept of its caches
        leads, summed = ranks.own.leads, ranks.sum if ranks.own.of > 1 else None
        reader = ShardReader(config, layer_range, tensors, dtype, on_progress, kept, device, ranks.own)
        with torch.inference_mode(), reader:
            self._embedding = read_embedding(config, reader) if self.starts_model and leads else None
            # The largest product first, while there is little else in memory beside it.
            self._head = self._read_head(reader) if self.ends_model and leads else None
            self._layers = [
                read_layer(self._part, reader, index, self.arithmetic, summed)
                for index in range(layer_range.start, layer_range.end)
            ]
        is_recorded = device.is_accelerator and device.records and ranks.own.of == 1
        is_recorded &= config.design.experts is None
        self._recordings = Recordings(device, self._layers) if is_recorded else None

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
        """Reserve `spec.rows_max` rows and give their bytes; `rows` then tells how many are there already, of `spec.prefix`.

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
        drawing = make_drawing(spec, self._grammar_tokens) if self.ends_model else None
        size_bytes = cache_bytes(self._row_bytes, spec.rows_max)
        chain = Chain((self._identity, self._rope.turns_long(spec.rows_max)), spec.peer, spec.prefix)
        taken = self._budget.prefixes.find(chain, taken_blocks_max(spec))
        self._budget.reserve(size_bytes, key[0], spec.peer)
        try:
            kv = self._store.open(spec.rows_max)
        except (MemoryError, RuntimeError) as error:  # torch's allocator raises the latter
            self._budget.release(size_bytes, key[0], spec.peer)
            raise Overloaded(f"the machine has no {size_bytes} bytes for a cache") from error
        for block in taken:
            if drawing is not None:
                drawing.note(kv.rows, block.tokens)
            kv.append(block.rows)
        self._opened[key] = Opened(kv, spec, size_bytes, drawing, chain)
        return size_bytes

    def close_cache(self, key: CacheKey) -> None:
        """Idempotent."""
        opened = self._opened.pop(key, None)
        if opened is not None:
            opened.kv.close()
            self._budget.release(opened.size_bytes, key[0], opened.spec.peer)
            if self._recordings is not None and not self._opened:
                self._recordings.clear()

    def close(self) -> None:
        """Let go of the weights, of all caches and what was kept of them; the engine is of no use afterwards."""
        for key in list(self._opened):
            self.close_cache(key)
        for is_long in (False, True):
            self._budget.prefixes.forget((self._identity, is_long))
        self._layers.clear()
        self._embedding = self._head = None
        self._device.release()

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
        segments: list[OpenedFrame] = []
        begun: dict[CacheKey, Frame] = {}
        for key, frame in work:
            try:
                if key in begun:
                    raise Malformed(f"two frames of stage {key[1]} of session {key[0]} in one step")
                segment = self._checked(key, frame)
            except WeftError as error:
                results.append(error)
                continue
            begun[key] = frame
            results.append((b"", None))
            segments.append(segment)
        if segments:
            self._ranks.begin(begun)
            computed = iter(self._compute(segments, on_layer))
            results = [result if isinstance(result, WeftError) else next(computed) for result in results]
        return results

    @torch.inference_mode()
    def follow(self, work: Sequence[tuple[CacheKey, Frame]]) -> None:
        """The part of a rank that does not lead in what the first one begins; frames come without their bodies."""
        self._compute(
            [with_bounds(self._opened[key], frame, self._numerics) for key, frame in work], lambda: None
        )

    def _compute(
        self, segments: Sequence[OpenedFrame], on_layer: Callable[[], None]
    ) -> list[StepOutput | WeftError]:
        plan = self._plan(segments)
        x = self._through(segments, plan, on_layer)
        for segment in segments:
            segment.opened.kv.rows += segment.frame.header.rows
            if segment.opened.drawing is not None:
                segment.opened.drawing.note(segment.frame.header.position, segment.frame.tokens)
            self._keep_prefix(segment)
        if self.ends_model:
            return self._sampled(x, plan, segments)
        found = self._device.fetched(x[: plan.rows])
        outs = [found[each.start : each.start + each.rows] for each in plan.segments]
        if torch.isfinite(found.sum()):  # one look at all of them costs next to nothing
            return [(_bytes_of(out), None) for out in outs]
        return [self._passed_on(out, segment) for out, segment in zip(outs, segments, strict=True)]

    def _through(
        self, segments: Sequence[OpenedFrame], plan: StepPlan, on_layer: Callable[[], None]
    ) -> Tensor:
        """All rows through all layers; keys and values are in the caches afterwards."""
        for segment in segments:
            segment.opened.kv.truncate(segment.frame.header.position)
        own = self._input([segment.frame for segment in segments])
        x = self._ranks.share(padded(own, plan.blocks[-1].stop))
        kvs = self._store.step([segment.part for segment in segments])
        if self._recordings is not None:
            return self._recordings.through(x, plan, kvs, on_layer)
        return through(self._layers, x, plan, kvs, on_layer)

    def trial(self, rows: int) -> Callable[[int], None]:
        """Computes one layer, by its number in the range, for a decoded row of each of `rows` sessions; nothing is kept."""
        step = make_trial(self._part, self._store.form, self.arithmetic, self._device, rows, _TRIAL_ROWS)

        def begin(index: int) -> None:
            self._ranks.begin_trial(rows, index)
            step(self._layers[index])

        return begin

    def rows(self, key: CacheKey) -> int:
        """How many rows the cache holds."""
        return self._opened[key].kv.rows

    def _keep_prefix(self, segment: OpenedFrame) -> None:
        """Leave whole blocks of the prompt for later sessions of the same peer."""
        opened, frame = segment.opened, segment.frame
        prefixes, chunk = self._budget.prefixes, limits.PREFILL_CHUNK_ROWS
        for index in left_blocks(opened.spec, frame.header):
            bytes_max, size_bytes = self._budget.prefix_bytes_max, chunk * self._row_bytes
            if not prefixes.makes_room(opened.chain, index, size_bytes, bytes_max):
                continue
            start = index * chunk - frame.header.position
            tokens = frame.tokens[start : start + chunk]
            rows: Tensor | None = None
            with suppress(MemoryError, RuntimeError):  # as when a cache is opened; here nobody needs it
                rows = opened.kv.copied(index * chunk, (index + 1) * chunk)
            # What some neighbour's fault has spoilt ends with the session.
            is_sound = (
                rows is not None and self._store.form.is_finite(rows) and max(tokens) < self.config.vocabulary
            )
            if not self._ranks.agree(is_so=is_sound) or rows is None:
                return
            prefixes.keep(opened.chain, index, Block(rows, tokens, size_bytes))

    # The way in ------------------------------------------------------------------------------------------------------

    def _checked(self, key: CacheKey, frame: Frame) -> OpenedFrame:
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
        if (self.starts_model or opened.reads_tokens) and max(frame.tokens) >= self.config.vocabulary:
            raise Malformed(f"token {max(frame.tokens)} in a vocabulary of {self.config.vocabulary}")
        return with_bounds(opened, frame, self._numerics)

    def _plan(self, segments: Sequence[OpenedFrame]) -> StepPlan:
        placed: list[Segment] = []
        rows = 0
        for segment in segments:
            spans = self._store.spans(segment.bounds)
            header = segment.frame.header
            placed.append(Segment(rows, header.position, header.rows, spans))
            rows += header.rows
        row_plan = self.arithmetic.rows
        stretches = [
            (each.position, each.rows, segment.opened.spec.rows_max)
            for each, segment in zip(placed, segments, strict=True)
        ]
        angles = self._rope.of(stretches, row_plan.padded(rows))
        return make_plan(row_plan.blocks(rows), tuple(placed), angles)

    def _input(self, frames: Sequence[Frame]) -> Sequence[Tensor]:
        """The rows of all frames in one part or several, [rows, hidden] each."""
        if not self._ranks.own.leads:  # they come from the rank that does
            rows = sum(frame.header.rows for frame in frames)
            hidden = self.config.hidden
            return [torch.empty(rows, hidden, dtype=self._torch_dtype, device=self._device.place)]
        if not self.starts_model:
            return self._device.sent([self._rows_of(frame) for frame in frames])
        assert self._embedding is not None
        tokens = self._device.sent([torch.tensor(frame.tokens) for frame in frames])
        return [functional.embedding(each, self._embedding) for each in tokens]

    def _rows_of(self, frame: Frame) -> Tensor:
        # torch warns of memory that it might write to; a frame off the wire lies in a bytearray and is not copied.
        body = frame.body if not memoryview(frame.body).readonly else bytearray(frame.body)
        return torch.frombuffer(body, dtype=self._torch_dtype).view(frame.header.rows, self.config.hidden)

    # The way out -----------------------------------------------------------------------------------------------------

    def _sampled(
        self, x: Tensor, plan: StepPlan, segments: Sequence[OpenedFrame]
    ) -> list[StepOutput | WeftError]:
        asking = [
            (placed.start + placed.rows - 1, segment.opened)
            for placed, segment in zip(plan.segments, segments, strict=True)
            if segment.frame.header.sample and self._head is not None
        ]
        if not asking:
            return [(b"", None) for _ in segments]
        rows, opened = zip(*asking, strict=True)
        tokens = iter(self.head.tokens(x[list(rows)], [each.draw for each in opened]))
        return [self._drawn(next(tokens)) if each.frame.header.sample else (b"", None) for each in segments]

    @staticmethod
    def _passed_on(out: Tensor, segment: OpenedFrame) -> StepOutput | WeftError:
        if torch.isfinite(out).all():
            return _bytes_of(out), None
        segment.opened.kv.truncate(segment.frame.header.position)
        return Malformed("the rows are not finite: what came in was not, or the weights are damaged")

    @staticmethod
    def _drawn(drawn: Drawn | Malformed) -> StepOutput | WeftError:
        return drawn if isinstance(drawn, Malformed) else (drawn.logprobs, drawn.token)

    def _read_head(self, reader: ShardReader) -> Head:
        linear = read_head(self.config, reader, self.arithmetic)
        norm = read_norm(self.config, reader, NORM)
        return Head(norm, linear, self.config.norm_eps, self.dtype, self.arithmetic, self._device)


def _bytes_of(rows: Tensor) -> memoryview:
    """The memory of the rows, which stays theirs."""
    return rows.contiguous().view(torch.uint8).numpy().data.cast("B")
