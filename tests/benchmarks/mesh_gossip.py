"""Gossip: messages that a node handles when twelve publish and all hear, and one stream pair without signatures.

Twelve processes on loopback with the real `Gossip` over the real network, publishing 256-byte words one by one; the gossip
bundles and signs them as it does for everybody. What is counted is what reaches a subscriber, of others' words alone. All of
them share this machine's cores, so the figure is as much about those as about the gossip.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final, Self

import msgspec

from protocols.errors import Unavailable
from tests.benchmarks.direct_pair import measure_direct
from tests.benchmarks.figures import Figure, figure_of
from tests.benchmarks.gossip_node import Order, Result
from tests.benchmarks.gossip_spread import measure_spread

NODES: Final = 12
MEET_S: Final = 5.0
WARM_S: Final = 3.0
FLOOD_S: Final = 6.0
FLOODS: Final = 3
PUBLISHED_PER_S: Final = (
    220.0  # by each node, so that up to 2,420 messages a second are there to be handled by each
)

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """Figures as they become known. Raises `WeftError` kinds if the processes don't come up."""
    say("messages on one stream pair")
    yield measure_direct(say)
    say(f"{NODES} processes that gossip")
    yield measure_signed(say)
    say("1,000 machines in one process, 1 % of the messages lost")
    yield measure_spread(say)


def measure_signed(say: Say, per_s: float = PUBLISHED_PER_S) -> Figure:
    """The median over several floods of the mean over the nodes."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(GossipProcess(number)) for number in range(1, NODES + 1)]
        contacts = tuple(node.hear().contact for node in nodes)
        met = ask_all(nodes, Order(MEET_S, contacts=tuple(each for each in contacts if each)))
        say(f"neighbours: {[result.neighbours for result in met]}")
        if not all(result.neighbours for result in met):
            raise Unavailable("the processes did not find each other: the machine is too busy, try again.")
        ask_all(nodes, Order(WARM_S, per_s))
        rates = []
        for _ in range(FLOODS):
            results = ask_all(nodes, Order(FLOOD_S, per_s))
            rates.append(sum(result.handled / result.elapsed_s for result in results) / NODES)
            cpu = sum(result.cpu_s / result.elapsed_s for result in results)
            say(f"{rates[-1]:.0f} messages/s and node with {cpu:.2f} cores")
        say(f"counted since the start, by one: {results[0].counts}")
    return figure_of("signed_msgs_s", rates, 0.5, "1/s", 0)


class GossipProcess:
    """A `gossip_node`; ends with the context."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.benchmarks.gossip_node", str(self._number)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def tell(self, order: Order) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()

    def hear(self) -> Result:
        """Raises `Unavailable` if the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(f"gossip process {self._number} has ended")
        return msgspec.json.decode(line, type=Result)


def ask_all(nodes: Sequence[GossipProcess], order: Order) -> list[Result]:
    """All of them at the same time."""
    for node in nodes:
        node.tell(order)
    return [node.hear() for node in nodes]
