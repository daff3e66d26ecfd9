"""What a stage has sent, kept so that the next stage can be rebuilt: the input journal of the stage behind.

It holds output rows from the first that was computed on, up to a quota of bytes. Past the quota it gives up and frees
everything, because a replay that does not begin there is of no use; such a session recovers by replay from its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from protocols import limits
from protocols.tensor import Frame, Kind


@dataclass(slots=True)
class Journal:
    """Frames in the order of their rows, without gaps."""

    bytes_max: int = limits.JOURNAL_BYTES_MAX
    rows: int = 0
    begin: int = 0
    _frames: list[Frame] = field(default_factory=list)
    _size_bytes: int = 0
    _gave_up: bool = False

    def append(self, frame: Frame) -> None:
        """Keep a frame that follows on from the last one."""
        if self._gave_up:
            return
        assert frame.header.position == self.rows
        self._frames.append(frame)
        self.rows += frame.header.rows
        self._size_bytes += frame.size_bytes
        if self._size_bytes > self.bytes_max:
            self.clear()
            self._gave_up = True

    def clear(self, rows: int = 0) -> None:
        """Start over at row `rows`; those before it were computed by an earlier session."""
        self._frames.clear()
        self.rows = self.begin = rows
        self._size_bytes = 0
        self._gave_up = False

    def truncate(self, rows: int) -> None:
        """Forget all rows from `rows` on; a frame that reaches across keeps its first rows."""
        if rows <= self.begin:
            self.clear(rows)
        while self._frames and self.rows > rows:
            frame = self._frames.pop()
            self._size_bytes -= frame.size_bytes
            self.rows = frame.header.position
            if self.rows < rows:
                self.append(_first_rows(frame, rows - self.rows))

    def reaches(self, rows: int) -> bool:
        """Whether rows `begin` to `rows` - 1 can be replayed."""
        return not self._gave_up and self.rows >= rows

    def replay(self, prompt_rows: int, *, merge: bool) -> Iterator[Frame]:
        """The rows as REPLAY frames: those of the prompt as they were sent, decoded rows joined if `merge`.

        Joining is right only where a row's bits do not depend on its neighbours (exact numerics).
        """
        run: list[Frame] = []
        for frame in self._frames:
            joins = merge and frame.header.position >= prompt_rows
            if run and (not joins or sum(kept.header.rows for kept in run) >= limits.PREFILL_CHUNK_ROWS):
                yield _joined(run)
                run = []
            if joins:
                run.append(frame)
            else:
                yield _joined([frame])
        if run:
            yield _joined(run)


def _first_rows(frame: Frame, rows: int) -> Frame:
    header = replace(frame.header, rows=rows)
    return Frame(header, frame.tokens[:rows], bytes(frame.body[: header.body_bytes]))


def _joined(frames: list[Frame]) -> Frame:
    first = frames[0].header
    tokens = tuple(token for frame in frames for token in frame.tokens)
    header = replace(first, kind=Kind.REPLAY, rows=len(tokens), sample=False, truncate_to=first.position)
    body = frames[0].body if len(frames) == 1 else b"".join(bytes(frame.body) for frame in frames)
    return Frame(header, tokens, body)
