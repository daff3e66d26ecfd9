"""One process of the gossip benchmark: a network, a gossip on it, and orders line by line on stdin.

It says how to reach it, is told of the others ("meet"), and then publishes for a while and tells what it has handled
("flood"), or does nothing and tells what that cost ("idle").
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from typing import Final

import msgspec
import structlog
import trio

from mesh.admission.identity import identity_from_keys
from mesh.gossip.driver import Gossip
from mesh.host.libp2p_network import Libp2pNetwork
from protocols.gossip import Topic
from protocols.ids import NetworkId
from protocols.membership import Contact
from protocols.streams import Plane
from tests.contracts.talk import ListedDoor, contact_of

NETWORK: Final = NetworkId("bead" * 8)
LOOPBACK: Final = dict.fromkeys(Plane, ("/ip4/127.0.0.1/tcp/0",))
BODY_BYTES: Final = 256
KEYS: Final = 64
TICK_S: Final = 0.01


class _Clock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class _Randomness:
    def token_bytes(self, count: int) -> bytes:
        return os.urandom(count)


class Order(msgspec.Struct):
    """A line on stdin."""

    for_s: float = 0.0
    per_s: float = 0.0
    contacts: tuple[Contact, ...] = ()


class Result(msgspec.Struct):
    """A line on stdout, for every order one."""

    contact: Contact | None = None
    handled: int = 0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    neighbours: int = 0
    counts: dict[str, int] = {}


def say(result: Result) -> None:
    print(msgspec.json.encode(result).decode(), flush=True)


async def main(number: int) -> None:
    identity = identity_from_keys(bytes([number]) * 32, bytes([100 + number]) * 32)
    network = Libp2pNetwork(identity, NETWORK, LOOPBACK)
    async with network.run(), trio.open_nursery() as nursery:
        say(Result(contact_of(network)))
        gossip = Gossip(network, NETWORK, _Clock(), _Randomness(), identity, lambda _: True, {})
        await nursery.start(gossip.run)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            order = msgspec.json.decode(line, type=Order)
            say(await obey(order, network, gossip))
        nursery.cancel_scope.cancel()


async def obey(order: Order, network: Libp2pNetwork, gossip: Gossip) -> Result:
    if order.contacts:
        for contact in order.contacts:
            network.learn(contact)
        network.guard(ListedDoor(contact.peer for contact in order.contacts))
        gossip.set_candidates([contact.peer for contact in order.contacts])
        await trio.sleep(order.for_s)
        return Result(neighbours=len(gossip.neighbours))
    began_s, began_cpu_s = time.monotonic(), cpu_s()
    handled = await flood(gossip, network, order) if order.per_s else await idle(order)
    return Result(
        handled=handled,
        elapsed_s=time.monotonic() - began_s,
        cpu_s=cpu_s() - began_cpu_s,
        neighbours=len(gossip.neighbours),
        counts=dict(gossip.counts),
    )


async def idle(order: Order) -> int:
    await trio.sleep(order.for_s)
    return 0


async def flood(gossip: Gossip, network: Libp2pNetwork, order: Order) -> int:
    """How many messages of others were handled while this node published `per_s` messages a second itself."""
    handled = 0
    body = os.urandom(BODY_BYTES)
    with gossip.subscribe(Topic.HEALTH) as news, trio.move_on_after(order.for_s):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish, gossip, body, order.per_s)
            async for heard in news:
                handled += heard.author != network.peer and len(heard.body) == BODY_BYTES
    return handled


async def publish(gossip: Gossip, body: bytes, per_s: float) -> None:
    began_s, said = trio.current_time(), 0
    while True:
        due = int((trio.current_time() - began_s) * per_s)
        for number in range(said, due):
            gossip.publish(Topic.HEALTH, str(number % KEYS), body, 60)
        said = due
        await trio.sleep(TICK_S)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    trio.run(main, int(sys.argv[1]))
