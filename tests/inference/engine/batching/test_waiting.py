"""Long steps in pieces: cut where exact numerics cut attention, and together what they were."""

from __future__ import annotations

import pytest

from inference.engine.batching.waiting import WaitingStep, turns_of
from protocols.ids import ModelDigest, SessionId
from protocols.placement import LayerRange
from protocols.seams import ShardId
from protocols.tensor import DType, Frame, Header, Kind, Numerics

KEY = (ShardId(ModelDigest("ab" * 32), LayerRange(0, 1)), SessionId("5e" * 16), 0)


def waiting(position: int, rows: int, *, extra: int = 0) -> WaitingStep:
    header = Header(
        Kind.REPLAY, KEY[1], 0, 0, position, rows, 2, position, Numerics.EXACT, DType.BF16, sample=True
    )
    body = bytes(index % 251 for index in range(4 * rows + extra))
    return WaitingStep(KEY, 1, Frame(header, tuple(range(rows)), body))


def pieces(step: WaitingStep) -> list[Frame]:
    found = []
    while not step.is_over:
        found.append(step.piece())
        step.add(bytes(step.piece().body))
    return found


@pytest.mark.parametrize(
    ("position", "rows", "sizes"),
    [
        (0, 1, [1]),
        (0, 128, [128]),
        (5, 128, [123, 5]),
        (0, 129, [128, 1]),
        (127, 2, [1, 1]),
        (300, 300, [84, 128, 88]),
    ],
)
def test_pieces_end_at_multiples_of_a_chunk_and_make_the_frame(
    position: int, rows: int, sizes: list[int]
) -> None:
    step = waiting(position, rows)
    found = pieces(step)
    assert [piece.header.rows for piece in found] == sizes
    assert turns_of(position, rows) == len(sizes)
    assert bytes(step.out) == bytes(step.frame.body)
    at = position
    for piece in found:
        header = piece.header
        assert (header.position, header.truncate_to) == (at, at)
        assert len(piece.tokens) == header.rows
        assert len(piece.body) == header.body_bytes
        at += header.rows
    assert [piece.header.sample for piece in found] == [False] * (len(sizes) - 1) + [True]
    assert [token for piece in found for token in piece.tokens] == list(range(rows))


def test_a_frame_that_is_one_piece_is_not_copied() -> None:
    step = waiting(0, 128)
    assert step.piece() is step.frame


def test_a_body_that_is_too_long_or_too_short_stays_so() -> None:
    for extra in (-1, 1):
        last = pieces(waiting(0, 130, extra=extra))[-1]
        assert len(last.body) == last.header.body_bytes + extra
