"""What a session does about each thing that its stages say, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from inference.sessions import events as e
from inference.sessions.session import Session
from protocols import limits
from protocols.errors import NoRoute, Overloaded
from protocols.ids import PeerId
from protocols.observations import Outcome
from protocols.placement import LayerRange
from protocols.session import (
    Downstream,
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
from tests.inference.sessions.machines import make_order

RANGES = [LayerRange(at, at + 1) for at in range(3)]
PROMPT = (1, 2)


class Talk:
    """A session with the peers a, b and c in their places; x, y and z stand by for any of them."""

    def __init__(self, tokens: Sequence[int] = (), peers: str = "abc", spares: str = "xyz", **order: object):
        hops = [e.Hop(PeerId(peer), layers) for peer, layers in zip(peers, RANGES, strict=True)]
        wanted = replace(make_order(len(PROMPT), 5), **order)  # type: ignore[arg-type]
        self.session = Session(
            wanted,
            hops,
            lambda _, excluded: next((PeerId(spare) for spare in spares if spare not in excluded), None),
        )
        self.session.handle(e.Start(), 0)
        self.open(0, 1, 2)
        for token in tokens:
            self.say(2, Sampled(0, len(self.session.tokens), token))

    def say(self, index: int, message: SessionMessage) -> list[e.Output]:
        return self.session.handle(e.Told(index, self.session.places[index].incarnation, message), 0)

    def open(self, *indexes: int) -> list[e.Output]:
        return [out for index in indexes for out in self.say(index, StageOpened(self.session.epoch))]

    def lose(self, index: int) -> list[e.Output]:
        return self.session.handle(e.Lost(index, self.session.places[index].incarnation, "killed"), 0)

    def rerouted(self, *indexes: int, complete: bool = True) -> list[e.Output]:
        epoch = self.session.epoch
        return [out for index in indexes for out in self.say(index, Rerouted(epoch, 0, complete))]


def orders(outputs: list[e.Output]) -> dict[int, Reroute]:
    return {
        output.index: output.message
        for output in outputs
        if isinstance(output, e.Send) and isinstance(output.message, Reroute)
    }


def opened(outputs: list[e.Output]) -> dict[int, PeerId]:
    return {output.index: output.peer for output in outputs if isinstance(output, e.Open)}


def feeds(outputs: list[e.Output]) -> list[tuple[Kind, int, tuple[int, ...], bool]]:
    return [
        (output.kind, output.position, output.tokens, output.sample)
        for output in outputs
        if isinstance(output, e.Feed)
    ]


def test_a_lost_stage_is_rebuilt_from_the_journal_before_it() -> None:
    talk = Talk([7, 8])
    (opening,) = [output for output in talk.lose(1) if isinstance(output, e.Open)]
    assert (opening.peer, opening.message.epoch, opening.message.forward_from) == ("x", 1, 3)
    assert opening.message.downstream == Downstream(PeerId("c"), 2)
    told = orders(talk.open(1))
    assert told == {
        0: Reroute(1, 3, Downstream(PeerId("x"), 1), replay=True),
        2: Reroute(1, 3, None, replay=False),
    }
    assert talk.rerouted(0) == []
    recovered, feed = talk.rerouted(2)
    assert isinstance(recovered, e.Recovered)
    assert (recovered.index, recovered.lost, recovered.rebuilt_on) == (1, "b", "x")
    assert feed == e.Feed(Kind.DECODE, 1, 3, (8,), sample=True)


def test_a_lost_first_stage_is_rebuilt_from_the_tokens() -> None:
    talk = Talk([7, 8])
    assert opened(talk.lose(0)) == {0: "x"}
    assert {order.replay for order in orders(talk.open(0)).values()} == {False}
    assert feeds(talk.rerouted(1, 2)) == [
        (Kind.REPLAY, 0, (1, 2, 7), False),
        (Kind.DECODE, 3, (8,), True),
    ]


def test_before_the_first_token_everybody_starts_over_with_the_prompt() -> None:
    talk = Talk()
    talk.lose(1)
    told = orders(talk.open(1))
    assert {(order.resume_at, order.replay) for order in told.values()} == {(0, False)}
    assert feeds(talk.rerouted(0, 2)) == [(Kind.PREFILL, 0, PROMPT, True)]


def test_another_loss_while_a_stage_is_rebuilt_starts_all_over_from_the_tokens() -> None:
    talk = Talk([7, 8])
    talk.lose(1)
    talk.open(1)
    assert opened(talk.lose(2)) == {2: "x"}
    told = orders(talk.open(2))
    assert {index: (order.resume_at, order.replay) for index, order in told.items()} == {
        0: (0, False),
        1: (0, False),
    }
    assert feeds(talk.rerouted(0, 1)) == [
        (Kind.REPLAY, 0, (1, 2, 7), False),
        (Kind.DECODE, 3, (8,), True),
    ]


def test_another_loss_while_a_standby_is_opened_opens_both_for_the_new_epoch() -> None:
    talk = Talk([7, 8])
    talk.lose(1)
    outputs = talk.lose(2)
    assert opened(outputs) == {1: "x", 2: "x"}
    assert {output.message.epoch for output in outputs if isinstance(output, e.Open)} == {2}
    assert talk.open(1) == []
    assert orders(talk.open(2)) == {0: Reroute(2, 3, Downstream(PeerId("x"), 1), replay=True)}


def test_where_a_journal_does_not_reach_back_everybody_starts_over_from_the_tokens() -> None:
    talk = Talk([7, 8])
    talk.lose(1)
    talk.open(1)
    told = orders(talk.rerouted(0, complete=False))
    assert {
        index: (order.epoch, order.resume_at, order.replay) for index, order in told.items()
    } == dict.fromkeys(range(3), (2, 0, False))
    assert feeds(talk.rerouted(0, 1, 2))[0] == (Kind.REPLAY, 0, (1, 2, 7), False)


def test_where_rows_of_a_replay_got_lost_on_the_way_everybody_starts_over_from_the_tokens() -> None:
    talk = Talk([7, 8])
    told: dict[int, Reroute] = {}
    for tick in range(1, 40):
        now = tick * limits.PROGRESS_S
        for index in range(3):
            talk.session.handle(e.Told(index, 1, Progress(0, 3, 9, busy=False)), now)
        if told := orders(talk.session.handle(e.Alarm(), now)):
            break
    assert {order.resume_at for order in told.values()} == {3}
    again = orders(talk.rerouted(1, complete=False))
    assert {(order.epoch, order.resume_at) for order in again.values()} == {(2, 0)}
    assert feeds(talk.rerouted(0, 1, 2))[0] == (Kind.REPLAY, 0, (1, 2, 7), False)


def test_a_peer_is_lost_with_all_the_places_that_it_fills() -> None:
    talk = Talk([7], peers="bab")
    assert opened(talk.lose(0)) == {0: "x", 2: "x"}


def test_who_was_lost_is_not_asked_again() -> None:
    talk = Talk([7])
    assert opened(talk.lose(1)) == {1: "x"}
    assert opened(talk.lose(1)) == {1: "y"}


@pytest.mark.parametrize(("index", "blames_downstream", "lost"), [(0, True, 1), (1, False, 1), (2, True, 2)])
def test_trouble_costs_the_one_that_is_to_blame(index: int, *, blames_downstream: bool, lost: int) -> None:
    talk = Talk([7])
    assert opened(talk.say(index, StageTrouble(0, "reset", blames_downstream))) == {lost: "x"}


@pytest.mark.parametrize(
    ("index", "message", "blamed"),
    [
        (1, StageTrouble(0, "its worker died"), [("b", Outcome.FAILED)]),
        (1, StageRefused("full"), [("b", Outcome.REFUSED)]),
        (2, Sampled(0, 9, 8), [("c", Outcome.WRONG)]),
        (2, Sampled(0, 3, 1 << 32), [("c", Outcome.WRONG)]),
        # A word against a neighbour weighs on both: it may be either of them.
        (
            0,
            StageTrouble(0, "reset", blames_downstream=True),
            [("b", Outcome.DISPUTED), ("a", Outcome.DISPUTED)],
        ),
        (2, StageTrouble(0, "reset", blames_downstream=True), [("c", Outcome.FAILED)]),
    ],
)
def test_whoever_is_lost_is_blamed_for_what_was_seen_of_it(
    index: int, message: SessionMessage, blamed: list[tuple[str, Outcome]]
) -> None:
    outputs = Talk([7]).say(index, message)
    assert [(each.peer, each.outcome) for each in outputs if isinstance(each, e.Blame)] == blamed


def test_what_was_said_of_a_neighbour_in_an_older_epoch_costs_nobody_anything() -> None:
    talk = Talk([7])
    talk.lose(1)
    assert talk.say(0, StageTrouble(0, "reset", blames_downstream=True)) == []
    assert opened(talk.say(0, StageTrouble(0, "its worker died"))) == {0: "x", 1: "x"}


def test_what_an_earlier_holder_of_a_place_says_or_ends_changes_nothing() -> None:
    talk = Talk([7])
    talk.lose(1)
    talk.open(1)
    assert talk.session.handle(e.Lost(1, 1, "reset"), 0) == []
    assert talk.session.handle(e.Told(1, 1, StageTrouble(1, "died")), 0) == []
    assert talk.session.places[1].peer == "x"


def test_an_answer_to_an_older_reroute_is_none_to_the_newer() -> None:
    talk = Talk([7])
    talk.lose(1)
    talk.open(1)
    talk.lose(1)
    talk.open(1)
    assert talk.say(0, Rerouted(1, 0, True)) == []
    assert talk.say(2, Rerouted(1, 0, True)) == []
    assert talk.session.phase is e.Phase.REROUTING
    assert feeds(talk.rerouted(0, 2))


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_token_counts_only_in_its_epoch_and_while_the_session_runs(epoch: int) -> None:
    talk = Talk([7])
    talk.lose(1)
    assert talk.say(2, Sampled(epoch, 3, 8)) == []
    talk.open(1)
    assert talk.say(2, Sampled(epoch, 3, 8)) == []
    talk.rerouted(0, 2)
    assert talk.say(2, Sampled(0, 3, 8)) == []
    assert talk.session.generated == [7]
    assert talk.say(2, Sampled(1, 3, 8))[0] == e.Emit(3, 8)


def test_a_session_that_loses_stage_after_stage_ends_in_a_sentence() -> None:
    talk = Talk([7], spares="".join(chr(ord("A") + number) for number in range(26)))
    for _ in range(limits.FAILOVERS_MAX):
        assert opened(talk.lose(1))
    _, failed = talk.lose(1)
    assert isinstance(failed, e.Fail)
    assert isinstance(failed.error, NoRoute)
    assert "lost 17 stages" in str(failed.error)


def test_a_stop_id_ends_a_session_whatever_the_last_stage_says_of_it() -> None:
    talk = Talk([7], stop_ids=(9,))
    assert feeds(talk.say(2, Sampled(0, 3, 8, ends=True)))
    assert talk.say(2, Sampled(0, 4, 9, ends=False)) == [e.Emit(4, 9), e.Finish("stop")]


def test_a_stage_is_told_no_more_stop_ids_than_the_wire_takes() -> None:
    order = replace(make_order(2, 5), stop_ids=tuple(range(1000)))
    session = Session(order, [e.Hop(PeerId("a"), RANGES[0])], lambda *_: None)
    opening = session.handle(e.Start(), 0)[0]
    assert isinstance(opening, e.Open)
    assert len(opening.message.stop_ids) == limits.STOP_IDS_MAX


@pytest.mark.parametrize(
    ("gone", "spares", "resort"), [("b", "xyz", None), ("b", "", "own"), ("ab", "xyz", None)]
)
def test_a_stage_that_is_being_opened_at_a_dead_peer_is_not_waited_for(
    gone: str, spares: str, resort: str | None
) -> None:
    session = unopened(gone, spares, resort)
    assert session.handle(e.Start(), 0)
    outputs = session.handle(e.Alarm(), limits.PROGRESS_S)
    assert opened(outputs)["abc".index(gone[0])] == (resort or "x")
    assert session.excluded == {gone[0]}


def test_a_stage_at_a_dead_peer_is_waited_for_if_nobody_else_has_its_layers() -> None:
    session = unopened("b", spares="", resort=None)
    session.handle(e.Start(), 0)
    assert not opened(session.handle(e.Alarm(), limits.PROGRESS_S))
    assert session.phase is e.Phase.OPENING


def test_a_stage_that_answers_counts_as_alive_whatever_the_mesh_says() -> None:
    session = unopened("b", spares="xyz", resort=None)
    session.handle(e.Start(), 0)
    session.handle(e.Told(1, session.places[1].incarnation, StageOpened(0)), 0)
    assert not opened(session.handle(e.Alarm(), limits.PROGRESS_S))


def unopened(gone: str, spares: str, resort: str | None) -> Session:
    """A session with the peers a, b and c in its places, none of which has answered."""
    hops = [e.Hop(PeerId(peer), layers) for peer, layers in zip("abc", RANGES, strict=True)]

    def replace_with(_layers: LayerRange, excluded: frozenset[PeerId]) -> PeerId | None:
        return next((PeerId(spare) for spare in spares if spare not in excluded), None)

    return Session(
        make_order(len(PROMPT), 5),
        hops,
        replace_with,
        lambda _layers, _excluded: PeerId(resort) if resort else None,
        is_gone=lambda peer: peer in gone,
    )


def test_a_mesh_that_takes_no_more_sessions_says_so_and_not_that_nodes_are_missing() -> None:
    talk = Talk(spares="x")
    talk.say(1, StageRefused("64 sessions are open here"))
    failed = talk.say(1, StageRefused("64 sessions are open here"))[-1]
    assert isinstance(failed, e.Fail)
    assert isinstance(failed.error, Overloaded)
    assert "64 sessions are open here" in str(failed.error)
    assert "offer" not in str(failed.error)
