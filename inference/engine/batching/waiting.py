"""A step that waits in the worker: a frame, cut into chunks where it is long, so that others have turns in between.

Cut at multiples of `PREFILL_CHUNK_ROWS`, where exact numerics cut the attention of a prompt anyway; in exact numerics the
rows have the bits that they have in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from protocols import limits
from protocols.ids import SessionId
from protocols.seams import ShardId
from protocols.tensor import Frame

SHORT_ROWS_MAX: Final = 8  # a decode, a window of speculation, the tail of a prompt

Body = bytes | bytearray | memoryview
StepKey = tuple[ShardId, SessionId, int]
"""A cache: a shard, a session and its stage."""


def turns_of(position: int, rows: int) -> int:
    """In how many pieces a frame is computed."""
    chunk = limits.PREFILL_CHUNK_ROWS
    return (position + max(rows, 1) - 1) // chunk - position // chunk + 1


@dataclass(slots=True, eq=False)
class WaitingStep:
    """`call` is the request that it answers; `done` counts the rows computed so far."""

    key: StepKey
    call: int
    frame: Frame
    done: int = 0
    is_over: bool = False
    rows: int = field(init=False)  # those of its next turn
    _parts: list[Body] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = self._next_rows()

    def _next_rows(self) -> int:
        position, rows = self.frame.header.position + self.done, self.frame.header.rows - self.done
        return min(rows, limits.PREFILL_CHUNK_ROWS - position % limits.PREFILL_CHUNK_ROWS)

    @property
    def is_short(self) -> bool:
        """Whether its next turn may be shared."""
        return self.rows <= SHORT_ROWS_MAX

    def piece(self) -> Frame:
        """What its next turn computes."""
        header, rows = self.frame.header, self.rows
        if rows == header.rows:
            return self.frame
        position, end = header.position + self.done, self.done + rows
        row_bytes = header.width * header.dtype.item_bytes
        is_last = end == header.rows
        stop = (
            len(self.frame.body) if is_last else end * row_bytes
        )  # what is too long stays so, and is refused
        cut = replace(
            header,
            position=position,
            truncate_to=header.truncate_to + self.done,
            rows=rows,
            sample=header.sample and is_last,
        )
        body = memoryview(self.frame.body)[self.done * row_bytes : stop]
        return Frame(cut, self.frame.tokens[self.done : len(self.frame.tokens) if is_last else end], body)

    def add(self, out: Body) -> None:
        """The turn came to these output rows."""
        self.done += self.rows
        self.rows = self._next_rows()
        self.is_over = not self.rows
        self._parts.append(out)

    @property
    def out(self) -> Body:
        """The output rows of all turns."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
