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

from protocols.ids import NetworkId, PeerId
from simulations.network.network import VirtualNetwork
from simulations.network.wire import Links

NETWORK_ID: Final = NetworkId("5eed" * 8)


class VirtualWorld:
    """All links and listeners of one simulated internet. `latency_s` is one way, for every pair without its own."""

    def __init__(self, latency_s: float = 0.001) -> None:
        self.links = Links(latency_s)
        self.listeners: dict[str, VirtualNetwork] = {}
        self._made = 0
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

    def cut(self, one: PeerId, two: PeerId) -> None:
        """Nothing gets through between two peers, and neither is told."""
        self.links.cut(one, two)

    def silence(self, peer: PeerId) -> None:
        """Nothing gets to or from a peer, and nobody is told: a pulled cable, a machine that hangs."""
        self.links.silence(peer)

    def heal(self) -> None:
        """Undo every cut and silence; what waited arrives now."""
        self.links.heal()

    def kill(self, peer: PeerId) -> None:
        """The end of a process: its connections are reset at the others, and its addresses refuse."""
        for network in [network for network in self.listeners.values() if network.peer == peer]:
            network.die()

    def listen(self, network: VirtualNetwork) -> str:
        """A port of the world that nobody had before."""
        self._ports += 1
        address = (
            f"/ip4/10.0.{self._ports >> 8 & 255}.{self._ports & 255}/tcp/{20_000 + self._ports % 40_000}"
        )
        self.listeners[address] = network
        return address


def peer_id(number: int) -> PeerId:
    """An id of the usual length and look; the digit 0 is no letter of base58."""
    return PeerId("12D3KooW" + hashlib.sha256(f"peer {number}".encode()).hexdigest()[:44].replace("0", "z"))
