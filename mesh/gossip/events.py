"""What happens to the gossip of one node, and what it wants done."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.gossip import GossipMessage, Heard, Topic
from protocols.ids import PeerId


@dataclass(frozen=True, slots=True)
class Candidates:
    """Members believed alive."""

    peers: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream that was asked for is there."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Lost:
    """A link has ended, or could not be opened."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Misbehaved:
    """A link has ended because the peer broke the rules on it."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Received:
    """From a peer there is a stream with."""

    peer: PeerId
    message: GossipMessage


@dataclass(frozen=True, slots=True)
class Publish:
    """This node's word; an empty body withdraws it."""

    topic: Topic
    key: str
    body: bytes
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """`deadline` has passed."""


@dataclass(frozen=True, slots=True)
class Open:
    """Open a stream to a peer."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Close:
    """End the stream with a peer, behind what was sent on it; that is not reported as lost."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Send:
    """One message to several neighbours, so that it is encoded once."""

    peers: tuple[PeerId, ...]
    message: GossipMessage


@dataclass(frozen=True, slots=True)
class Deliver:
    """News, own words included."""

    heard: Heard


Event = Candidates | Opened | Lost | Misbehaved | Received | Publish | Alarm
Output = Open | Close | Send | Deliver
