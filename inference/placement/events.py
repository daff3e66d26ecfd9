"""What goes into a proposal and what comes out of it, and how it is told to people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference.placement.planning.plan import Assignment, ModelSize, Plan
from protocols.ids import ModelDigest, PeerId
from protocols.placement import Claim, Declined, Granted, LoadFailed, Offer, Release

Event = dict[str, Any]
"""For people and the control socket: `event` says what happened, the rest what it happened to."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be placed, and who has its weights."""

    model: ModelDigest
    size: ModelSize
    dtype: str
    numerics: str
    weights_from: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """A node answered an offer, then or later."""

    assignment: Assignment
    reply: Granted | Declined | Claim | LoadFailed


@dataclass(frozen=True, slots=True)
class Lost:
    """A node is out of reach."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Propose:
    assignment: Assignment
    offer: Offer


@dataclass(frozen=True, slots=True)
class LetGo:
    """Stop negotiating about it, and release it; before anything that is proposed in the same breath."""

    peer: PeerId
    release: Release


@dataclass(frozen=True, slots=True)
class Report:
    event: Event


@dataclass(frozen=True, slots=True)
class Placed:
    plan: Plan


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The sentence for the user."""

    message: str


Input = Answered | Lost
Output = Propose | LetGo | Report | Placed | GaveUp


def planned_event(plan: Plan) -> Event:
    """A plan as a user sees it."""
    ranges = [
        {
            "layers": str(planned.range),
            "primary": planned.primary,
            "standby": planned.standby,
            "standbys": [{"peer": each.peer, "kind": each.kind.value} for each in planned.standbys],
            "bytes": planned.bytes_needed,
            "step_ms": round(planned.step_ms, 3),
            "reason": planned.reason,
        }
        for planned in plan.ranges
    ]
    return {
        "event": "planned",
        "ranges": ranges,
        "token_ms": round(plan.token_ms, 3),
        "notes": list(plan.notes),
    }


def make_report(event: str, assignment: Assignment, **details: object) -> Report:
    return Report(
        {
            "event": event,
            "peer": assignment.peer,
            "layers": str(assignment.range),
            "standby": assignment.standby,
            **details,
        }
    )
