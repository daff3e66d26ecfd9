"""The identifiers of the mesh, as distinct types so that one is never taken for another."""

from __future__ import annotations

from typing import NewType

PeerId = NewType("PeerId", str)
"""A libp2p peer id in base58: the multihash of the node's Ed25519 public key."""

NetworkId = NewType("NetworkId", str)
"""32 hex digits drawn when a network is created; carried by every invite, Hello and handshake prologue."""

SessionId = NewType("SessionId", str)
"""32 hex digits (16 random bytes), drawn by the entry node."""

ModelDigest = NewType("ModelDigest", str)
"""64 hex digits: the sha256 of a model's canonical manifest (protocols/manifest.py)."""

TensorDigest = NewType("TensorDigest", str)
"""64 hex digits: the sha256 of a tensor's raw little-endian bytes, or of a small file."""


def shortened(identifier: str, length: int = 8) -> str:
    """The form shown to people: the tail of a peer id (its head is the same for all), the head of a digest."""
    return identifier[-length:] if identifier.startswith(("12D3", "Qm")) else identifier[:length]
