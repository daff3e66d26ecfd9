"""Bytes and peers that do not belong: refused by every port, and the node goes on serving."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as XX_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as XxTransport
from multiaddr import Multiaddr

from mesh.host.quiet import silence_libp2p
from node.demo.local_mesh import LocalMesh, LocalNode
from tests.e2e.asking import GREEDY, ask

# A stock host that stops leaves sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

GARBAGE = {
    "zeros": bytes(4096),
    "http": b"GET / HTTP/1.1\r\nhost: weft\r\n\r\n",
    "a huge length": b"\xff\xff\xff\xff" * 64,
    "a negotiation without end": b"\x13/multistream/1.0.0\n" + b"\xff" * 20_000,
    "noise without a key": b"\x13/multistream/1.0.0\n\x13/weft/noise-xk/1\n" + b"\x00\x60" + bytes(96),
    "nothing": b"",
}


@pytest.fixture(autouse=True)
def _stock_hosts_leave_nothing_behind() -> Iterator[None]:
    silence_libp2p()
    yield
    gc.collect()


def plaintext_only(pair: Any) -> dict[TProtocol, Any]:
    return {TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(pair)}


def xx_only(pair: Any) -> dict[TProtocol, Any]:
    return {TProtocol(XX_PROTOCOL_ID): XxTransport(pair, create_new_x25519_key_pair().private_key)}


def ports_of(node: LocalNode) -> list[int]:
    addresses = node.status()["addresses"]
    return [int(addresses[plane][0].rpartition("/")[2]) for plane in ("control", "data")]


def assert_serves(mesh: LocalMesh, unbroken: Any, before: dict[str, Any]) -> None:
    after = mesh.first.status()
    assert (after["state"], after["pid"]) == ("ready", before["pid"])
    assert {each["peer"] for each in after["connections"]} == {each["peer"] for each in before["connections"]}
    assert ask(mesh.first, **GREEDY).tokens == unbroken["greedy"].tokens


def test_garbage_on_every_port_is_hung_up_on(mesh: LocalMesh, unbroken):
    before = mesh.first.status()
    host, _, port = before["http"].rpartition(":")
    with ExitStack() as open_sockets:
        visitors = [
            open_sockets.enter_context(visit(where, data))
            for data in GARBAGE.values()
            for where in ports_of(mesh.first)
        ]
        for visitor in visitors:
            assert_hung_up(visitor)
    with socket.create_connection((host, int(port)), timeout=20) as visitor:
        visitor.sendall(bytes(4096))
        assert b"400" in visitor.recv(4096)
    assert_serves(mesh, unbroken, before)


def visit(port: int, data: bytes) -> socket.socket:
    """A connection on which these bytes were sent."""
    visitor = socket.create_connection(("127.0.0.1", port), timeout=20)
    with suppress(ConnectionError):  # shown out before it had finished
        visitor.sendall(data)
    return visitor


def assert_hung_up(visitor: socket.socket) -> None:
    """Within the time-out of the socket; what is said before is no matter."""
    with suppress(ConnectionError):
        while visitor.recv(65_536):
            pass


def test_garbage_on_the_control_socket_is_answered(mesh: LocalMesh):
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.settimeout(20)
        visitor.connect(str(mesh.first.folders.socket))
        visitor.sendall(b"\x00\xff garbage\n")
        assert b"not a request" in visitor.recv(65_536)
        visitor.sendall(b'{"id": 1, "method": "status"}\n')
        assert b'"state":"ready"' in visitor.recv(65_536)


@pytest.mark.parametrize("offer", [plaintext_only, xx_only])
async def test_a_stock_dialler_without_xk_is_refused(
    mesh: LocalMesh, unbroken, offer: Callable[[Any], dict[TProtocol, Any]]
):
    before = mesh.first.status()
    key_pair = create_new_key_pair()
    visitor = new_host(key_pair=key_pair, sec_opt=offer(key_pair))
    swarm = visitor.get_network()
    assert isinstance(swarm, Swarm)
    swarm.retry_config.max_retries = 0
    async with visitor.run([]):
        for plane in ("control", "data"):
            address = Multiaddr(before["addresses"][plane][0])
            with trio.fail_after(20), pytest.raises(SwarmException):
                await swarm.dial_addr(address, ID.from_base58(before["peer"]))
    assert_serves(mesh, unbroken, before)
