"""Made-up contacts for tests of the machines."""

from __future__ import annotations

from protocols.ids import PeerId
from protocols.membership import Contact

ONE, TWO, THREE, FOUR = (PeerId(f"12D3KooW{letter * 44}") for letter in "abcd")


def contact(peer: PeerId, sequence: int = 1, port: int = 4001) -> Contact:
    address = f"/ip4/10.0.0.{peer[-1].encode()[0]}/tcp/{port}"
    return Contact(peer, peer[-1].encode() * 32, (address,), (address + "9",), sequence)
