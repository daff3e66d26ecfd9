"""Messages of 256 bytes on one stream pair between two processes, sent and received as users of a `Channel` do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Final

import msgspec
import trio

from mesh.admission.identity import identity_from_keys
from mesh.host.libp2p_network import Libp2pNetwork
from mesh.rpc import Channel, accepting, deadline, dial
from protocols import streams
from protocols.errors import Unavailable
from protocols.membership import Contact
from protocols.messages import Codec
from tests.benchmarks.figures import Figure, figure_of, percentile
from tests.benchmarks.gossip_node import LOOPBACK, NETWORK
from tests.contracts.talk import ListedDoor, contact_of

BODY_BYTES: Final = 256
BATCH: Final = 32  # messages that are there to be sent at once
MESSAGES: Final = 20_000
RUNS: Final = 5
RUN_S: Final = 60.0


class Note(msgspec.Struct, frozen=True, array_like=True, tag="note"):
    body: Annotated[bytes, msgspec.Meta(max_length=BODY_BYTES)]


class Count(msgspec.Struct, frozen=True, array_like=True, tag="count"):
    """Says how many there were since the last of these."""

    notes: int


Message = Note | Count
CODEC: Final[Codec[Message]] = Codec(Message)


def measure_direct(say: Callable[[str], None]) -> Figure:
    """The median of several runs; the other side answers when it has decoded the last message."""
    rates, single = trio.run(_measure)
    say(f"{[round(rate) for rate in rates]} messages/s in batches, {round(single)} one by one")
    figure = figure_of("direct_msgs_s", rates, 0.5, "1/s", 0)
    return replace(figure, spread={**figure.spread, "one_by_one": round(single)})


def _network(number: int) -> Libp2pNetwork:
    identity = identity_from_keys(bytes([number]) * 32, bytes([100 + number]) * 32)
    return Libp2pNetwork(identity, NETWORK, LOOPBACK)


async def _measure() -> tuple[list[float], float]:
    """In batches, and the median one by one."""
    network = _network(1)
    async with network.run():
        own = msgspec.json.encode(contact_of(network)).decode()
        command = [sys.executable, "-m", "tests.benchmarks.direct_pair", own]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                line = await trio.to_thread.run_sync(process.stdout.readline)
                if not line:
                    raise Unavailable("the other process has ended")
                other = msgspec.json.decode(line, type=Contact)
                network.learn(other)
                network.guard(ListedDoor([other.peer]))
                async with dial(network, other.peer, streams.SESSION, CODEC, NETWORK) as channel:
                    await _run(channel, BATCH)  # the window of the stream grows
                    batched = [await _run(channel, BATCH) for _ in range(RUNS)]
                    return batched, percentile([await _run(channel, 1) for _ in range(RUNS)], 0.5)
            finally:
                process.kill()


async def _run(channel: Channel[Message], batch: int) -> float:
    note = Note(bytes(range(256)))
    with deadline(RUN_S, "the messages did not arrive"):
        began_s = time.monotonic()
        for _ in range(MESSAGES // batch):
            await (channel.send_many([note] * batch) if batch > 1 else channel.send(note))
        await channel.send(Count(0))
        answer = await channel.receive()
    assert answer == Count(MESSAGES)
    return MESSAGES / (time.monotonic() - began_s)


async def _answer(channel: Channel[Message]) -> None:
    notes = 0
    while True:
        for message in await channel.receive_many():
            if isinstance(message, Note):
                notes += 1
            else:
                await channel.send(Count(notes))
                notes = 0


async def _serve(contact: Contact) -> None:
    network = _network(2)
    async with network.run():
        network.handle(streams.SESSION, accepting(streams.SESSION, CODEC, NETWORK, _answer))
        network.learn(contact)
        network.guard(ListedDoor([contact.peer]))
        print(msgspec.json.encode(contact_of(network)).decode(), flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_serve, msgspec.json.decode(sys.argv[1], type=Contact))
