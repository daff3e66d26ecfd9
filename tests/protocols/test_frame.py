"""Frames out of a byte stream, however it is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Oversized
from protocols.frame import PREFIX, FrameDecoder, encode_frame

LIMIT = 64
BODIES = st.lists(st.binary(max_size=LIMIT), max_size=20)


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(BODIES, st.lists(st.integers(0, 5_000), max_size=40))
def test_what_was_framed_comes_out_again_however_it_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    sent = b"".join(encode_frame(body, LIMIT) for body in bodies)
    decoder = FrameDecoder(LIMIT)
    received = [frame for chunk in chunks(sent, cuts) for frame in decoder.feed(chunk)]
    assert received == bodies
    assert decoder.is_between_frames


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_garbage_gives_bounded_frames_or_oversized_and_never_more_than_a_frame_is_held(
    garbage: list[bytes],
) -> None:
    decoder = FrameDecoder(LIMIT)
    try:
        for chunk in garbage:
            assert all(len(frame) <= LIMIT for frame in decoder.feed(chunk))
            assert len(decoder._pending) <= LIMIT + PREFIX.size
    except Oversized:
        pass


def test_an_oversized_frame_is_refused_from_its_prefix_alone() -> None:
    assert list(FrameDecoder(LIMIT).feed(encode_frame(bytes(LIMIT), LIMIT))) == [bytes(LIMIT)]
    with pytest.raises(Oversized):
        list(FrameDecoder(LIMIT).feed(PREFIX.pack(LIMIT + 1)))
    with pytest.raises(Oversized):
        list(FrameDecoder(LIMIT).feed(b"\xff\xff\xff\xff"))


def test_a_frame_that_the_other_side_would_refuse_is_not_made() -> None:
    with pytest.raises(Oversized):
        encode_frame(bytes(LIMIT + 1), LIMIT)


def test_a_stream_that_ends_inside_a_frame_is_noticed() -> None:
    for length in range(1, 7):
        decoder = FrameDecoder(LIMIT)
        assert list(decoder.feed(encode_frame(b"abc", LIMIT)[:length])) == ([] if length < 7 else [b"abc"])
        assert not decoder.is_between_frames
