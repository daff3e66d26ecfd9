"""What waits to be read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.host.wire.inbox import SMALL_BYTES, Inbox


@given(
    st.lists(
        st.one_of(st.binary(min_size=1, max_size=20), st.integers(1, 3).map(lambda n: bytes(n * SMALL_BYTES)))
    ),
    st.lists(st.integers(1, 3 * SMALL_BYTES)),
)
def test_everything_comes_out_in_order_and_in_no_larger_pieces_than_asked(
    pieces: list[bytes], sizes: list[int]
) -> None:
    inbox, taken = Inbox(), b""
    for piece in pieces:
        inbox.put(piece)
        if sizes:
            size = sizes.pop()
            part = inbox.take(size)
            assert 0 < len(part) <= size
            taken += part
    assert inbox.size_bytes == sum(map(len, pieces)) - len(taken)
    while part := inbox.take(SMALL_BYTES):
        taken += part
    assert taken == b"".join(pieces)


def test_a_large_piece_is_handed_out_without_a_copy() -> None:
    inbox, piece = Inbox(), bytes(SMALL_BYTES)
    inbox.put(piece)
    assert inbox.take(1 << 20) is piece


def test_what_was_cleared_is_gone() -> None:
    inbox = Inbox()
    inbox.put(b"abc")
    inbox.take(1)
    inbox.clear()
    assert (inbox.take(10), inbox.size_bytes) == (b"", 0)
    inbox.put(b"de")
    assert inbox.take(10) == b"de"
