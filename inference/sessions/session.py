"""A session at its entry node, as a machine without I/O: the token log, the route and its recovery.

          all opened             stage lost                all standbys opened
OPENING ------------> RUNNING ---------------> REBUILDING ---------------------> REROUTING
                         ^                         ^                                 |  all survivors rerouted
                         |                         | journal incomplete, or          |
                         +-------------------------+---- another stage lost ---------+

The log is append-only and a token is emitted only by being appended, so no token is lost, doubled or changed. When a
stage is lost the epoch rises and `resume_at` is the row of the last token in the log: survivors truncate to it, the
stage before the lost one replays its journal into the standby, and the last token is fed again. Where no journal
reaches back (or the prompt was still on its way) every stage starts over from the tokens. A replay never samples. Rows of
the prompt that an earlier session left at every stage are fed to none, and are in no journal.

Standbys are opened before survivors are rerouted, so that no frame can reach a stage that does not know its session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from inference.sessions import prefix
from inference.sessions.blames import blames
from inference.sessions.events import (
    Alarm,
    Blame,
    Emit,
    Ended,
    Fail,
    Feed,
    Finish,
    Hop,
    Input,
    IsGone,
    Lost,
    Open,
    Order,
    Output,
    Phase,
    Recovered,
    Replace,
    Send,
    Start,
    Told,
    WakeAt,
    nobody_is_gone,
)
from inference.sessions.leak import Leak
from inference.sessions.place import Place
from protocols import limits
from protocols.errors import Malformed, NoRoute, Unavailable
from protocols.ids import PeerId
from protocols.observations import Outcome
from protocols.placement import LayerRange
from protocols.session import (
    Downstream,
    OpenStage,
    Progress,
    Reroute,
    Rerouted,
    Sampled,
    SessionMessage,
    StageOpened,
    StageRefused,
    StageTrouble,
)
from protocols.tensor import Kind


@dataclass(slots=True)
class Session:
    order: Order
    route: Sequence[Hop]
    replace: Replace
    last_resort: Replace | None = None  # asked only when a range is lost and nobody else holds it
    is_gone: IsGone = nobody_is_gone
    phase: Phase = Phase.OPENING
    epoch: int = 0
    failovers: int = 0
    tokens: list[int] = field(default_factory=list)
    excluded: set[PeerId] = field(default_factory=set)
    places: list[Place] = field(default_factory=list)
    _resume_at: int = 0
    _from_tokens: bool = False
    _filling: bool = True  # many rows are on their way: the prompt, or a replay
    _moved_s: float = 0.0  # when the log last grew, rows were last fed, or any stage got some
    _alarm_s: float = 0.0
    _lost: list[tuple[int, PeerId, str]] = field(default_factory=list)
    _replayed_rows: int = 0
    _leak: Leak = field(default_factory=Leak)

    def __post_init__(self) -> None:
        self.tokens = list(self.order.prompt)
        self.places = [Place(hop.peer, hop.range, 0.0, 0.0) for hop in self.route]

    def handle(self, event: Input, now: float) -> list[Output]:
        """Never raises for what peers do: a session that can't go on ends with `Fail`."""
        if self.phase is Phase.DONE:
            return []
        match event:
            case Start():
                outputs = [self._open(index, now) for index in range(len(self.places))]
                return [*outputs, self._alarm(now)]
            case Told(index, incarnation, message):
                place = self.places[index]
                return self._told(index, message, now) if incarnation == place.incarnation else []
            case Lost(index, incarnation, reason):
                place = self.places[index]
                return self._lose(index, reason, now) if incarnation == place.incarnation else []
            case Ended(reason):
                return self._finish(reason)
            case Alarm():
                return self._watch(now)
            case _:
                assert_never(event)

    @property
    def generated(self) -> list[int]:
        return self.tokens[len(self.order.prompt) :]

    # What stages say

    def _told(self, index: int, message: SessionMessage, now: float) -> list[Output]:
        place = self.places[index]
        place.heard_s = now
        match message:
            case StageOpened(_, rows):
                if not prefix.can_be_kept(rows, self.order):
                    return self._lose(index, f"has {rows} rows at first", now, Outcome.WRONG)
                place.opened, place.kept, place.advanced_s = True, rows, now
                return self._proceed(now)
            case StageRefused(reason):
                return self._lose(index, f"refused: {reason}", now, Outcome.REFUSED)
            case Progress():
                if place.report(message, now):
                    self._moved_s = now
                return []
            case Sampled():
                return self._sampled(index, message, now)
            case Rerouted(epoch, replayed_rows, complete):
                return self._rerouted(index, replayed_rows, complete, now) if epoch == self.epoch else []
            case StageTrouble(epoch, reason, blames_downstream):
                if epoch != self.epoch and blames_downstream:
                    return []  # about a neighbour of an abandoned route
                culprit = min(index + 1, len(self.places) - 1) if blames_downstream else index
                return self._lose(culprit, reason, now, accuser=index)
            case _:
                return self._lose(index, f"sent a {type(message).__name__}", now)

    def _sampled(self, index: int, message: Sampled, now: float) -> list[Output]:
        if message.epoch != self.epoch or self.phase is not Phase.RUNNING:
            return []
        if message.position != len(self.tokens) or index != len(self.places) - 1:
            reason = f"sampled position {message.position}, and the log is at {len(self.tokens)}"
            return self._lose(index, reason, now, Outcome.WRONG)
        try:
            emitted = Emit(message.position, message.token, self.order.logprobs_of(message))
        except Malformed as error:
            return self._lose(index, f"sampled {error}", now, Outcome.WRONG)
        self.places[index].advanced_s = self._moved_s = now
        self._filling = False
        self.tokens.append(message.token)
        if message.token in self.order.stop_ids:
            return [emitted, *self._finish("stop")]
        if len(self.tokens) >= self.order.rows_max:
            return [emitted, *self._finish("length")]
        return [emitted, self._feed_last()]

    # Recovery

    def _lose(
        self,
        index: int,
        reason: str,
        now: float,
        outcome: Outcome = Outcome.FAILED,
        accuser: int | None = None,
    ) -> list[Output]:
        """Every place that this peer fills is lost with it. `accuser`: the place that this is known from, if it is another."""
        peer = self.places[index].peer
        blamed = blames(self.places, index, reason, outcome, accuser)
        self.excluded.add(peer)
        self.failovers += 1
        if self.failovers > limits.FAILOVERS_MAX:
            error = NoRoute(f"the session lost {self.failovers} stages; the last because: {reason}")
            return [*blamed, *self._fail(error)]
        lost = [at for at, place in enumerate(self.places) if place.peer == peer]
        return [*blamed, *self._rebuild(lost, reason, now, outcome)]

    def _rebuild(self, lost: Sequence[int], reason: str, now: float, outcome: Outcome) -> list[Output]:
        for index in lost:
            place = self.places[index]
            replacement = self._replacement(place.range, frozenset(self.excluded))
            if replacement is None:
                is_busy = outcome is Outcome.REFUSED and not self.generated
                return self._fail(place.irreplaceable(reason, is_busy=is_busy))
            self._lost.append((index, place.peer, reason))
            self.places[index] = Place(replacement, place.range, now, now, place.incarnation)
        self._next_epoch()
        self.phase = Phase.REBUILDING
        reopened = [at for at, place in enumerate(self.places) if place.fresh and not place.opened]
        return [*[self._open(at, now) for at in reopened], *self._proceed(now), self._alarm(now)]

    def _replacement(self, layers: LayerRange, excluded: frozenset[PeerId]) -> PeerId | None:
        found = self.replace(layers, excluded)
        return self.last_resort(layers, excluded) if found is None and self.last_resort else found

    def _next_epoch(self) -> None:
        has_generated = len(self.tokens) > len(self.order.prompt)
        # A place that was still being rebuilt holds an unknown part of its rows: then all start over from the tokens.
        half_built = any(place.fresh and place.opened for place in self.places)
        self._from_tokens = self._from_tokens or half_built or not has_generated
        if self._from_tokens:
            prefix.begin_at(0, self.places)
        self._resume_at = 0 if self._from_tokens else len(self.tokens) - 1
        self._replayed_rows = 0
        self._filling = True
        self.epoch += 1

    def _proceed(self, now: float) -> list[Output]:
        """Go on to the next phase if everybody that this one waits for has answered."""
        if not all(place.opened for place in self.places):
            return []
        if self.phase is Phase.OPENING:
            prefix.begin(self.places)
            return self._run(self._feed_prompt(), now)
        if self.phase is Phase.REBUILDING:
            if not self._from_tokens and not prefix.begin_again(self.places):
                self._from_tokens = True
                self._next_epoch()
            self.phase = Phase.REROUTING
            # A standby opened in this very epoch has its orders already.
            behind = [at for at, place in enumerate(self.places) if place.epoch != self.epoch]
            orders = [Send(at, self._reroute(at)) for at in behind]
            for place in self.places:
                place.heard_s = place.advanced_s = now
            return [*orders, *self._proceed(now)]
        if self.phase is Phase.REROUTING and all(place.epoch == self.epoch for place in self.places):
            return self._resume(now)
        return []

    def _reroute(self, index: int) -> Reroute:
        behind_is_fresh = index + 1 < len(self.places) and self.places[index + 1].fresh
        replay = behind_is_fresh and self._resume_at > 0
        return Reroute(self.epoch, self._resume_at, self._downstream(index), replay)

    def _rerouted(self, index: int, replayed_rows: int, complete: bool, now: float) -> list[Output]:
        place = self.places[index]
        place.epoch, place.advanced_s = self.epoch, now
        self._replayed_rows += replayed_rows
        if complete:
            return self._proceed(now)
        if self._resume_at == 0:
            return self._lose(index, "said that it lacks rows where none were asked for", now)
        self._from_tokens = True
        self._next_epoch()
        self.phase = Phase.REBUILDING
        return [*self._proceed(now), self._alarm(now)]

    def _resume(self, now: float) -> list[Output]:
        first = self.places[0]
        recovered = self._recoveries()
        last = len(self.tokens) - 1
        if len(self.tokens) == len(self.order.prompt):
            return [*recovered, *self._run(self._feed_prompt(), now)]
        outputs: list[Output] = []
        if self._from_tokens or first.fresh:
            rows = tuple(self.tokens[first.base : last])
            outputs.append(Feed(Kind.REPLAY, self.epoch, first.base, rows, sample=False))
        return [*recovered, *outputs, *self._run(self._feed_last(), now)]

    def _recoveries(self) -> list[Output]:
        from_entry = self._from_tokens or self.places[0].fresh
        rows = max(self._replayed_rows, len(self.tokens) - 1 - self.places[0].base if from_entry else 0)
        return [
            Recovered(
                self.epoch, index, self.places[index].range, peer, self.places[index].peer, rows, reason
            )
            for index, peer, reason in self._lost
        ]

    def _run(self, feed: Feed, now: float) -> list[Output]:
        self.phase = Phase.RUNNING
        self._moved_s = now
        self._from_tokens = False
        self._lost.clear()
        for place in self.places:
            place.fresh = False
        return [feed]

    # Words to stages

    def _open(self, index: int, now: float) -> Open:
        place = self.places[index]
        place.incarnation += 1
        place.epoch = self.epoch
        place.heard_s = place.advanced_s = now
        is_last = index == len(self.places) - 1
        behind_is_fresh = is_last or self.places[index + 1].fresh
        message = OpenStage(
            self.order.session,
            self.epoch,
            self.order.model,
            place.range,
            index,
            self._downstream(index),
            len(self.order.prompt),
            self.order.rows_max,
            self.order.sampling if is_last else None,
            self.order.stop_ids[: limits.STOP_IDS_MAX] if is_last else (),
            0 if behind_is_fresh else self._resume_at,
            len(self.places),
            prefix.block_names(self.order, self.places[:index]),
        )
        return Open(index, place.incarnation, place.peer, message)

    def _downstream(self, index: int) -> Downstream | None:
        behind = index + 1
        return Downstream(self.places[behind].peer, behind) if behind < len(self.places) else None

    def _feed_prompt(self) -> Feed:
        base = self.places[0].base
        return Feed(Kind.PREFILL, self.epoch, base, tuple(self.tokens[base:]), sample=True)

    def _feed_last(self) -> Feed:
        last = len(self.tokens) - 1
        return Feed(Kind.DECODE, self.epoch, last, (self.tokens[last],), sample=True)

    # Watching

    def _alarm(self, now: float) -> WakeAt:
        self._alarm_s = now + limits.PROGRESS_S
        return WakeAt(self._alarm_s)

    def _watch(self, now: float) -> list[Output]:
        # While this very process stood still it heard nobody, and so that time counts against nobody.
        late_s = max(0.0, now - self._alarm_s)
        self._moved_s += late_s
        for place in self.places:
            place.excuse(late_s, now)
        rows = min(limits.PREFILL_CHUNK_ROWS, len(self.tokens)) if self._filling else 1
        late: list[Output] = []
        for index, place in enumerate(self.places):
            ailment = "called dead" if self._waits_in_vain(place) else place.ailment(now, rows)
            if ailment and self._may_give_up(place, now):
                return [*late, *self._lose(index, ailment, now)]
            if ailment and not place.late:
                place.late = True
                late.append(Blame(place.peer, place.range, Outcome.LATE, ailment))
        return [*late, *self._nudge(now), self._alarm(now)]

    def _nudge(self, now: float) -> list[Output]:
        """Rows that got lost between stages which are up leave all of them idle: feed them again, in a new epoch or elsewhere."""
        idle = all(not place.busy and place.is_heard(now) for place in self.places)
        idle_s_max = self._leak.idle_s_max(len(self.tokens))
        if self.phase is not Phase.RUNNING or not idle or now - self._moved_s < idle_s_max:
            return []
        gap = self._leak.note(self.places, self.epoch, len(self.tokens))
        for index in gap.suspects if self._leak.nudges else ():
            if self._can_replace(self.places[index]):
                return self._lose(index, gap.told, now, accuser=gap.beside(index))
        self.failovers += 1
        self._leak.nudges += 1
        if self._leak.nudges > limits.NUDGES_MAX or self.failovers > limits.FAILOVERS_MAX:
            return self._fail(
                NoRoute(f"no token comes: {gap.told}, and no standby is left. See 'weft status'")
            )
        self._next_epoch()
        self.phase = Phase.REBUILDING
        return self._proceed(now)

    def _can_replace(self, lost: Place) -> bool:
        """Whether somebody else is there for all that its peer fills."""
        excluded = frozenset(self.excluded | {lost.peer})
        places = [place for place in self.places if place.peer == lost.peer]
        return all(self._replacement(place.range, excluded) is not None for place in places)

    def _may_give_up(self, place: Place, now: float) -> bool:
        # A slow stage is worth more than none: without a standby it is given longer, unless it is not even open.
        if now - (place.heard_s if place.opened else place.advanced_s) > limits.REPLY_S:
            return True
        # What is loaded here instead takes its time: not for one that is only slow.
        find = self._replacement if self._waits_in_vain(place) else self.replace
        return find(place.range, frozenset(self.excluded | {place.peer})) is not None

    def _waits_in_vain(self, place: Place) -> bool:
        """A stream that is only being opened hears late of a death, or of none."""
        return not place.opened and self.is_gone(place.peer)

    # Ends

    def _finish(self, reason: str) -> list[Output]:
        self.phase = Phase.DONE
        return [Finish(reason)]

    def _fail(self, error: Unavailable) -> list[Output]:
        self.phase = Phase.DONE
        return [Fail(error)]
