"""Networks in memory, on trio's clock: `protocols.seams.Network` without sockets, for tests and simulated meshes.

    world = VirtualWorld(latency_s=0.005)
    one, two = world.network(), world.network()
    async with one.run(), two.run():
        ...
        world.silence(two.peer)

Under `MockClock(autojump_threshold=0)` an hour of silence takes no time. The rules for members and strangers, the peer
events and the errors are those of the real network, held to them by the same contract tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import trio

from protocols.ids import NetworkId, PeerId
from simulations.network.delivery import TICKS_PER_S, Delivery
from simulations.network.links import Link, Links
from simulations.network.network import VirtualNetwork
from simulations.network.wire import Hear

NETWORK_ID: Final = NetworkId("5eed" * 8)


class VirtualWorld:
    """All links and listeners of one simulated internet. `latency_s` is one way, for every pair without its own.

    `seed` decides all jitter and losses. `trace` hears, as bytes, of everything that a wire brings and of every fault.
    """

    def __init__(self, latency_s: float = 0.001, *, seed: int = 0, trace: Hear | None = None) -> None:
        self.links = Links(Link(latency_s), seed, Delivery())
        self.listeners: dict[str, VirtualNetwork] = {}
        self.trace = trace
        self._made = 0
        self.keeps_addresses = (
            False  # True: a peer listens where it did before, as on the ports of a configuration
        )
        self._homes: dict[PeerId, list[str]] = {}
        self._ports = 0

    def network(
        self,
        peer: PeerId | None = None,
        network_id: NetworkId = NETWORK_ID,
        statics: Callable[[], tuple[bytes, ...]] | None = None,
    ) -> VirtualNetwork:
        """A network that is not running yet, of a new peer or, after a restart, of a known one.

        `statics` gives the public Noise keys that are good, the newest first; by default there is one for ever.
        """
        self._made += 1
        return VirtualNetwork(self, peer or peer_id(self._made), network_id, statics)

    def listen(self, network: VirtualNetwork) -> str:
        """A port of the world that nobody else had before. The machine is up, whatever it was."""
        homes = self._homes.setdefault(network.peer, []) if self.keeps_addresses else []
        address = next((home for home in homes if home not in self.listeners), None)
        if address is None:
            self._ports += 1
            address = (
                f"/ip4/10.0.{self._ports >> 8 & 255}.{self._ports & 255}/tcp/{20_000 + self._ports % 40_000}"
            )
            homes.append(address)
        self.listeners[address] = network
        self.links.appear(network.peer)
        return address

    def _running(self, peer: PeerId) -> list[VirtualNetwork]:
        return [*dict.fromkeys(each for each in self.listeners.values() if each.peer == peer)]

    def _tell(self, what: str, *peers: PeerId) -> None:
        if self.trace is not None:
            now_ms = round(trio.current_time() * TICKS_PER_S)
            self.trace(" ".join((str(now_ms), what, *(peer[-8:] for peer in peers))).encode())

    # Faults of links -----------------------------------------------------------------------------------------------------

    def cut(self, one: PeerId, two: PeerId) -> None:
        """Nothing gets through between two peers, and neither is told."""
        self.cut_one_way(one, two)
        self.cut_one_way(two, one)

    def cut_one_way(self, source: PeerId, target: PeerId) -> None:
        """Nothing gets from `source` to `target`; the other direction is as it was."""
        self._tell("cut", source, target)
        self.links.cut(source, target)

    def mend(self, one: PeerId, two: PeerId) -> None:
        """Undo the cuts between two peers; what waited arrives within a retransmission timeout."""
        self._tell("mend", one, two)
        self.links.mend(one, two)

    def silence(self, peer: PeerId) -> None:
        """Nothing gets to or from a peer, and nobody is told: a pulled cable, a machine that hangs."""
        self._tell("silence", peer)
        self.links.silence(peer)

    def unsilence(self, peer: PeerId) -> None:
        """Undo `silence`; what waited arrives within a retransmission timeout."""
        self._tell("unsilence", peer)
        self.links.unsilence(peer)

    def heal(self) -> None:
        """Undo every cut and silence."""
        self._tell("heal")
        self.links.heal()

    def reset(self, one: PeerId, two: PeerId) -> None:
        """Every connection of the two ends at both ends now, as when a firewall forgets them; they may connect again."""
        self._tell("reset", one, two)
        for source, target in ((one, two), (two, one)):
            for network in self._running(source):
                for end in network.ends_to(target):
                    end.end()
                    end.twin.end()

    # Faults of machines --------------------------------------------------------------------------------------------------

    def kill(self, peer: PeerId) -> None:
        """The end of a process: its connections are reset at the others, and its addresses refuse."""
        self._tell("kill", peer)
        for network in self._running(peer):
            network.die()

    def vanish(self, peer: PeerId) -> None:
        """The power fails: nobody is told, and nobody answers. Once a network of that peer runs again, whatever still comes
        for an old connection is answered with a reset, as TCP does."""
        self._tell("vanish", peer)
        for network in self._running(peer):
            network.vanish()
        self.links.vanish(peer)

    def pause(self, peer: PeerId) -> None:
        """SIGSTOP: the kernel goes on and takes bytes into the windows of streams that exist, but nobody answers a handshake
        or a new stream. To stop the tasks of the process is the caller's part."""
        self._tell("pause", peer)
        for network in self._running(peer):
            network.pause()

    def resume(self, peer: PeerId) -> None:
        """What waited for the process comes up at once."""
        self._tell("resume", peer)
        for network in self._running(peer):
            network.resume()


def peer_id(number: int) -> PeerId:
    """An id of the usual length and look; the digit 0 is no letter of base58."""
    return PeerId("12D3KooW" + hashlib.sha256(f"peer {number}".encode()).hexdigest()[:44].replace("0", "z"))
