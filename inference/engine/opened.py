"""What a shard keeps of a session that is open there, and a frame of one that is about to be computed."""

from __future__ import annotations

from dataclasses import dataclass

from inference.engine.memory.kv_store import KvPart, SessionKv
from inference.engine.memory.prefixes import Chain
from inference.engine.numerics.exactness import exact_spans, fast_spans
from inference.engine.sampling.drawing import Drawing
from inference.engine.sampling.sampling import Draw
from protocols.seams import CacheSpec
from protocols.tensor import Frame, Numerics


@dataclass(slots=True)
class Opened:
    kv: SessionKv
    spec: CacheSpec
    size_bytes: int
    drawing: Drawing | None  # where the range ends the model
    chain: Chain

    @property
    def reads_tokens(self) -> bool:
        return self.drawing is not None and self.drawing.reads_tokens

    @property
    def draw(self) -> Draw:
        assert self.drawing is not None
        return self.drawing.at(self.kv.rows)


@dataclass(frozen=True, slots=True)
class OpenedFrame:
    """A frame that is right, with its cache and the bounds of its attention spans."""

    opened: Opened
    frame: Frame
    bounds: tuple[tuple[int, int], ...]

    @property
    def part(self) -> KvPart:
        return KvPart(self.opened.kv, self.frame.header.position, self.frame.header.rows)


def with_bounds(opened: Opened, frame: Frame, numerics: Numerics) -> OpenedFrame:
    """Raises `Malformed` if with exact numerics the frame cuts a block of the prompt."""
    header = frame.header
    if numerics is Numerics.EXACT:
        bounds = exact_spans(header.position, header.rows, opened.spec.prompt_rows)
    else:
        bounds = fast_spans(header.position, header.rows)
    return OpenedFrame(opened, frame, tuple(bounds))
