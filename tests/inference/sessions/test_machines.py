"""Whatever order things arrive in and whoever dies, the log of a session is that of an unbroken run."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.sessions import events as e
from inference.sessions.session import Session
from protocols import limits
from protocols.errors import NoRoute
from protocols.ids import PeerId
from protocols.placement import LayerRange
from protocols.session import Progress, Sampled, StageOpened, StageRefused
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
    (failed,) = session.handle(e.Told(1, 1, Sampled(0, 5, 7)), 0)
    assert isinstance(failed, e.Fail)
    assert "position 5" in str(failed.error)


def test_a_token_from_any_but_the_last_stage_is_no_token() -> None:
    session = opened_session()
    (failed,) = session.handle(e.Told(0, 1, Sampled(0, 2, 7)), 0)
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
            session.handle(e.Told(index, 1, Progress(0, 0, work, index == 1)), now)
        outputs = session.handle(e.Alarm(), now)
        assert not any(isinstance(output, e.Open) for output in outputs)
    for tick in range(41, 60):
        now = tick * limits.PROGRESS_S
        session.handle(e.Told(0, 1, Progress(0, 0, 5, busy=False)), now)
        session.handle(e.Told(1, 1, Progress(0, 0, 40, busy=True)), now)
        if any(isinstance(output, e.Open) for output in session.handle(e.Alarm(), now)):
            assert now - 40 * limits.PROGRESS_S < 1.6
            return
    raise AssertionError("a stage that stands still was never given up")


def test_a_silent_stage_without_a_standby_is_given_longer_and_then_named() -> None:
    session = opened_session()
    assert not any(isinstance(output, e.Fail) for output in session.handle(e.Alarm(), 5))
    outputs = session.handle(e.Alarm(), limits.REPLY_S + 1)
    (failed,) = [output for output in outputs if isinstance(output, e.Fail)]
    assert isinstance(failed.error, NoRoute)
    assert "no standby is left for layers 0-0" in str(failed.error)


def test_rows_lost_between_idle_stages_are_fed_again() -> None:
    session = opened_session()
    session.handle(e.Told(1, 1, Sampled(0, 2, 7)), 1)
    for now in (2, 3, 4, 5, 6, 7):
        for index in (0, 1):
            session.handle(e.Told(index, 1, Progress(0, 3, 9, busy=False)), now)
        outputs = session.handle(e.Alarm(), now)
        if session.epoch == 1:
            assert len([output for output in outputs if isinstance(output, e.Send)]) == 2
            return
    raise AssertionError("an idle ring was never nudged")


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
