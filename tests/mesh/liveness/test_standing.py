"""What is held of one member: what revives it, what does not, and that nothing ever goes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.liveness.detector import State
from mesh.liveness.standing import NEVER, Doubt, Standing
from protocols import limits
from simulations.network.internet import peer_id

BOOT, OTHER_BOOT = bytes(8), bytes([1]) * 8
MONITORS = [peer_id(number) for number in range(1, 4)]
ONE, TWO, THREE = MONITORS


def standing(incarnation: int = 5, state: State = State.ALIVE) -> Standing:
    made = Standing(since=0.0)
    made.alive(incarnation, BOOT, 0.0)
    made.state = state
    return made


def doubt(incarnation: int = 5, refused: bool = False, since: float = 1.0) -> Doubt:
    return Doubt(incarnation, refused, since)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize(
    ("incarnation", "is_news"), [(0, False), (4, False), (5, False), (6, True), (900, True)]
)
def test_only_a_higher_incarnation_is_alive_again(state: State, incarnation: int, is_news: bool) -> None:
    one = standing(5, state)
    assert one.alive(incarnation, OTHER_BOOT, 9.0) is is_news
    assert one.state is (State.ALIVE if is_news else state)
    assert (one.incarnation, one.boot) == ((incarnation, OTHER_BOOT) if is_news else (5, BOOT))


@pytest.mark.parametrize(
    ("incarnation", "state", "is_news"),
    [
        (5, State.ALIVE, True),
        (5, State.SUSPECT, True),
        (5, State.DEAD, True),
        (5, State.LEFT, False),
        (4, State.ALIVE, False),
        (6, State.DEAD, True),
    ],
)
def test_leaving_counts_once_and_for_no_incarnation_past(
    incarnation: int, state: State, is_news: bool
) -> None:
    one = standing(5, state)
    assert one.left(incarnation, 9.0) is is_news
    assert one.state is (State.LEFT if is_news else state)


def test_a_doubt_is_news_once() -> None:
    one = standing()
    assert one.doubt(ONE, doubt())
    assert not one.doubt(ONE, doubt(since=2.0))
    assert one.doubt(ONE, doubt(refused=True, since=3.0))
    assert one.doubts[ONE].since == 1.0
    assert not one.doubt(ONE, doubt(refused=False))
    assert one.doubt(ONE, doubt(6, since=4.0))
    assert one.doubts[ONE].since == 4.0


@pytest.mark.parametrize("incarnation", [0, 4, 5 + limits.INCARNATION_JUMP_MAX + 1])
def test_a_doubt_of_an_incarnation_past_or_impossible_is_none(incarnation: int) -> None:
    assert not standing().doubt(ONE, doubt(incarnation))


def test_of_one_subject_a_bounded_number_of_doubts_is_kept() -> None:
    one = standing()
    taken = [one.doubt(peer_id(number), doubt()) for number in range(100)]
    assert sum(taken) == len(one.doubts) == limits.SUSPICIONS_MAX


def test_those_who_have_no_say_do_not_crowd_out_the_monitors() -> None:
    one = standing()
    for number in range(100, 200):
        one.doubt(peer_id(number), doubt(), MONITORS)
    assert all(one.doubt(monitor, doubt(), MONITORS) for monitor in MONITORS)
    assert set(MONITORS) <= set(one.doubts)


def test_doubts_are_void_once_it_is_alive_again_but_for_those_of_the_new_incarnation() -> None:
    one = standing()
    one.doubt(ONE, doubt(5))
    one.doubt(TWO, doubt(6))
    one.weigh(MONITORS, 2, 1.0)
    one.alive(6, BOOT, 2.0)
    assert set(one.doubts) == {TWO}
    assert one.verdict_at(MONITORS, 1, 1.0) is None


@pytest.mark.parametrize(
    ("doubters", "refused", "verdict_at"),
    [
        ([], [], None),
        ([ONE], [ONE], None),
        ([ONE, TWO], [], 11.0),
        ([ONE, TWO], [ONE], 11.0),
        ([ONE, TWO], [ONE, TWO], 10.0 + limits.REFUTE_REFUSED_S),
        ([ONE, TWO, THREE], [ONE, THREE], 10.0 + limits.REFUTE_REFUSED_S),
        ([ONE, peer_id(77)], [], None),
    ],
)
def test_a_verdict_takes_two_monitors_and_less_time_if_both_were_refused(
    doubters: list[str], refused: list[str], verdict_at: float | None
) -> None:
    one = standing()
    for monitor in doubters:
        one.doubt(monitor, doubt(refused=monitor in refused))  # type: ignore[arg-type]
    one.weigh(MONITORS, 2, 10.0)
    one.weigh(MONITORS, 2, 10.4)
    assert one.verdict_at(MONITORS, 2, 1.0) == verdict_at


def test_a_single_monitor_cannot_push_the_incarnation_of_the_dead_up() -> None:
    one = standing()
    one.doubt(ONE, doubt(5))
    one.doubt(TWO, doubt(9000))
    one.weigh(MONITORS, 2, 1.0)
    one.bury(MONITORS, 2, 2.0)
    assert (one.state, one.incarnation) == (State.DEAD, 5)


def test_who_was_never_heard_of_is_dead_by_the_word_of_two() -> None:
    one = Standing(since=0.0)
    assert (one.state, one.incarnation) == (State.DEAD, NEVER)
    for monitor in (ONE, TWO):
        one.doubt(monitor, doubt(7))
    one.weigh(MONITORS, 2, 1.0)
    one.bury(MONITORS, 2, 1.0)
    assert not one.alive(7, BOOT, 2.0)
    assert one.alive(8, BOOT, 2.0)


def test_further_doubts_do_not_make_a_tombstone_younger() -> None:
    one = standing(5)
    one.doubt(ONE, doubt())
    one.bury([ONE], 1, 3.0)
    one.doubt(TWO, doubt())
    one.bury([ONE, TWO], 2, 4000.0)
    assert one.since == 3.0


def test_time_that_this_node_lost_is_given_back() -> None:
    one = standing()
    for monitor in (ONE, TWO):
        one.doubt(monitor, doubt(since=10.0))
    one.weigh(MONITORS, 2, 10.0)
    one.give_back(30.0)
    assert one.verdict_at(MONITORS, 2, 1.0) == 41.0
    assert one.doubts[ONE].since == 40.0


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("alive"), st.integers(0, 6)),
        st.tuples(st.just("left"), st.integers(0, 6)),
        st.tuples(st.just("doubt"), st.integers(0, 6), st.sampled_from(MONITORS), st.booleans()),
        st.tuples(st.just("weigh"), st.integers(1, 2)),
        st.tuples(st.just("bury"), st.integers(1, 2)),
    ),
    max_size=60,
)


@given(EVENTS)
def test_for_one_incarnation_no_state_goes_back_whatever_is_heard(events: list[tuple[object, ...]]) -> None:
    one, before = Standing(since=0.0), (NEVER, State.DEAD)
    for now, event in enumerate(events):
        match event:
            case ("alive", int(incarnation)):
                one.alive(incarnation, BOOT, now)
            case ("left", int(incarnation)):
                one.left(incarnation, now)
            case ("doubt", int(incarnation), str(monitor), bool(refused)):
                one.doubt(monitor, Doubt(incarnation, refused, now))  # type: ignore[arg-type]
            case ("weigh", int(needed)):
                one.weigh(MONITORS, needed, now)
            case ("bury", int(needed)) if one.state is not State.LEFT:
                one.bury(MONITORS, needed, now)
        assert (one.incarnation, one.state) >= before
        before = (one.incarnation, one.state)
        assert all(
            doubt.incarnation >= one.incarnation or one.state is State.DEAD for doubt in one.doubts.values()
        )
