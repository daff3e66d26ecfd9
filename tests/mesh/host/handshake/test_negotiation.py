"""Agreeing on a protocol, with bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mesh.host.handshake.negotiation import HEADER, PROPOSALS_MAX, Transcript, accept, encode, propose
from mesh.host.wire.framing import RawWire
from protocols.errors import Disconnected, Malformed, NoRoute
from tests.mesh.host.wires import MemoryWire, wire_pair

GREETING = encode(HEADER)


def speaks(name: str) -> Callable[[str], bool]:
    return lambda proposed: proposed == name


async def negotiate(proposed: str, spoken: str) -> tuple[Transcript, tuple[str, Transcript]]:
    dialler, acceptor = wire_pair()
    outcomes: list[Transcript] = []

    async def dial() -> None:
        outcomes.append(await propose(RawWire(dialler), proposed))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        accepted = await accept(RawWire(acceptor), speaks(spoken))
    return outcomes[0], accepted


async def test_both_sides_agree_and_have_seen_the_same_bytes() -> None:
    dialled, (name, accepted) = await negotiate("/a/1", "/a/1")
    assert name == "/a/1"
    assert dialled == accepted
    assert bytes(accepted.dialler) == bytes(accepted.acceptor) == GREETING + encode("/a/1")


async def test_a_protocol_that_is_not_spoken_is_refused() -> None:
    dialler, acceptor = wire_pair()

    async def answer() -> None:
        with pytest.raises(Disconnected):
            await accept(RawWire(acceptor), speaks("/b/1"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        with pytest.raises(NoRoute):
            await propose(RawWire(dialler), "/a/1")
        await dialler.close()


async def feed(data: bytes) -> RawWire:
    """A wire on which `data` arrives and then the end."""
    here, there = wire_pair()
    await there.write(data)
    await there.close()
    return RawWire(_Deaf(here))


class _Deaf(MemoryWire):
    """Reads from another wire and writes to nobody."""

    def __init__(self, source: MemoryWire) -> None:
        super().__init__(False)
        self.arriving = source.arriving

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_second_proposal_may_be_taken() -> None:
    wire = await feed(GREETING + encode("/a/1") + encode("ls") + encode("/b/1"))
    name, transcript = await accept(wire, speaks("/b/1"))
    assert name == "/b/1"
    assert bytes(transcript.acceptor) == GREETING + 2 * encode("na") + encode("/b/1")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", Disconnected),
        (GREETING[:-3], Disconnected),
        (GREETING, Disconnected),
        (b"\0", Malformed),
        (b"\x80\x80\x80\x80\x01", Malformed),  # a length of 256 MiB
        (b"\xff" * 200, Malformed),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 9, Malformed),
        (encode("/multistream/2.0.0"), Malformed),
        (GREETING + b"\x03\xff\xfe\n", Malformed),  # no text
        (GREETING + b"\x04/a/1", Malformed),  # no newline
        (GREETING + encode("/x") * (PROPOSALS_MAX + 1), Malformed),
    ],
)
async def test_what_breaks_the_rules_is_refused_early(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        await accept(await feed(data), speaks("/a/1"))


@pytest.mark.parametrize(
    "data",
    [b"\0", GREETING + encode("/other"), encode("no multistream"), GREETING + b"\x80", GREETING + GREETING],
)
async def test_a_dialler_takes_no_other_answer(data: bytes) -> None:
    with pytest.raises(Malformed):
        await propose(await feed(data), "/a/1")


@given(st.binary(max_size=400))
def test_whatever_arrives_ends_in_an_error_of_ours(data: bytes) -> None:
    async def run() -> None:
        for act in (lambda wire: accept(wire, speaks("/a/1")), lambda wire: propose(wire, "/a/1")):
            with pytest.raises((Malformed, Disconnected, NoRoute)):
                await act(await feed(data))

    trio.run(run)
