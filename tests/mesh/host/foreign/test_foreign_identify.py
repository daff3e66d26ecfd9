"""What a peer says it is, as bytes: what we write another's reader understands, and no bytes do harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.utils import decode_varint_with_size
from multiaddr import Multiaddr

from mesh.host.foreign import identify
from mesh.host.foreign.identify import Identification
from protocols import limits
from protocols.errors import Disconnected, Malformed, Oversized
from tests.mesh.host.wires import identity

ONE = identity(1)
HERE, THERE = "/ip4/192.0.2.1/tcp/4749", "/ip6/2001:db8::1/tcp/50000"


class Wire:
    """Bytes that have arrived, and then the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read_exactly(self, count: int) -> bytes:
        if count > len(self._data):
            raise Disconnected("the stream ended")
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    async def write(self, data: bytes) -> None:
        raise AssertionError("nothing is written to be told what a peer is")


def message(agent: str = "weft/1", protocols: tuple[str, ...] = ("/a/1", "/b/1")) -> bytes:
    return identify.encode(ONE.public_key, agent, protocols, [HERE], THERE)


async def test_what_is_written_is_what_is_read() -> None:
    assert await identify.read(Wire(message() + b"more")) == Identification("weft/1", ("/a/1", "/b/1"))


def test_another_reader_finds_every_field() -> None:
    sent = message(agent="w" * 100)
    length, size = decode_varint_with_size(sent)
    assert (size, length) == (2, len(sent) - 2)
    read = Identify.FromString(sent[size:])
    assert read.public_key == bytes.fromhex("08011220") + ONE.public_key
    assert [str(Multiaddr(each)) for each in read.listen_addrs] == [HERE]
    assert str(Multiaddr(read.observed_addr)) == THERE
    assert (read.protocol_version, read.agent_version) == ("ipfs/0.1.0", "w" * 100)
    assert list(read.protocols) == ["/a/1", "/b/1"]


def test_an_address_that_is_not_known_is_left_out() -> None:
    assert Identify.FromString(identify.encode(ONE.public_key, "", (), [], "")[1:]).observed_addr == b""


def test_what_people_are_shown_is_one_short_line() -> None:
    sent = Identify(agent_version="a\n\x1b[2J" + "b" * 999, protocols=["/x\r"] * 999).SerializeToString()
    found = identify.decode(sent)
    assert found.agent == ("a??[2J" + "b" * 999)[:128]
    assert found.protocols == ("/x?",) * 64


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (b"", Disconnected),
        (b"\x05ab", Disconnected),
        (b"\xff\xff\xff\xff\x01", Malformed),
        (b"\x80\x80\x80", Malformed),
        (b"\x81\x40" + bytes(9000), Oversized),
        (b"\x02\xff\xff", Malformed),
        (b"\x03\x32\x01\xff", Malformed),  # an agent that is no UTF-8
        (b"\x03\x1a\x01\xff", Malformed),  # a protocol that is none
    ],
)
async def test_a_message_that_is_none_is_refused(sent: bytes, fault: type[Exception]) -> None:
    with pytest.raises(fault):
        await identify.read(Wire(sent))


async def test_a_message_of_just_the_bound_is_read() -> None:
    padding = bytes(limits.IDENTIFY_BYTES_MAX - 3)
    body = Identify(public_key=padding).SerializeToString()[-limits.IDENTIFY_BYTES_MAX :]
    assert len(body) == limits.IDENTIFY_BYTES_MAX
    sent = bytes((0x80, 0x40)) + body
    assert await identify.read(Wire(sent)) == Identification("", ())


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_malformed(body: bytes) -> None:
    try:
        found = identify.decode(body)
    except Malformed:
        return
    assert found.agent.isprintable()


@given(
    st.text(st.characters(codec="utf-8"), max_size=200), st.text(st.characters(codec="utf-8"), max_size=200)
)
def test_any_text_is_shown_as_something_printable(agent: str, protocol: str) -> None:
    found = identify.decode(Identify(agent_version=agent, protocols=[protocol]).SerializeToString())
    assert (found.agent + found.protocols[0]).isprintable()
