"""A session at its entry node, as a machine without I/O: the token log, the route and its recovery.

          all opened             stage lost                all standbys opened
OPENING ------------> RUNNING ---------------> REBUILDING ---------------------> REROUTING
                         ^                         ^                                 |  all survivors rerouted
                         |                         | journal incomplete, or          |
                         +-------------------------+---- another stage lost ---------+

The log is append-only and a token is emitted only by being appended, so no token is lost, doubled or changed. When a
stage is lost the epoch rises and `resume_at` is the row of the last token in the log: survivors truncate to it, the
stage before the lost one replays its journal into the standby, and the last token is fed again. Where no journal
reaches back (or the prompt was still on its way) every stage starts over from the tokens. A replay never samples.

Standbys are opened before survivors are rerouted, so that no frame can reach a stage that does not know its session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from inference.sessions.events import (
    Alarm,
    Emit,
    Ended,
    Fail,
    Feed,
    Finish,
    Hop,
    Input,
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
)
from protocols import limits
from protocols.errors import NoRoute
from protocols.ids import PeerId, shortened
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
class _Place:
    """A place in the route with whoever fills it at present."""

    peer: PeerId
    range: LayerRange
    heard_s: float
    advanced_s: float
    incarnation: int = 0
    opened: bool = False
    epoch: int = 0  # the one it is known to have entered
    fresh: bool = True  # opened since the last time the session ran
    busy: bool = False
    work: int = 0
    step_ms: float = 0.0
    step_rows: int = 0


@dataclass(slots=True)
class Session:
    order: Order
    route: Sequence[Hop]
    replace: Replace
    phase: Phase = Phase.OPENING
    epoch: int = 0
    failovers: int = 0
    tokens: list[int] = field(default_factory=list)
    excluded: set[PeerId] = field(default_factory=set)
    places: list[_Place] = field(default_factory=list)
    _resume_at: int = 0
    _from_tokens: bool = False
    _moved_s: float = 0.0  # when the log last grew or rows were last fed
    _lost: list[tuple[int, PeerId, str]] = field(default_factory=list)
    _replayed_rows: int = 0

    def __post_init__(self) -> None:
        self.tokens = list(self.order.prompt)
        self.places = [_Place(hop.peer, hop.range, 0.0, 0.0) for hop in self.route]

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
            case StageOpened():
                place.opened, place.advanced_s = True, now
                return self._proceed(now)
            case StageRefused(reason):
                return self._lose(index, f"refused: {reason}", now)
            case Progress():
                return self._progress(place, message, now)
            case Sampled():
                return self._sampled(index, message, now)
            case Rerouted(epoch, replayed_rows, complete):
                return self._rerouted(place, replayed_rows, complete, now) if epoch == self.epoch else []
            case StageTrouble(epoch, reason, blames_downstream):
                if epoch != self.epoch and blames_downstream:
                    return []  # about a neighbour of an abandoned route
                culprit = min(index + 1, len(self.places) - 1) if blames_downstream else index
                return self._lose(culprit, reason, now)
            case _:
                return self._lose(index, f"sent a {type(message).__name__}", now)

    def _progress(self, place: _Place, message: Progress, now: float) -> list[Output]:
        if message.work != place.work or not message.busy:
            place.advanced_s = now
        place.work, place.busy = message.work, message.busy
        place.step_ms, place.step_rows = message.step_ms, message.step_rows
        return []

    def _sampled(self, index: int, message: Sampled, now: float) -> list[Output]:
        if message.epoch != self.epoch or self.phase is not Phase.RUNNING:
            return []
        if message.position != len(self.tokens) or index != len(self.places) - 1:
            return self._lose(
                index, f"sampled position {message.position}, and the log is at {len(self.tokens)}", now
            )
        self.places[index].advanced_s = self._moved_s = now
        self.tokens.append(message.token)
        emitted = Emit(message.position, message.token)
        if message.token in self.order.stop_ids:
            return [emitted, *self._finish("stop")]
        if len(self.tokens) >= self.order.rows_max:
            return [emitted, *self._finish("length")]
        return [emitted, self._feed_last()]

    # Recovery

    def _lose(self, index: int, reason: str, now: float) -> list[Output]:
        """Every place that this peer fills is lost with it."""
        peer = self.places[index].peer
        self.excluded.add(peer)
        self.failovers += 1
        if self.failovers > limits.FAILOVERS_MAX:
            return self._fail(
                NoRoute(f"the session lost {self.failovers} stages; the last because: {reason}")
            )
        lost = [at for at, place in enumerate(self.places) if place.peer == peer]
        return self._rebuild(lost, reason, now)

    def _rebuild(self, lost: Sequence[int], reason: str, now: float) -> list[Output]:
        for index in lost:
            place = self.places[index]
            replacement = self.replace(place.range, frozenset(self.excluded))
            if replacement is None:
                return self._fail(
                    NoRoute(
                        f"no standby is left for layers {place.range}, which {shortened(place.peer)} held ({reason}). "
                        "See 'weft status'; offer the model again when more nodes are up."
                    )
                )
            self._lost.append((index, place.peer, reason))
            self.places[index] = _Place(replacement, place.range, now, now, place.incarnation)
        self._next_epoch()
        self.phase = Phase.REBUILDING
        reopened = [at for at, place in enumerate(self.places) if place.fresh and not place.opened]
        return [*[self._open(at, now) for at in reopened], *self._proceed(now), self._alarm(now)]

    def _next_epoch(self) -> None:
        has_generated = len(self.tokens) > len(self.order.prompt)
        # A place that was still being rebuilt holds an unknown part of its rows: then all start over from the tokens.
        half_built = any(place.fresh and place.opened for place in self.places)
        self._from_tokens = self._from_tokens or half_built or not has_generated
        self._resume_at = 0 if self._from_tokens else len(self.tokens) - 1
        self._replayed_rows = 0
        self.epoch += 1

    def _proceed(self, now: float) -> list[Output]:
        """Go on to the next phase if everybody that this one waits for has answered."""
        if not all(place.opened for place in self.places):
            return []
        if self.phase is Phase.OPENING:
            return self._run(self._feed_prompt(), now)
        if self.phase is Phase.REBUILDING:
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

    def _rerouted(self, place: _Place, replayed_rows: int, complete: bool, now: float) -> list[Output]:
        place.epoch, place.advanced_s = self.epoch, now
        self._replayed_rows += replayed_rows
        if complete:
            return self._proceed(now)
        self._from_tokens = True
        self._next_epoch()
        self.phase = Phase.REBUILDING
        return [*self._proceed(now), self._alarm(now)]

    def _resume(self, now: float) -> list[Output]:
        first_is_fresh = self.places[0].fresh
        recovered = self._recoveries()
        last = len(self.tokens) - 1
        if len(self.tokens) == len(self.order.prompt):
            return [*recovered, *self._run(self._feed_prompt(), now)]
        outputs: list[Output] = []
        if self._from_tokens or first_is_fresh:
            outputs.append(Feed(Kind.REPLAY, self.epoch, 0, tuple(self.tokens[:last]), sample=False))
        return [*recovered, *outputs, *self._run(self._feed_last(), now)]

    def _recoveries(self) -> list[Output]:
        from_entry = self._from_tokens or self.places[0].fresh
        rows = max(self._replayed_rows, len(self.tokens) - 1 if from_entry else 0)
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
            self.order.stop_ids if is_last else (),
            0 if behind_is_fresh else self._resume_at,
        )
        return Open(index, place.incarnation, place.peer, message)

    def _downstream(self, index: int) -> Downstream | None:
        behind = index + 1
        return Downstream(self.places[behind].peer, behind) if behind < len(self.places) else None

    def _feed_prompt(self) -> Feed:
        return Feed(Kind.PREFILL, self.epoch, 0, tuple(self.tokens), sample=True)

    def _feed_last(self) -> Feed:
        last = len(self.tokens) - 1
        return Feed(Kind.DECODE, self.epoch, last, (self.tokens[last],), sample=True)

    # Watching

    def _alarm(self, now: float) -> WakeAt:
        return WakeAt(now + limits.PROGRESS_S)

    def _watch(self, now: float) -> list[Output]:
        for index, place in enumerate(self.places):
            patience_s = self._patience_s(place)
            silent_s, standing_s = now - place.heard_s, now - place.advanced_s
            if max(silent_s, standing_s) > patience_s and self._may_give_up(place, silent_s):
                what = "silent" if silent_s > patience_s else "without progress"
                return self._lose(index, f"{what} for {max(silent_s, standing_s):.1f} s", now)
        return [*self._nudge(now), self._alarm(now)]

    def _nudge(self, now: float) -> list[Output]:
        """A row that got lost between two healthy stages leaves all of them idle: feed it again in a new epoch."""
        idle = all(not place.busy and now - place.heard_s < limits.STALL_S_MIN for place in self.places)
        if self.phase is not Phase.RUNNING or not idle or now - self._moved_s < limits.IDLE_S:
            return []
        self.failovers += 1
        if self.failovers > limits.FAILOVERS_MAX:
            return self._fail(NoRoute("every stage is up and idle, and no token comes: the route loses rows"))
        self._next_epoch()
        self.phase = Phase.REBUILDING
        return self._proceed(now)

    def _patience_s(self, place: _Place) -> float:
        if not place.opened:
            return limits.REPLY_S
        rows = max(
            1, min(limits.PREFILL_CHUNK_ROWS, len(self.tokens)) if self.phase is not Phase.RUNNING else 1
        )
        expected_s = place.step_ms / 1000 * max(1.0, rows / max(1, place.step_rows))
        return max(limits.STALL_S_MIN, limits.STALL_STEPS * expected_s)

    def _may_give_up(self, place: _Place, silent_s: float) -> bool:
        # A slow stage is worth more than none: without a standby it is given longer.
        if silent_s > limits.REPLY_S:
            return True
        return self.replace(place.range, frozenset(self.excluded | {place.peer})) is not None

    # Ends

    def _finish(self, reason: str) -> list[Output]:
        self.phase = Phase.DONE
        return [Finish(reason)]

    def _fail(self, error: NoRoute) -> list[Output]:
        self.phase = Phase.DONE
        return [Fail(error)]
