"""Certificates and lists of revocations as bytes."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import limits
from protocols.certificates import (
    Certificate,
    Chain,
    Revocations,
    decode_chain,
    decode_revocations,
    encode_chain,
    encode_revocations,
    network_id,
)
from protocols.errors import Malformed
from protocols.ids import NetworkId
from tests.protocols.vectors import ADA, BOB, NETWORK

SERIAL, SIGNATURE = b"\x33" * 16, b"\x44" * 64
ROOT = Certificate(NETWORK, ADA, ADA, 1, SERIAL, 1_800_000_000, 1_900_000_000, SIGNATURE)
LEAF = Certificate(NETWORK, BOB, ADA, 0, SERIAL, 1_800_000_000, 1_831_536_000, SIGNATURE)
ROOT_MEANS = [NETWORK, ADA, ADA, 1, SERIAL, 1_800_000_000, 1_900_000_000, SIGNATURE]
LEAF_MEANS = [NETWORK, BOB, ADA, 0, SERIAL, 1_800_000_000, 1_831_536_000, SIGNATURE]
LIST = Revocations(NETWORK, ADA, 2, 1_800_000_000, (BOB,), (ROOT,), SIGNATURE)
LIST_MEANS = [NETWORK, ADA, 2, 1_800_000_000, [BOB], [ROOT_MEANS], SIGNATURE]


def test_chains_and_lists_have_the_bytes_of_their_plain_values() -> None:
    assert encode_chain((LEAF, ROOT)) == msgpack.packb([LEAF_MEANS, ROOT_MEANS])
    assert encode_revocations(LIST) == msgpack.packb(LIST_MEANS)
    assert decode_chain(msgpack.packb([LEAF_MEANS, ROOT_MEANS])) == (LEAF, ROOT)
    assert decode_revocations(msgpack.packb(LIST_MEANS)) == LIST


def test_a_signature_is_over_all_the_other_fields() -> None:
    assert LEAF.signed() == msgpack.packb(LEAF_MEANS[:-1])
    assert LIST.signed() == msgpack.packb(LIST_MEANS[:-1])


def test_the_network_id_commits_to_founder_and_nonce() -> None:
    assert network_id(ADA, SERIAL) == "89c0a25b70be29f0e44de65e1a7319c5"
    assert len({network_id(ADA, SERIAL), network_id(BOB, SERIAL), network_id(ADA, bytes(16))}) == 3


def test_nothing_is_an_empty_chain_and_the_longest_one_fits_its_limit() -> None:
    assert decode_chain(b"") == ()
    assert encode_chain(()) == b""
    longest = Certificate(
        NetworkId("f" * 32), ADA[:8] + "a" * 56, BOB[:8] + "b" * 56, (1 << 32) - 1, SERIAL, 1 << 39, 1 << 39, SIGNATURE
    )  # fmt: skip
    chain: Chain = (longest,) * limits.CHAIN_MAX
    assert len(encode_chain(chain)) <= limits.CHAIN_BYTES_MAX < limits.SHOWN_BYTES_MAX
    assert decode_chain(encode_chain(chain)) == chain


def test_a_list_of_all_members_fits_its_limit() -> None:
    everybody = tuple(
        BOB[:8] + f"{number:04}".replace("0", "z").rjust(44, "x") for number in range(limits.MEMBERS_MAX)
    )
    full = Revocations(NETWORK, ADA, 1, 0, everybody, (ROOT,) * limits.CHAIN_MAX, SIGNATURE)
    assert len(encode_revocations(full)) <= limits.REVOCATIONS_BYTES_MAX


@pytest.mark.parametrize(
    "means",
    [
        [["x", *LEAF_MEANS[1:]]],
        [[*LEAF_MEANS[:4], b"short", *LEAF_MEANS[5:]]],
        [[*LEAF_MEANS[:5], -1, *LEAF_MEANS[6:]]],
        [[*LEAF_MEANS[:7], b"short"]],
        [LEAF_MEANS[:5]],
        [LEAF_MEANS] * 40,
        "chain",
        {"chain": 1},
    ],
)
def test_what_is_no_chain_is_malformed(means: object) -> None:
    with pytest.raises(Malformed):
        decode_chain(msgpack.packb(means))


@pytest.mark.parametrize(
    "means",
    [
        [*LIST_MEANS[:2], 0, *LIST_MEANS[3:]],
        [*LIST_MEANS[:4], [], *LIST_MEANS[5:]],
        [*LIST_MEANS[:4], [BOB] * (limits.MEMBERS_MAX + 1), *LIST_MEANS[5:]],
        [*LIST_MEANS[:5], [ROOT_MEANS] * (limits.CHAIN_MAX + 1), SIGNATURE],
        [*LIST_MEANS[:4], ["x" * (limits.REVOCATIONS_BYTES_MAX)], *LIST_MEANS[5:]],
    ],
)
def test_what_is_no_list_is_malformed(means: object) -> None:
    with pytest.raises(Malformed):
        decode_revocations(msgpack.packb(means))


@given(st.binary(max_size=300))
def test_garbage_is_malformed_and_nothing_worse(garbage: bytes) -> None:
    for decode in (decode_chain, decode_revocations):
        try:
            decode(garbage)
        except Malformed:
            continue
