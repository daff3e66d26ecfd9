"""The wire beside py-libp2p's own: Noise XK with our framing and muxer, and Noise XX with the stock ones.

For each stack one process serves and this one asks, over one long-lived stream on loopback. The stacks take turns within
each round, so that whatever else the machine does meets both alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.noise.transport import PROTOCOL_ID as XX_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as XxTransport
from multiaddr import Multiaddr

from mesh.admission.identity import identity_from_keys
from mesh.host.libp2p_network import Libp2pNetwork
from mesh.host.quiet import silence_libp2p
from protocols import streams
from protocols.errors import Unavailable
from protocols.ids import NetworkId, PeerId
from protocols.membership import Contact
from protocols.seams import Stream
from protocols.streams import Plane
from tests.benchmarks.figures import Figure, percentile

ROUNDS: Final = 15
ECHOES: Final = 40  # of each size, stack and round
SMALL_BYTES: Final = 8 << 10
LARGE_BYTES: Final = 64 << 10
BULK_BYTES: Final = 16 << 20
READ_BYTES: Final = 1 << 20
START_S: Final = 30.0
MEASURE_S: Final = 300.0

NETWORK: Final = NetworkId("5e" * 16)
LOOPBACK: Final = "/ip4/127.0.0.1/tcp/0"
STOCK_PROTOCOL: Final = TProtocol("/bench/1")
ECHO, SINK = b"E", b"S"

Say = Callable[[str], None]


class Wire(Protocol):
    async def send(self, data: bytes) -> None: ...
    async def receive(self, max_bytes: int) -> bytes: ...


def measure(say: Say) -> Iterator[Figure]:
    """Raises `Unavailable` if one of the stacks does not come up."""
    silence_libp2p()
    taken = trio.run(_measure, say)
    ours, stock = taken["ours"], taken["stock"]
    yield _ratio("stack_rtt_ratio", ours.large_s, stock.large_s)
    yield _ratio("stack_throughput_ratio", ours.bulk_s, stock.bulk_s)


def _ratio(name: str, ours_s: list[float], stock_s: list[float]) -> Figure:
    """How many times as long the stock stack takes; both are medians of what each round had as its median."""
    ratios = [theirs / own for own, theirs in zip(ours_s, stock_s, strict=True)]
    spread = {
        "min": round(min(ratios), 2),
        "max": round(max(ratios), 2),
        "ours_ms": round(percentile(ours_s, 0.5) * 1000, 3),
        "stock_ms": round(percentile(stock_s, 0.5) * 1000, 3),
    }
    return Figure(
        name, round(percentile(stock_s, 0.5) / percentile(ours_s, 0.5), 2), "ratio", len(ratios), spread
    )


@dataclass(slots=True)
class Taken:
    """Medians of the rounds."""

    small_s: list[float] = field(default_factory=list)
    large_s: list[float] = field(default_factory=list)
    bulk_s: list[float] = field(default_factory=list)


async def _measure(say: Say) -> dict[str, Taken]:
    taken = {"ours": Taken(), "stock": Taken()}
    with trio.fail_after(MEASURE_S):
        async with _served("ours", _dial_ours) as ours, _served("stock", _dial_stock) as stock:
            wires = {"ours": ours, "stock": stock}
            for number in range(-1, ROUNDS):  # the first one warms up
                order = ("ours", "stock") if number % 2 else ("stock", "ours")
                for name in order:
                    await _round(wires[name], taken[name] if number >= 0 else Taken())
    for name, each in taken.items():
        small, large, bulk = (percentile(values, 0.5) for values in (each.small_s, each.large_s, each.bulk_s))
        say(
            f"{name}: 8 KiB {small * 1e3:.3f} ms, 64 KiB {large * 1e3:.3f} ms, {BULK_BYTES / bulk / 1e6:.0f} MB/s"
        )
    return taken


async def _round(wire: Wire, taken: Taken) -> None:
    taken.small_s.append(percentile([await _echo(wire, SMALL_BYTES) for _ in range(ECHOES)], 0.5))
    taken.large_s.append(percentile([await _echo(wire, LARGE_BYTES) for _ in range(ECHOES)], 0.5))
    message = SINK + BULK_BYTES.to_bytes(4, "big") + bytes(BULK_BYTES)
    began_s = time.perf_counter()
    await wire.send(message)
    await _skip(wire, 1)
    taken.bulk_s.append(time.perf_counter() - began_s)


async def _echo(wire: Wire, size_bytes: int) -> float:
    message = ECHO + size_bytes.to_bytes(4, "big") + bytes(size_bytes)
    began_s = time.perf_counter()
    await wire.send(message)
    await _skip(wire, size_bytes)
    return time.perf_counter() - began_s


async def _skip(wire: Wire, count: int) -> None:
    while count:
        data = await wire.receive(min(count, READ_BYTES))
        if not data:
            raise Unavailable("the other process has gone: try again.")
        count -= len(data)


async def _answer(wire: Wire) -> None:
    pending = bytearray()
    while True:
        while len(pending) < 5:
            data = await wire.receive(READ_BYTES)
            if not data:
                return
            pending += data
        kind, size_bytes = bytes(pending[:1]), int.from_bytes(pending[1:5], "big")
        if kind == SINK:
            await _skip(wire, size_bytes - (len(pending) - 5))
            await wire.send(b".")
        else:
            while len(pending) < size_bytes + 5:
                pending += await wire.receive(READ_BYTES)
            await wire.send(bytes(pending[5:]))
        pending.clear()


@asynccontextmanager
async def _served(name: str, dial: Callable[[dict[str, Any]], Any]) -> AsyncIterator[Wire]:
    """A stream to a process of that stack, which ends with the context."""
    process = subprocess.Popen([sys.executable, "-m", __spec__.name, name], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        with trio.fail_after(START_S):
            line = await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
        if not line:
            raise Unavailable(f"the process of the stack {name!r} does not come up: try again.")
        async with dial(json.loads(line)) as wire:
            yield wire
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


# Ours ------------------------------------------------------------------------------------------------------------------


class _OpenDoor:
    def show(self) -> bytes:
        return b""

    def judge(self, peer: PeerId, shown: bytes) -> bool:
        return True


def _network(number: int) -> Libp2pNetwork:
    identity = identity_from_keys(bytes([number]) * 32, bytes([100 + number]) * 32)
    network = Libp2pNetwork(identity, NETWORK, dict.fromkeys(Plane, (LOOPBACK,)))
    network.guard(_OpenDoor())
    return network


async def _serve_ours() -> None:
    network = _network(1)

    async def answer(stream: Stream) -> None:
        await _answer(stream)

    network.handle(streams.DECODE, answer)
    async with network.run():
        addresses = network.addresses(Plane.DATA)
        _announce(peer=network.peer, static=network.static.hex(), addresses=addresses)
        await trio.sleep_forever()


@asynccontextmanager
async def _dial_ours(there: dict[str, Any]) -> AsyncIterator[Wire]:
    network = _network(2)
    async with network.run():
        peer = PeerId(there["peer"])
        network.learn(Contact(peer, bytes.fromhex(there["static"]), (), tuple(there["addresses"])))
        yield await network.open_stream(peer, streams.DECODE)


# The stock one ---------------------------------------------------------------------------------------------------------


class _StockWire:
    def __init__(self, stream: INetStream) -> None:
        self._stream = stream

    async def send(self, data: bytes) -> None:
        await self._stream.write(data)

    async def receive(self, max_bytes: int) -> bytes:
        return await self._stream.read(max_bytes)


def _host(number: int) -> IHost:
    key_pair = create_new_key_pair(bytes([number]) * 32)
    noise = XxTransport(key_pair, create_new_x25519_key_pair().private_key)
    quiet = ConnectionConfig(min_connections=0, low_watermark=0)
    return new_host(key_pair=key_pair, sec_opt={TProtocol(XX_PROTOCOL_ID): noise}, connection_config=quiet)


async def _serve_stock() -> None:
    host = _host(3)

    async def answer(stream: INetStream) -> None:
        await _answer(_StockWire(stream))

    host.set_stream_handler(STOCK_PROTOCOL, answer)
    async with host.run([Multiaddr(LOOPBACK)]):
        addresses = [str(address).split("/p2p/")[0] for address in host.get_addrs()]
        _announce(peer=host.get_id().to_base58(), addresses=addresses)
        await trio.sleep_forever()


@asynccontextmanager
async def _dial_stock(there: dict[str, Any]) -> AsyncIterator[Wire]:
    host = _host(4)
    async with host.run([]):
        peer = ID.from_base58(there["peer"])
        await host.connect(PeerInfo(peer, [Multiaddr(address) for address in there["addresses"]]))
        yield _StockWire(await host.new_stream(peer, [STOCK_PROTOCOL]))


def _announce(**where: Any) -> None:
    sys.stdout.write(json.dumps(where) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    silence_libp2p()
    trio.run({"ours": _serve_ours, "stock": _serve_stock}[sys.argv[1]])
