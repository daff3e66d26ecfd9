"""Log-probabilities beside a token: four bytes each, and nothing that could not be one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Malformed
from protocols.logprobs import LOGPROBS_BYTES_MAX, Logprobs, decode_logprobs, encode_logprobs

TOLD = Logprobs(-1.5, ((511, -0.5), (7, -1.5)))
BYTES = "0000c0bf ff010000 000000bf 07000000 0000c0bf"


def test_the_bytes_are_those_of_the_golden_message() -> None:
    assert encode_logprobs(TOLD) == bytes.fromhex(BYTES)
    assert decode_logprobs(bytes.fromhex(BYTES), 2, 512) == TOLD


def test_no_more_come_than_there_are_tokens_and_all_that_may_be_asked_for_fit() -> None:
    few = encode_logprobs(Logprobs(-0.5, ((1, -0.5), (0, -1.0))))
    assert len(decode_logprobs(few, 20, 2).likeliest) == 2
    many = encode_logprobs(Logprobs(-3.0, tuple((token, -3.0) for token in range(20))))
    assert len(many) == LOGPROBS_BYTES_MAX


@pytest.mark.parametrize(
    "told",
    [
        Logprobs(float("nan"), TOLD.likeliest),
        Logprobs(float("-inf"), TOLD.likeliest),
        Logprobs(0.5, TOLD.likeliest),
        Logprobs(-1.5, ((511, 0.5), (7, -1.5))),
        Logprobs(-1.5, ((512, -0.5), (7, -1.5))),
        Logprobs(-1.5, ((7, -0.5), (7, -1.5))),
        Logprobs(-1.5, ((511, -1.5), (7, -0.5))),
        Logprobs(-1.5, ((511, -0.5),)),
        Logprobs(-1.5),
    ],
)
def test_what_can_be_no_answer_is_malformed(told: Logprobs) -> None:
    with pytest.raises(Malformed):
        decode_logprobs(encode_logprobs(told), 2, 512)


@given(st.binary(max_size=40), st.integers(0, 20))
def test_garbage_is_logprobs_or_malformed(garbage: bytes, count: int) -> None:
    try:
        told = decode_logprobs(garbage, count, 1 << 20)
    except Malformed:
        return
    assert encode_logprobs(told) == garbage
    assert struct.unpack_from("<f", garbage)[0] == told.chosen
