"""What a node saw of a peer, as it tells it to others: one gossip item per subject, whose key is the subject's peer id.

Figures have decayed up to the moment of writing and go on to decay at the reader, from when it came there. Who says it
stands in the item's envelope, whose signature is checked before any of this is read.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Final

import msgspec

from protocols.ids import PeerId
from protocols.membership import PeerIdText
from protocols.messages import Codec


class Outcome(IntEnum):
    """How something that a peer was to do has ended."""

    SERVED = 0  # a stretch of steps, or a session's last, without trouble
    LATE = 1  # it stood still for longer than a step of its may take, and was waited for
    FAILED = 2  # a reset, a deadline passed, a grant that was not kept
    WRONG = 3  # a result that can't be true
    REFUSED = 4  # it took no session on a range that it claims to serve
    DISPUTED = 5  # one stage blamed another: it may be either, or the link between them
    AUDITED = 6  # a result that was computed again elsewhere and found right


class Facet(IntEnum):
    """What a peer is judged by; the order in which `Observations` has them."""

    CORRECTNESS = 0
    LIVENESS = 1
    SPEED = 2
    COOPERATION = 3


Observe = Callable[[PeerId, Outcome, str], None]
"""Take note of what a peer did; the text says in which session or for which model. Never waits, never raises."""


def unobserved(_peer: PeerId, _outcome: Outcome, _detail: str) -> None:
    """An `Observe` for where nobody keeps a record."""


GOOD_MAX: Final = 60.0  # past this, more of the same says nothing new
BAD_MAX: Final = 1e6

Decayed = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Evidence(msgspec.Struct, frozen=True, array_like=True):
    """Weighted, decayed counts of what speaks for a peer and what against it, in one facet."""

    good: Annotated[float, msgspec.Meta(ge=0, le=GOOD_MAX)] = 0.0
    bad: Annotated[float, msgspec.Meta(ge=0, le=BAD_MAX)] = 0.0

    @property
    def mass(self) -> float:
        return self.good + self.bad


NO_EVIDENCE: Final = Evidence()


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """Decayed numbers of each outcome, in the order of `Outcome`; for people, and for what a wrong result means."""

    served: Decayed = 0.0
    late: Decayed = 0.0
    failed: Decayed = 0.0
    wrong: Decayed = 0.0
    refused: Decayed = 0.0
    disputed: Decayed = 0.0
    audited: Decayed = 0.0


class Observations(msgspec.Struct, frozen=True, array_like=True):
    """`facets` in the order of `Facet`; a later minor may add some at the end. `made_ms` is wall-clock time."""

    subject: PeerIdText
    made_ms: Annotated[int, msgspec.Meta(ge=0)]
    tally: Tally
    facets: Annotated[tuple[Evidence, ...], msgspec.Meta(min_length=len(Facet), max_length=16)]


OBSERVATIONS_CODEC: Final[Codec[Observations]] = Codec(Observations)
