"""Who is alive: what nodes say of themselves, what monitors say of them, and how they ask.

`Alive`, `Suspect` and `Left` are spread to all members and told directly to those whom they concern first. Whoever says
them is known from the way they came: the signature of a gossip item, or the handshake of a stream. That a member is dead
is never said: everybody concludes it from the suspicions of enough monitors that its subject does not refute in time.

A long-lived stream of kind PING carries pings and pongs between a monitor and its subject. `Inquire` asks a third node
to ping somebody, which it answers by `Reached` in both cases: its silence says something about itself.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from protocols.ids import PeerId
from protocols.membership import PeerIdText
from protocols.messages import Codec

INCARNATION_MAX: Final = (1 << 53) - 1

Incarnation = Annotated[int, msgspec.Meta(ge=0, le=INCARNATION_MAX)]
Boot = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
Nonce = Annotated[int, msgspec.Meta(ge=0, le=INCARNATION_MAX)]


class Ping(msgspec.Struct, frozen=True, array_like=True, tag="ping"):
    """Answered by `Pong` with the same nonce."""

    nonce: int


class Pong(msgspec.Struct, frozen=True, array_like=True, tag="pong"):
    nonce: int


class Alive(msgspec.Struct, frozen=True, array_like=True, tag="alive"):
    """The speaker lives. It alone raises its `incarnation`: with every start and every refutation; `boot` is drawn per start."""

    incarnation: Incarnation
    boot: Boot


class Suspect(msgspec.Struct, frozen=True, array_like=True, tag="suspect"):
    """The speaker can't reach `subject`, whose latest incarnation it has heard of is given; `refused`: nobody listens there."""

    subject: PeerIdText
    incarnation: Incarnation
    refused: bool = False


class Left(msgspec.Struct, frozen=True, array_like=True, tag="left"):
    """The speaker goes down on purpose."""

    incarnation: Incarnation


class Inquire(msgspec.Struct, frozen=True, array_like=True, tag="inquire"):
    """Ping `subject` for me."""

    subject: PeerIdText
    nonce: Nonce


class Reached(msgspec.Struct, frozen=True, array_like=True, tag="reached"):
    """Whether the subject of that inquiry has answered."""

    nonce: Nonce
    answered: bool


LivenessItem = Alive | Suspect | Left
WatchMessage = Ping | Pong | Alive | Suspect | Left | Inquire | Reached

ITEM_CODEC: Final[Codec[LivenessItem]] = Codec(LivenessItem)
WATCH_CODEC: Final[Codec[WatchMessage]] = Codec(WatchMessage)

OWN_KEY: Final = ""


def key_of(item: LivenessItem) -> str:
    """Under which a speaker's newer item replaces its older one: one about itself, and one about each that it suspects."""
    return str(PeerId(item.subject)) if isinstance(item, Suspect) else OWN_KEY
