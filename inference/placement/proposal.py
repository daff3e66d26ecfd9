"""The proposer's side of one placement, as a machine without I/O.

    begin --> OFFERING --all answered--> LOADING --all claimed--> PLACED
                 ^                          |
                 '------ plan again --------'  a node declined, failed or was lost: term + 1
                              |
                              '--> GAVE UP     no room left, too many rounds, or another proposer's higher plan

The rule of the file: answers are waited for before the next plan is made, so that each round knows what every node said. What
the new plan keeps of the old is not offered again; what it drops is released, unless a node held it before this proposal. A
declined or failed standby caps its node at what it has granted; a node that lost or could not load its own range is left out.

Of proposers that meet at a node the one with the highest peer id goes on, under a higher term if need be, and the others give
up: so two at once end in one plan, whatever reached whom first. A plan that was complete before another began has no say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import assert_never

import msgspec

from inference.placement.events import (
    Answered,
    GaveUp,
    Input,
    LetGo,
    Lost,
    Output,
    Placed,
    Propose,
    Report,
    Subject,
    make_report,
    planned_event,
)
from inference.placement.planning.plan import Assignment, Goal, Plan
from inference.placement.replacing import PlainOutlook, Replacing
from protocols import limits
from protocols.errors import UserError
from protocols.ids import PeerId, shortened
from protocols.placement import (
    Capacity,
    Claim,
    Declined,
    Granted,
    LayerRange,
    LoadFailed,
    Offer,
    Release,
    StandbyKind,
)


class _State(Enum):
    OFFERED = "offered"
    GRANTED = "granted"
    CLAIMED = "claimed"


@dataclass(slots=True)
class Proposal:
    """`before` are the claims of this model that stood when it began: kept if the placement fails, released if it succeeds."""

    subject: Subject
    proposer: PeerId
    capacities: dict[PeerId, Capacity]
    term: int
    before: tuple[Claim, ...] = ()
    replacing: Replacing | None = None
    rounds: int = 0
    is_over: bool = False
    plan: Plan | None = None
    _standing: dict[Assignment, _State] = field(default_factory=dict)
    _plans_again: bool = False
    _declined: dict[PeerId, int] = field(default_factory=dict)
    _troubles: list[str] = field(default_factory=list)
    _terms: dict[Assignment, int] = field(default_factory=dict)  # under which each was offered

    def __post_init__(self) -> None:
        if self.replacing is None:
            self.replacing = Replacing(self.subject.size, self.proposer, Goal(), PlainOutlook())

    def begin(self) -> list[Output]:
        """The first plan and its offers. Ends in `GaveUp` if there is no room."""
        return self._propose()

    def handle(self, event: Input) -> list[Output]:
        if self.is_over:
            return []
        match event:
            case Answered(assignment, reply):
                if assignment not in self._standing:
                    return []  # let go of meanwhile
                outputs = self._answered(assignment, reply)
            case Lost(peer, reason):
                outputs = self._lose(peer, reason)
            case _:
                assert_never(event)
        return outputs if self.is_over else [*outputs, *self._settle()]

    # Answers ---------------------------------------------------------------------------------------------------------

    def _answered(
        self, assignment: Assignment, reply: Granted | Declined | Claim | LoadFailed
    ) -> list[Output]:
        match reply:
            case Granted():
                self._standing[assignment] = _State.GRANTED
                return [make_report("granted", assignment)]
            case Claim():
                return self._claimed(assignment, reply)
            case Declined():
                return self._decline(assignment, reply)
            case LoadFailed(reason):
                return self._fail(assignment, reason)
            case _:
                assert_never(reply)

    def _claimed(self, assignment: Assignment, claim: Claim) -> list[Output]:
        if (claim.holder, claim.model, claim.range, claim.kind) != (
            assignment.peer,
            self.subject.model,
            assignment.range,
            assignment.kind,
        ):
            return self._fail(assignment, "it claimed something else")
        self._standing[assignment] = _State.CLAIMED
        return [
            make_report("claimed", assignment, kind=claim.kind.value, numerics_class=claim.numerics_class)
        ]

    def _decline(self, assignment: Assignment, reply: Declined) -> list[Output]:
        was_granted = self._standing.pop(assignment) is not _State.OFFERED
        report = make_report("declined", assignment, reason=reply.reason)
        rival = reply.rival if reply.rival != self.proposer else None
        if rival is not None and rival > self.proposer:
            why = f"{shortened(rival)} is placing it as well and goes on: wait until that has ended."
            return [report, *self._give_up(why)]
        if was_granted and rival is None:
            return [report, *self._give_up(f"a newer plan has taken its place ({reply.reason}).")]
        self._plans_again = True
        if rival is not None or reply.term >= self.term:
            self.term = max(reply.term, self.term)  # the next round's is higher
            return [report]
        self._note(assignment.peer, assignment.range, reply.reason)
        self._cap(assignment.peer, reply.layers_max)
        return [report]

    def _fail(self, assignment: Assignment, reason: str) -> list[Output]:
        del self._standing[assignment]
        self._plans_again = True
        self._note(assignment.peer, assignment.range, reason)
        if assignment.standby:
            self._cap(assignment.peer, 0)
        else:
            self._leave_out(assignment.peer)
        return [make_report("failed", assignment, reason=reason)]

    def _lose(self, peer: PeerId, reason: str) -> list[Output]:
        if not self._leave_out(peer):
            return []
        self._plans_again = True
        self._troubles.append(f"{shortened(peer)} was lost: {reason}")
        # Nobody is left there to release anything.
        self._standing = {each: state for each, state in self._standing.items() if each.peer != peer}
        return [Report({"event": "lost", "peer": peer, "reason": reason})]

    def _note(self, peer: PeerId, held: LayerRange, reason: str) -> None:
        self._troubles.append(f"{shortened(peer)} did not take layers {held}: {reason}")

    def _cap(self, peer: PeerId, layers: int) -> None:
        """Beyond what it grants in this round that node would hold so many layers more."""
        self._declined[peer] = min(layers, self._declined.get(peer, layers))

    def _leave_out(self, peer: PeerId) -> bool:
        return self.capacities.pop(peer, None) is not None

    # Rounds ----------------------------------------------------------------------------------------------------------

    def _settle(self) -> list[Output]:
        states = set(self._standing.values())
        if _State.OFFERED in states:
            return []
        if self._plans_again:
            self._apply_caps()
            self.term += 1
            return self._propose()
        return self._place() if states <= {_State.CLAIMED} else []

    def _apply_caps(self) -> None:
        for peer, more in self._declined.items():
            if peer not in self.capacities:
                continue
            granted = sum(each.range.layers for each in self._standing if each.peer == peer)
            capacity = self.capacities[peer]
            if granted + more == 0:
                self._leave_out(peer)
            else:
                cap = min(granted + more, capacity.layers_max or granted + more)
                self.capacities[peer] = msgspec.structs.replace(capacity, layers_max=cap)
        self._declined.clear()

    def _propose(self) -> list[Output]:
        self._plans_again = False
        self.rounds += 1
        if self.rounds > limits.PLAN_ROUNDS_MAX:
            return self._give_up(f"{limits.PLAN_ROUNDS_MAX} plans were tried: look at 'weft status'.")
        if self._troubles and not self.capacities:
            return self._give_up(
                "No other node is left to ask: mend that and offer it again, or let more join with 'weft invite'."
            )
        try:
            assert self.replacing is not None
            self.plan = plan = self.replacing.plan(self.capacities)
        except UserError as error:
            return self._give_up(str(error))
        wanted = plan.assignments()
        dropped = [each for each in self._standing if each not in wanted]
        outputs: list[Output] = [Report(planned_event(plan)), *self._let_go_of(dropped)]
        for each in wanted:
            if each not in self._standing:
                self._standing[each], self._terms[each] = _State.OFFERED, self.term
                outputs.append(Propose(each, self._offer(each, plan)))
        return [*outputs, *self._settle()]

    def _offer(self, assignment: Assignment, plan: Plan) -> Offer:
        subject = self.subject
        # All of it may have to come from the proposer, one range after the other.
        total_bytes = sum(subject.size.bytes_of(each.range) for each in plan.assignments())
        needs_bytes_later = assignment.kind is StandbyKind.MAPPED
        lease_s = limits.GRANT_LEASE_S + total_bytes / limits.LEASE_BYTES_PER_S
        return Offer(
            term=self.term,
            proposer=self.proposer,
            model=subject.model,
            range=assignment.range,
            standby=assignment.standby,
            dtype=subject.dtype,
            numerics=subject.numerics,
            bytes_needed=subject.size.at(self.capacities[assignment.peer]).bytes_of(assignment.range)
            if needs_bytes_later
            else assignment.bytes_needed,
            lease_s=min(lease_s, limits.LEASE_S_MAX),
            weights_from=subject.weights_from,
            kind=assignment.kind,
        )

    def _let_go_of(self, assignments: list[Assignment]) -> list[Output]:
        """Their holders keep what they held before all this, and what a rival has been granted meanwhile."""
        outputs: list[Output] = []
        for each in assignments:
            del self._standing[each]
            release = Release(self._terms.pop(each), self.subject.model, each.range, exact=True)
            outputs.append(LetGo(each.peer, release))
        return outputs

    # Ends ------------------------------------------------------------------------------------------------------------

    def _place(self) -> list[Output]:
        assert self.plan is not None
        self.is_over = True
        wanted = {(each.peer, each.range) for each in self.plan.assignments()}
        replaced = [claim for claim in self.before if (claim.holder, claim.range) not in wanted]
        releases = [
            LetGo(claim.holder, Release(self.term, self.subject.model, claim.range)) for claim in replaced
        ]
        return [*releases, Placed(self.plan)]

    def abandon(self) -> list[Output]:
        """The user left: what is to be released."""
        if self.is_over:
            return []
        self.is_over = True
        return self._let_go_of(list(self._standing))

    def _give_up(self, why: str) -> list[Output]:
        released = self.abandon()
        if not self._troubles:
            return [*released, GaveUp(why if self.subject.size.name in why else f"{self._failed}: {why}")]
        return [*released, GaveUp(f"{self._failed}: {'; '.join(self._troubles)}. {why}")]

    @property
    def _failed(self) -> str:
        return f"{self.subject.size.name} could not be placed"
