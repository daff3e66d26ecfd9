"""The network over real libp2p, on loopback."""

from __future__ import annotations

import itertools

import pytest

from mesh.admission.identity import identity_from_keys
from mesh.host.libp2p_network import Libp2pNetwork
from protocols.ids import NetworkId
from protocols.streams import Plane
from tests.contracts.network_contract import MakeNetwork, NetworkContract

NETWORK = NetworkId("ab" * 16)
LOOPBACK = dict.fromkeys(Plane, ("/ip4/127.0.0.1/tcp/0",))


class TestLibp2pNetwork(NetworkContract):
    @pytest.fixture
    def make_network(self) -> MakeNetwork:
        seeds = itertools.count(1)

        def make() -> Libp2pNetwork:
            number = next(seeds)
            identity = identity_from_keys(bytes([number]) * 32, bytes([100 + number]) * 32)
            return Libp2pNetwork(identity, NETWORK, LOOPBACK)

        return make
