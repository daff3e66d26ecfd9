"""One stage of one session at its holder, as a machine without I/O.

Rows enter in order of position, are computed, and leave for the next stage or become a token:

    Arrived -> Compute -> Computed -> Forward | Tell(Sampled), GiveBack

Frames of another epoch than the current one change nothing. Frames that come too early (decode and prefill travel on
streams of their own) wait in a table as large as the credits. A `Reroute` truncates to `resume_at` and replays the
journal to a standby that takes the place of the stage behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from msgspec.structs import replace

from inference.sessions.journal import Journal
from protocols import limits
from protocols.errors import Malformed
from protocols.seams import StepResult
from protocols.session import Downstream, OpenStage, Reroute, Rerouted, Sampled, SessionMessage
from protocols.tensor import DType, Frame


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame for this stage came in."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Computed:
    """The worker has finished the frame of the last `Compute`."""

    frame: Frame
    result: StepResult


@dataclass(frozen=True, slots=True)
class Compute:
    frame: Frame


@dataclass(frozen=True, slots=True)
class Forward:
    """Send to `downstream`, waiting for its credits."""

    frame: Frame
    downstream: Downstream


@dataclass(frozen=True, slots=True)
class Tell:
    """Send to the entry node."""

    message: SessionMessage


@dataclass(frozen=True, slots=True)
class GiveBack:
    """One frame of the current epoch is through: its sender may send another."""


Input = Arrived | Computed | Reroute
Output = Compute | Forward | Tell | GiveBack


@dataclass(slots=True)
class Stage:
    """`width` and `dtype` are those of output rows; `merges_replay` where numerics are exact.

    `kept` rows of an earlier session are in the cache until it is known how many of them this one goes by.
    """

    opened: OpenStage
    width: int
    dtype: DType
    merges_replay: bool
    kept: int = 0
    epoch: int = 0
    rows: int = 0
    downstream: Downstream | None = None
    forward_from: int = 0
    journal: Journal = field(default_factory=Journal)
    computing: bool = False
    _early: dict[int, Frame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.epoch = self.opened.epoch
        self.downstream = self.opened.downstream
        self.forward_from = self.opened.forward_from

    def handle(self, event: Input) -> list[Output]:
        """What to do now; raises `Malformed` for a frame that can't belong to this session."""
        match event:
            case Arrived(frame):
                return self._arrive(frame)
            case Computed(frame, result):
                return self._finish(frame, result)
            case Reroute():
                return self._reroute(event)
            case _:
                assert_never(event)

    def _arrive(self, frame: Frame) -> list[Output]:
        header = frame.header
        if self.kept and header.epoch == self.epoch and header.position <= self.kept:
            # The first of all, which comes before those behind it; only a decoded row may overtake, and lies past the prompt.
            self._settle(header.position)
        if header.epoch != self.epoch or header.position < self.rows or header.position in self._early:
            return []  # of an abandoned route, or a second copy
        if header.position + header.rows > self.opened.rows_max:
            raise Malformed(
                f"rows to {header.position + header.rows} where {self.opened.rows_max} were reserved"
            )
        if len(self._early) >= limits.CREDITS_PER_SESSION:
            raise Malformed("more frames than credits")
        self._early[header.position] = frame
        return self._next()

    def _settle(self, rows: int) -> None:
        """The session goes by so many of the rows that were here before it."""
        self.rows, self.kept = rows, 0
        self.journal.clear(rows)

    def _next(self) -> list[Output]:
        if self.computing or self.rows not in self._early:
            return []
        self.computing = True
        frame = self._early.pop(self.rows)
        return [
            Compute(
                Frame(replace(frame.header, truncate_to=self.rows), frame.tokens, frame.body, frame.extension)
            )
        ]

    def _finish(self, frame: Frame, result: StepResult) -> list[Output]:
        self.computing = False
        header = frame.header
        if header.epoch != self.epoch:
            return self._next()  # rerouted meanwhile; the next step truncates what this one added
        self.rows = header.position + header.rows
        return [*self._emit(frame, result), GiveBack(), *self._next()]

    def _emit(self, frame: Frame, result: StepResult) -> list[Output]:
        header = frame.header
        if self.downstream is None:
            if not header.sample or result.token is None:
                return []
            return [Tell(self._sampled(result.token, bytes(result.body)))]
        moved = replace(header, stage=self.downstream.stage, width=self.width, dtype=self.dtype)
        if len(result.body) != moved.body_bytes:
            raise Malformed(f"no stage can follow on layers {self.opened.range}, which end the model")
        output = Frame(moved, frame.tokens, result.body, frame.extension)
        self.journal.append(output)
        return [Forward(output, self.downstream)] if header.position >= self.forward_from else []

    def _sampled(self, token: int, logprobs: bytes) -> Sampled:
        ends = token in self.opened.stop_ids or self.rows + 1 >= self.opened.rows_max
        return Sampled(self.epoch, self.rows, token, ends, logprobs)

    def _reroute(self, order: Reroute) -> list[Output]:
        if order.epoch <= self.epoch:
            return []
        is_last = self.downstream is None
        if is_last is not (order.downstream is None) or (is_last and order.replay):
            raise Malformed("a reroute can't change which stage is the last one, nor have it replay")
        complete = self.rows >= order.resume_at and (
            not order.replay or self.journal.reaches(order.resume_at)
        )
        self.epoch = order.epoch
        self.kept = 0
        self.rows = min(self.rows, order.resume_at)
        self.downstream = order.downstream
        self.forward_from = 0
        self.journal.truncate(self.rows)
        self._early.clear()
        replay = self._replay() if order.replay and complete else []
        replayed_rows = sum(output.frame.header.rows for output in replay)
        return [Tell(Rerouted(self.epoch, replayed_rows, complete)), *replay]

    def _replay(self) -> list[Forward]:
        assert self.downstream is not None
        frames = self.journal.replay(self.opened.prompt_rows, merge=self.merges_replay)
        return [Forward(_addressed(frame, self.epoch, self.downstream), self.downstream) for frame in frames]


def _addressed(frame: Frame, epoch: int, downstream: Downstream) -> Frame:
    return Frame(replace(frame.header, epoch=epoch, stage=downstream.stage), frame.tokens, frame.body)
