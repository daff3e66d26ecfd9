"""A stage that is up and keeps rows to itself, in either direction and whatever it says of itself, holds nobody up for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.sessions import events as e
from inference.sessions.leak import FORGOTTEN_TOKENS, Leak
from inference.sessions.place import Place
from inference.sessions.session import Session
from protocols import limits
from protocols.errors import NoRoute
from protocols.ids import PeerId
from protocols.observations import Outcome
from protocols.placement import LayerRange
from protocols.session import Progress, Reroute, Rerouted, Sampled, StageOpened
from tests.inference.sessions.machines import make_order

RANGES = [LayerRange(at, at + 1) for at in range(4)]
BOUND_S = 5 * limits.IDLE_S + 2  # fed again once, then the one at the gap replaced, then the other


class Route:
    """A session whose stages do what they should but for some `liars`, which take part in everything and let no row through.

    Of itself a liar says that it has `claimed` rows. Some `takers` take no row in.
    """

    def __init__(self, stages: int, spares: str = "xyz", claimed: int = 0, liars: str = "", takers: str = ""):
        self.spares, self.claimed, self.liars, self.takers = spares, claimed, liars, takers
        self.order = replace(make_order(2, 5))
        hops = [e.Hop(PeerId("abcd"[at]), RANGES[at]) for at in range(stages)]
        self.session = Session(self.order, hops, self._replace)
        self.outputs: list[e.Output] = []
        self.now = 0.0
        self.inbox: list[e.Input] = [e.Start()]

    def run(self, until_s: float) -> float:
        """When it ended, or `until_s`."""
        while self.now < until_s:
            while self.inbox:
                for output in self.session.handle(self.inbox.pop(0), self.now):
                    self._act(output)
                    if isinstance(output, e.Finish | e.Fail):
                        return self.now
            self.now += limits.PROGRESS_S
            for index in range(len(self.session.places)):
                self._say(index, Progress(self.session.epoch, self._rows(index), 7, busy=False))
            self.inbox.append(e.Alarm())
        return self.now

    def of(self, kind: type[e.Output]) -> list[e.Output]:
        return [output for output in self.outputs if isinstance(output, kind)]

    def _replace(self, layers: LayerRange, excluded: frozenset[PeerId]) -> PeerId | None:
        return next((PeerId(spare) for spare in self.spares if spare not in excluded), None)

    def _rows(self, index: int) -> int:
        """Those that come through from the entry as far as here."""
        peers = [place.peer for place in self.session.places]
        if peers[index] in self.liars + self.takers:
            return self.claimed
        lost = any(peer in self.liars for peer in peers[:index]) or any(
            p in self.takers for p in peers[: index + 1]
        )
        return 0 if lost else len(self.session.tokens)

    def _say(self, index: int, message: Progress | StageOpened | Rerouted | Sampled) -> None:
        self.inbox.append(e.Told(index, self.session.places[index].incarnation, message))

    def _act(self, output: e.Output) -> None:
        self.outputs.append(output)
        last = len(self.session.places) - 1
        bad = self.liars + self.takers
        match output:
            case e.Open(index, _, _, message):
                self._say(index, StageOpened(message.epoch))
            case e.Send(index, Reroute(epoch)):
                self._say(index, Rerouted(epoch, 0, complete=True))
            case e.Feed(sample=True) if not any(place.peer in bad for place in self.session.places):
                self._say(last, Sampled(self.session.epoch, len(self.session.tokens), 7))
            case _:
                pass


@given(
    st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
    st.integers(0, 9),
    st.booleans(),
)
def test_who_keeps_rows_to_itself_is_replaced_whatever_it_says(
    at: tuple[int, int], claimed: int, takes: bool
) -> None:
    stages, index = at
    liar = "abcd"[index]
    route = Route(
        stages, claimed=claimed, liars="" if takes else liar, takers=liar if takes else "", spares="xyzuvw"
    )
    ended_s = route.run(120)
    assert isinstance(route.outputs[-1], e.Finish)
    assert liar not in [place.peer for place in route.session.places]
    assert ended_s <= BOUND_S


def test_a_row_that_got_lost_once_costs_no_stage() -> None:
    route = Route(3, liars="b")
    route.run(limits.IDLE_S - 0.3)
    route.liars = ""
    route.run(60)
    assert isinstance(route.outputs[-1], e.Finish)
    assert route.of(e.Blame) == []
    assert len(route.of(e.Open)) == 3


def test_where_nobody_stands_by_it_ends_with_a_cause() -> None:
    route = Route(3, spares="", liars="b", claimed=9)
    ended_s = route.run(300)
    (failed,) = route.of(e.Fail)
    assert isinstance(failed, e.Fail)
    assert isinstance(failed.error, NoRoute)
    assert "rows get lost between layers 1-1 and layers 2-2" in str(failed.error)
    assert "no standby is left" in str(failed.error)
    assert ended_s == pytest.approx(
        sum(limits.IDLE_S * nth for nth in range(1, limits.NUDGES_MAX + 2)), abs=2
    )


def test_both_at_the_gap_are_disputed_and_neither_convicted() -> None:
    route = Route(3, liars="b", claimed=9)
    route.run(limits.IDLE_S * 4)
    blames = [output for output in route.of(e.Blame) if isinstance(output, e.Blame)]
    assert {(blame.peer, blame.outcome) for blame in blames} == {
        ("b", Outcome.DISPUTED),
        ("c", Outcome.DISPUTED),
    }


def test_a_first_stage_that_takes_no_rows_has_only_itself_to_blame() -> None:
    route = Route(2, takers="a")
    route.run(60)
    assert [(blame.peer, blame.outcome) for blame in route.of(e.Blame) if isinstance(blame, e.Blame)] == [
        ("a", Outcome.FAILED)
    ]


@pytest.mark.parametrize(
    ("later", "is_forgiven"), [(limits.CREDITS_PER_SESSION, False), (FORGOTTEN_TOKENS + 1, True)]
)
def test_a_lost_row_is_forgiven_after_more_tokens_than_there_are_credits(
    later: int, is_forgiven: bool
) -> None:
    leak = Leak()
    leak.note([Place(PeerId("a"), RANGES[0], 0, 0)], 0, 10)
    leak.nudges = 1
    assert leak.idle_s_max(10 + later) == (1 if is_forgiven else 2) * limits.IDLE_S
