"""What goes into the machine of a session and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from protocols.errors import Malformed, WeftError
from protocols.ids import ModelDigest, PeerId, SessionId
from protocols.logprobs import Logprobs, decode_logprobs
from protocols.observations import Outcome
from protocols.placement import LayerRange
from protocols.session import OpenStage, Sampled, Sampling, SessionMessage
from protocols.tensor import Kind


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be generated. `rows_max` is the prompt's rows and the most tokens to generate, together.

    No token has an id of `vocabulary` or more. `shares_prefix`: rows of the prompt are taken over from earlier sessions of this
    entry, and left for later ones.
    """

    session: SessionId
    model: ModelDigest
    prompt: tuple[int, ...]
    rows_max: int
    sampling: Sampling
    stop_ids: tuple[int, ...] = ()
    vocabulary: int = 1 << 32
    shares_prefix: bool = True

    def logprobs_of(self, sampled: Sampled) -> Logprobs | None:
        """If they were asked for. Raises `Malformed` for what can't have been sampled."""
        if sampled.token >= self.vocabulary:
            raise Malformed(f"token {sampled.token} of {self.vocabulary}")
        count = self.sampling.logprobs
        return None if count is None else decode_logprobs(sampled.logprobs, count, self.vocabulary)


@dataclass(frozen=True, slots=True)
class Hop:
    """One stage of a route: who computes which layers."""

    peer: PeerId
    range: LayerRange


Replace = Callable[[LayerRange, frozenset[PeerId]], PeerId | None]
"""Another holder of exactly that range, none of the excluded; None if there is none."""
IsGone = Callable[[PeerId], bool]
"""Whether the mesh has called a peer dead, or it has said that it leaves."""


def nobody_is_gone(_peer: PeerId) -> bool:
    return False


class Phase(Enum):
    OPENING = "opening"
    RUNNING = "running"
    REBUILDING = "rebuilding"
    REROUTING = "rerouting"
    DONE = "done"


# Inputs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Open the route."""


@dataclass(frozen=True, slots=True)
class Told:
    """The stage at `index`, opened as the `incarnation`-th of its place, sent this."""

    index: int
    incarnation: int
    message: SessionMessage


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream to that stage ended, or rows could not be sent to it."""

    index: int
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The entry found the end itself (a stop string), or the client cancelled."""

    reason: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """The deadline of the last `WakeAt` has passed, or may have."""


# Outputs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Dial `peer` and open this stage, in place of any earlier one at that index."""

    index: int
    incarnation: int
    peer: PeerId
    message: OpenStage

    @property
    def minor(self) -> int:
        """The protocol minor that a stage must speak to understand all of it."""
        return self.message.sampling.minor if self.message.sampling is not None else 0


@dataclass(frozen=True, slots=True)
class Send:
    index: int
    message: SessionMessage


@dataclass(frozen=True, slots=True)
class Feed:
    """Send these tokens' rows to the first stage, in place of anything still being fed."""

    kind: Kind
    epoch: int
    position: int
    tokens: tuple[int, ...]
    sample: bool


@dataclass(frozen=True, slots=True)
class Emit:
    """`token` now stands in the log at `position`. `logprobs` if the order's sampling asks for them."""

    position: int
    token: int
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """The route is whole again; the pause ends with the next `Emit`."""

    epoch: int
    index: int
    range: LayerRange
    lost: PeerId
    rebuilt_on: PeerId
    replayed_rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class Blame:
    """What the entry saw of the peer that fills a place; the session goes on to act on it."""

    peer: PeerId
    range: LayerRange
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """`reason` is 'stop', 'length' or what `Ended` said."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fail:
    error: WeftError


@dataclass(frozen=True, slots=True)
class WakeAt:
    deadline: float


Input = Start | Told | Lost | Ended | Alarm
Output = Open | Send | Feed | Emit | Recovered | Blame | Finish | Fail | WakeAt
