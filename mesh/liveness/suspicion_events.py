"""What the failure detector is told and what it asks for; `suspicion` is the machine between the two."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.liveness.detector import DetectorEvent
from mesh.liveness.probing import AskAfter, Ping
from protocols.ids import PeerId
from protocols.liveness import LivenessItem

# Inputs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidates:
    """From now on these are the members, without this node."""

    peers: frozenset[PeerId]


@dataclass(frozen=True, slots=True)
class Connected:
    """There is a control connection to a peer."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Lost:
    """There is none any more."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Refused:
    """Redialled, and nobody listens there."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Ponged:
    """A ping was answered."""

    peer: PeerId
    nonce: int


@dataclass(frozen=True, slots=True)
class Answered:
    """`via` has pinged `subject`."""

    via: PeerId
    subject: PeerId
    nonce: int
    reached: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """What a member says, whichever way it came."""

    author: PeerId
    item: LivenessItem


@dataclass(frozen=True, slots=True)
class Leave:
    """This node goes down on purpose."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """`deadline` has passed."""


Input = Candidates | Connected | Lost | Refused | Ponged | Answered | Heard | Leave | Alarm

# Outputs, in the order in which they are to be done, besides Ping, AskAfter and the events ----------------------------


@dataclass(frozen=True, slots=True)
class Cover:
    """Reserve an incarnation before it is said."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Publish:
    """Spread to all members."""

    item: LivenessItem


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The suspicion of this subject no longer stands."""

    subject: PeerId


@dataclass(frozen=True, slots=True)
class Tell:
    """Send to a connected member directly."""

    peer: PeerId
    items: tuple[LivenessItem, ...]


@dataclass(frozen=True, slots=True)
class Redial:
    """Connect again; answer with `Refused` if nobody listens there."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End all connections to the dead."""

    peer: PeerId


Output = Cover | Publish | Withdraw | Tell | Redial | Disconnect | Ping | AskAfter | DetectorEvent
