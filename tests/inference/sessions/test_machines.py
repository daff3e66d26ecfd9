"""Whatever order things arrive in and whoever dies, the log of a session is that of an unbroken run."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.sessions import events as e
from inference.sessions.session import Session
from protocols import limits
from protocols.errors import NoRoute
from protocols.ids import PeerId
from protocols.observations import Outcome
from protocols.placement import LayerRange
from protocols.session import Progress, Rerouted, Sampled, StageOpened, StageRefused
from protocols.tensor import Kind
from tests.inference.sessions.machines import Machines, expected, make_order

RANGES = [LayerRange(at, at + 1) for at in range(4)]


@settings(max_examples=300, deadline=None)
@given(
    st.randoms(use_true_random=False), st.integers(1, 4), st.integers(0, 3), st.booleans(), st.integers(1, 8)
)
def test_deaths_change_no_token(random: Random, stages: int, kills: int, merge: bool, prompt: int) -> None:
    order = make_order(prompt, 12)
    machines = Machines(order, RANGES[:stages], kills + 1, random, merge=merge)
    machines.run(kills)
    assert machines.end == e.Finish("length")
    assert machines.emitted == expected(order, RANGES[:stages])


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_with_too_many_deaths_a_session_ends_in_an_error_after_right_tokens(
    random: Random, stages: int
) -> None:
    order = make_order(3, 12)
    machines = Machines(order, RANGES[:stages], 1, random, merge=True)
    machines.run(1)
    wanted = expected(order, RANGES[:stages])
    assert machines.emitted == wanted[: len(machines.emitted)]
    assert machines.end == e.Finish("length") or isinstance(machines.end, e.Fail)


def opened_session(spares: dict[LayerRange, list[PeerId]] | None = None) -> Session:
    """Two stages, both open at time 0, with the prompt fed."""

    def replace(layers: LayerRange, excluded: frozenset[PeerId]) -> PeerId | None:
        return next((peer for peer in (spares or {}).get(layers, []) if peer not in excluded), None)

    session = Session(
        make_order(2, 5), [e.Hop(PeerId("a"), RANGES[0]), e.Hop(PeerId("b"), RANGES[1])], replace
    )
    session.handle(e.Start(), 0)
    session.handle(e.Told(0, 1, StageOpened(0)), 0)
    session.handle(e.Told(1, 1, StageOpened(0)), 0)
    return session


def alarms(session: Session, from_s: float, to_s: float) -> list[e.Output]:
    """What a session does if it hears nothing from then to then."""
    ticks = range(1, int((to_s - from_s) / limits.PROGRESS_S) + 1)
    return [
        output for tick in ticks for output in session.handle(e.Alarm(), from_s + tick * limits.PROGRESS_S)
    ]


def test_rows_are_fed_only_once_every_stage_is_open() -> None:
    session = Session(
        make_order(2, 5), [e.Hop(PeerId("a"), RANGES[0]), e.Hop(PeerId("b"), RANGES[1])], lambda *_: None
    )
    opened = session.handle(e.Start(), 0)
    assert [output.peer for output in opened if isinstance(output, e.Open)] == ["a", "b"]
    assert session.handle(e.Told(1, 1, StageOpened(0)), 0) == []
    (feed,) = session.handle(e.Told(0, 1, StageOpened(0)), 0)
    assert isinstance(feed, e.Feed)
    assert (feed.position, feed.tokens, feed.sample) == (0, (1, 2), True)


def test_tokens_of_an_older_epoch_change_nothing() -> None:
    session = opened_session({RANGES[0]: [PeerId("c")]})
    session.handle(e.Told(1, 1, Sampled(0, 2, 7)), 0)
    session.handle(e.Lost(0, 1, "killed"), 0)
    assert session.handle(e.Told(1, 1, Sampled(0, 3, 8)), 0) == []
    assert session.generated == [7]


def test_a_stage_that_samples_another_position_is_given_up() -> None:
    session = opened_session()
    blame, failed = session.handle(e.Told(1, 1, Sampled(0, 5, 7)), 0)
    assert isinstance(blame, e.Blame)
    assert (blame.peer, blame.outcome) == ("b", Outcome.WRONG)
    assert isinstance(failed, e.Fail)
    assert "position 5" in str(failed.error)


def test_a_token_from_any_but_the_last_stage_is_no_token() -> None:
    session = opened_session()
    blame, failed = session.handle(e.Told(0, 1, Sampled(0, 2, 7)), 0)
    assert isinstance(blame, e.Blame)
    assert (blame.peer, blame.outcome) == ("a", Outcome.WRONG)
    assert isinstance(failed, e.Fail)
    assert session.generated == []


def test_a_refusal_takes_the_standby() -> None:
    session = opened_session({RANGES[1]: [PeerId("c")]})
    outputs = session.handle(e.Told(1, 1, StageRefused("full")), 0)
    assert [output.peer for output in outputs if isinstance(output, e.Open)] == ["c"]


def test_a_busy_stage_that_advances_is_waited_for_and_one_that_stands_still_is_not() -> None:
    session = opened_session({RANGES[1]: [PeerId("c")]})
    for tick in range(1, 41):
        now = tick * limits.PROGRESS_S
        for index, work in ((0, 5), (1, tick)):
            session.handle(e.Told(index, 1, Progress(0, 0, work, index == 1, 10.0, 2)), now)
        outputs = session.handle(e.Alarm(), now)
        assert not any(isinstance(output, e.Open) for output in outputs)
    for tick in range(41, 60):
        now = tick * limits.PROGRESS_S
        session.handle(e.Told(0, 1, Progress(0, 0, 5, busy=False)), now)
        session.handle(e.Told(1, 1, Progress(0, 0, 40, True, 10.0, 2)), now)
        if any(isinstance(output, e.Open) for output in session.handle(e.Alarm(), now)):
            assert now - 40 * limits.PROGRESS_S < 1.6
            return
    raise AssertionError("a stage that stands still was never given up")


def test_a_silent_stage_without_a_standby_is_given_longer_and_then_named() -> None:
    session = opened_session()
    waited = alarms(session, 0, limits.REPLY_S)
    assert not any(isinstance(output, e.Fail) for output in waited)
    # Once per standstill and stage, however long it is waited for.
    assert [(each.peer, each.outcome) for each in waited if isinstance(each, e.Blame)] == [
        ("a", Outcome.LATE),
        ("b", Outcome.LATE),
    ]
    outputs = alarms(session, limits.REPLY_S, limits.REPLY_S + 1)
    (failed,) = [output for output in outputs if isinstance(output, e.Fail)]
    assert isinstance(failed.error, NoRoute)
    assert "no standby is left for layers 0-0" in str(failed.error)


def test_rows_lost_between_idle_stages_are_fed_again_and_later_each_time() -> None:
    session = opened_session()
    session.handle(e.Told(1, 1, Sampled(0, 2, 7)), 0)
    nudged_s = []
    for tick in range(1, 400):
        now = tick * limits.PROGRESS_S
        for index in (0, 1):
            session.handle(e.Told(index, 1, Progress(session.epoch, 3, 9, busy=False)), now)
        outputs = session.handle(e.Alarm(), now)
        if orders := [output.message for output in outputs if isinstance(output, e.Send)]:
            assert [(order.epoch, order.resume_at) for order in orders] == [(session.epoch, 2)] * 2
            nudged_s.append(now)
            for index in (0, 1):
                outputs = session.handle(e.Told(index, 1, Rerouted(session.epoch, 0, True)), now)
            assert outputs == [e.Feed(Kind.DECODE, session.epoch, 2, (7,), sample=True)]
        if len(nudged_s) == 3:
            break
    pauses = [after - before for before, after in itertools.pairwise([0.0, *nudged_s])]
    assert pauses == pytest.approx([limits.IDLE_S, 2 * limits.IDLE_S, 3 * limits.IDLE_S], abs=0.3)


def test_idle_stages_that_get_rows_now_and_then_wait_for_a_slow_link() -> None:
    session = opened_session()
    for tick in range(1, 400):
        now = tick * limits.PROGRESS_S
        for index in (0, 1):
            session.handle(e.Told(index, 1, Progress(0, tick // 16, tick // 16, busy=False)), now)
        session.handle(e.Alarm(), now)
    assert session.epoch == 0


def test_rows_that_got_lost_are_fed_again_though_the_workers_advance_with_other_sessions() -> None:
    session = opened_session()
    session.handle(e.Told(1, 1, Sampled(0, 2, 7)), 0)
    for tick in range(1, 400):
        now = tick * limits.PROGRESS_S
        for index in (0, 1):
            session.handle(e.Told(index, 1, Progress(0, 3, tick, busy=False)), now)
        if any(isinstance(output, e.Send) for output in session.handle(e.Alarm(), now)):
            assert now == pytest.approx(limits.IDLE_S, abs=0.3)
            return
    raise AssertionError("rows that got lost were never fed again")


def test_a_first_step_of_many_rows_is_given_longer_than_a_known_one() -> None:
    session = opened_session({RANGES[1]: [PeerId("c")]})
    for tick in range(1, 100):
        now = tick * limits.PROGRESS_S
        session.handle(e.Told(0, 1, Progress(0, 0, 5, busy=False)), now)
        session.handle(e.Told(1, 1, Progress(0, 0, 0, busy=True)), now)
        if any(isinstance(output, e.Open) for output in session.handle(e.Alarm(), now)):
            assert limits.FIRST_STEP_S < now < limits.FIRST_STEP_S + 1
            return
    raise AssertionError("a stage that stands still was never given up")


@pytest.mark.parametrize(("tokens", "patience_s"), [(1, 3 * 0.8), (0, 3 * 0.8 * 2)])
def test_patience_is_measured_in_steps_of_as_many_rows(tokens: int, patience_s: float) -> None:
    session = opened_session({RANGES[1]: [PeerId("c")]})
    if tokens:
        session.handle(e.Told(1, 1, Sampled(0, 2, 7)), 0)
    for tick in range(1, 100):
        now = tick * limits.PROGRESS_S
        session.handle(e.Told(0, 1, Progress(0, 0, 5, busy=False)), now)
        session.handle(e.Told(1, 1, Progress(0, 0, 0, True, 800.0, 1)), now)
        if any(isinstance(output, e.Open) for output in session.handle(e.Alarm(), now)):
            assert patience_s < now <= patience_s + 2 * limits.PROGRESS_S
            return
    raise AssertionError("a stage that stands still was never given up")


def test_a_stage_that_is_rebuilt_is_given_time_for_all_of_its_rows() -> None:
    session = opened_session({RANGES[1]: [PeerId("c"), PeerId("d")]})
    session.handle(e.Told(1, 1, Sampled(0, 2, 7)), 0)
    session.handle(e.Lost(1, 1, "killed"), 0)
    session.handle(e.Told(1, 2, StageOpened(1)), 0)
    session.handle(e.Told(0, 1, Rerouted(1, 2, complete=True)), 0)
    for tick in range(1, 100):
        now = tick * limits.PROGRESS_S
        session.handle(e.Told(0, 1, Progress(1, 3, 5, busy=False)), now)
        session.handle(e.Told(1, 2, Progress(1, 0, 0, True, 800.0, 1)), now)
        if any(isinstance(output, e.Open) for output in session.handle(e.Alarm(), now)):
            assert 3 * 3 * 0.8 < now < 3 * 3 * 0.8 + 1
            return
    raise AssertionError("a stage that stands still was never given up")


def test_a_silent_stage_is_given_no_more_time_for_more_rows() -> None:
    session = opened_session({RANGES[1]: [PeerId("c")]})
    for tick in range(1, 100):
        now = tick * limits.PROGRESS_S
        session.handle(e.Told(0, 1, Progress(0, 0, 5, busy=False)), now)
        if tick == 1:
            session.handle(e.Told(1, 1, Progress(0, 0, 0, True, 800.0, 1)), now)
        if any(isinstance(output, e.Open) for output in session.handle(e.Alarm(), now)):
            assert 3 * 0.8 < now - limits.PROGRESS_S < 3 * 0.8 + 1
            return
    raise AssertionError("a silent stage was never given up")


def test_what_this_process_slept_through_counts_against_nobody() -> None:
    session = opened_session({RANGES[0]: [PeerId("c")], RANGES[1]: [PeerId("d")]})
    alarms(session, 0, 0.5)
    assert not any(isinstance(output, e.Open) for output in session.handle(e.Alarm(), 7))
    assert session.epoch == 0
    assert any(isinstance(output, e.Open) for output in alarms(session, 7, 8))


def test_a_stage_that_lacks_rows_where_none_were_asked_for_is_given_up() -> None:
    session = opened_session({RANGES[0]: [PeerId("c")]})
    for _ in range(2 * limits.FAILOVERS_MAX):
        outputs = session.handle(e.Told(0, 1, Rerouted(session.epoch, 0, complete=False)), 0)
        if opened := [output.peer for output in outputs if isinstance(output, e.Open)]:
            assert opened == ["c"]
            return
    raise AssertionError("a lying stage kept the session in circles")


def test_a_token_that_is_no_token_of_the_model_is_never_emitted() -> None:
    session = opened_session({RANGES[1]: [PeerId("c")]})
    session.order = replace(session.order, vocabulary=100)
    outputs = session.handle(e.Told(1, 1, Sampled(0, 2, 100)), 0)
    assert [output.peer for output in outputs if isinstance(output, e.Open)] == ["c"]
    assert session.generated == []


def test_a_client_that_leaves_ends_it_once() -> None:
    session = opened_session()
    assert session.handle(e.Ended("cancelled"), 0) == [e.Finish("cancelled")]
    assert session.handle(e.Ended("cancelled"), 0) == []


def test_stop_ids_and_length_end_a_session() -> None:
    session = opened_session()
    outputs: list[e.Output] = []
    for position in range(2, 7):
        outputs = session.handle(e.Told(1, 1, Sampled(0, position, 9)), 0)
    assert outputs == [e.Emit(6, 9), e.Finish("length")]
