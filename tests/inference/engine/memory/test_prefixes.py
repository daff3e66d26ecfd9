"""Which blocks of prompts are kept, for whom, and which go first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.memory.prefixes import Block, Chain, Prefixes, left_blocks, taken_blocks_max
from protocols.ids import PeerId, SessionId
from protocols.limits import PREFILL_CHUNK_ROWS as CHUNK
from protocols.seams import CacheSpec
from protocols.tensor import DType, Header, Kind, Numerics

ADA, BOB = PeerId("ada"), PeerId("bob")
SHARD, OTHER = "layers 0-3", "layers 4-7"


def chain(names: str, shard: str = SHARD, peer: PeerId = ADA) -> Chain:
    """A name is all letters up to the block's."""
    return Chain(shard, peer, tuple(names[: end + 1].encode() for end in range(len(names))))


def leave(prefixes: Prefixes[str], names: Chain, bytes_max: int = 100, size_bytes: int = 10) -> None:
    """What a session does as its blocks are computed."""
    for index, name in enumerate(names.names):
        if prefixes.makes_room(names, index, size_bytes, bytes_max):
            prefixes.keep(names, index, Block(name.decode(), (), size_bytes))


def found(prefixes: Prefixes[str], names: Chain, blocks_max: int = 9) -> list[str]:
    return [block.rows for block in prefixes.find(names, blocks_max)]


def test_a_later_prompt_finds_the_blocks_that_it_begins_with() -> None:
    prefixes = Prefixes[str]()
    leave(prefixes, chain("abc"))
    assert found(prefixes, chain("abx")) == ["a", "ab"]
    assert found(prefixes, chain("abcd")) == ["a", "ab", "abc"]
    assert found(prefixes, chain("bc")) == []


def test_it_finds_no_more_than_it_may_take() -> None:
    prefixes = Prefixes[str]()
    leave(prefixes, chain("abc"))
    assert found(prefixes, chain("abc"), 2) == ["a", "ab"]


@pytest.mark.parametrize("other", [chain("abc", peer=BOB), chain("abc", shard=OTHER)])
def test_nobody_finds_what_another_peer_or_shard_has_left(other: Chain) -> None:
    prefixes = Prefixes[str]()
    leave(prefixes, chain("abc"))
    assert found(prefixes, other) == []
    leave(prefixes, other)
    assert len(prefixes) == 6


def test_what_two_sessions_leave_alike_is_kept_once() -> None:
    prefixes = Prefixes[str]()
    leave(prefixes, chain("abc"))
    leave(prefixes, chain("abd"))
    assert prefixes.size_bytes == 40


def test_what_is_longest_unused_goes_first_and_of_a_chain_its_end() -> None:
    prefixes = Prefixes[str]()
    leave(prefixes, chain("abc"))
    leave(prefixes, chain("xyz"))
    found(prefixes, chain("abc"))
    prefixes.shrink(40)
    assert (found(prefixes, chain("abc")), found(prefixes, chain("xyz"))) == (["a", "ab", "abc"], ["x"])
    prefixes.shrink(20)
    assert (found(prefixes, chain("abc")), found(prefixes, chain("xyz"))) == (["a"], ["x"])


def test_a_prompt_longer_than_the_room_keeps_its_beginning() -> None:
    prefixes = Prefixes[str]()
    leave(prefixes, chain("vw"), bytes_max=30)
    leave(prefixes, chain("abcdef"), bytes_max=30)
    assert found(prefixes, chain("abcdef")) == ["a", "ab", "abc"]
    assert prefixes.size_bytes == 30


def test_a_peer_that_fills_the_store_pushes_out_its_own_and_nobody_who_has_less() -> None:
    prefixes = Prefixes[str]()
    leave(prefixes, chain("ab", peer=BOB), bytes_max=60)
    for names in ("cdef", "ghij", "klmn"):
        leave(prefixes, chain(names), bytes_max=60)
    assert found(prefixes, chain("ab", peer=BOB)) == ["a", "ab"]
    assert found(prefixes, chain("klmn")) == ["k", "kl", "klm", "klmn"]


def test_whoever_comes_later_gets_as_much_as_who_has_filled_the_store() -> None:
    prefixes = Prefixes[str]()
    leave(prefixes, chain("abcdef"), bytes_max=60)
    leave(prefixes, chain("uvwxyz", peer=BOB), bytes_max=60)
    assert found(prefixes, chain("uvwxyz", peer=BOB)) == ["u", "uv", "uvw"]
    assert found(prefixes, chain("abcdef")) == ["a", "ab", "abc"]


def test_a_block_without_those_before_it_is_not_kept() -> None:
    prefixes = Prefixes[str]()
    assert not prefixes.makes_room(chain("ab"), 1, 10, 100)


def test_an_unloaded_shard_leaves_nothing() -> None:
    prefixes = Prefixes[str]()
    leave(prefixes, chain("ab"))
    leave(prefixes, chain("abc", OTHER))
    prefixes.forget(SHARD)
    assert found(prefixes, chain("ab")) == []
    assert prefixes.size_bytes == 30
    prefixes.clear()
    assert (len(prefixes), prefixes.size_bytes) == (0, 0)


@given(
    st.lists(
        st.tuples(
            st.text("ab", min_size=1, max_size=5), st.sampled_from([ADA, BOB]), st.sampled_from([0, 30, 60])
        )
    )
)
def test_they_stay_within_their_bytes_and_nobody_finds_a_gap(
    sessions: list[tuple[str, PeerId, int]],
) -> None:
    prefixes = Prefixes[str]()
    for names, peer, bytes_max in sessions:
        own = chain(names, peer=peer)
        here = found(prefixes, own)
        assert here == [names[: end + 1] for end in range(len(here))]
        leave(prefixes, own, bytes_max)
        prefixes.shrink(60)
        assert prefixes.size_bytes == 10 * len(prefixes) <= 60
        # Whatever is kept can be found: it is behind no gap.
        assert {key[2] for key in prefixes._blocks if key[1] == peer} >= {name.encode() for name in here}
        for _, whose, name in list(prefixes._blocks):
            assert found(prefixes, chain(name.decode(), peer=whose))[-1] == name.decode()


def cache(prompt_rows: int, epoch: int = 0) -> CacheSpec:
    names = tuple(bytes([index]) for index in range(prompt_rows // CHUNK))
    return CacheSpec(prompt_rows, prompt_rows + 8, None, prefix=names, epoch=epoch)


def header(position: int, rows: int, kind: Kind = Kind.PREFILL, epoch: int = 0) -> Header:
    return Header(kind, SessionId("0" * 32), epoch, 0, position, rows, 0, position, Numerics.EXACT, DType.F32)


@pytest.mark.parametrize(
    ("prompt_rows", "blocks"),
    [(1, 0), (CHUNK, 0), (CHUNK + 1, 1), (2 * CHUNK, 1), (3 * CHUNK + 5, 3)],
)
def test_the_last_row_of_a_prompt_is_always_computed(prompt_rows: int, blocks: int) -> None:
    assert taken_blocks_max(cache(prompt_rows)) == blocks


@pytest.mark.parametrize(
    ("frame", "blocks"),
    [
        (header(0, CHUNK), [0]),
        (header(CHUNK, CHUNK), [1]),
        (header(0, 2 * CHUNK + 7), [0, 1]),
        (header(2 * CHUNK, 7), []),
        (header(3, CHUNK), []),
        (header(0, CHUNK, Kind.REPLAY), []),
        (header(0, CHUNK, epoch=1), []),
        (header(2 * CHUNK + 7, 1, Kind.DECODE), []),
    ],
)
def test_whole_blocks_that_come_as_the_names_say_are_left_for_others(
    frame: Header, blocks: list[int]
) -> None:
    assert list(left_blocks(cache(2 * CHUNK + 7), frame)) == blocks
