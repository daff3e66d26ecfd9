"""Rows that an earlier session left: which of them a later one goes by, and that no token changes, whoever dies."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.sessions import events as e
from inference.sessions.place import Place
from inference.sessions.prefix import begin, begin_again, block_names, can_be_kept
from inference.sessions.session import Session
from protocols import limits
from protocols.ids import PeerId
from protocols.observations import Outcome
from protocols.placement import LayerRange
from protocols.session import Reroute, Rerouted, Sampled, StageOpened
from protocols.tensor import Kind
from tests.inference.sessions.machines import Kept, Machines, expected, make_order

CHUNK = 4
RANGES = [LayerRange(at, at + 1) for at in range(4)]
ADA, BOB, CAT, DAN = (PeerId(name) for name in ("ada", "bob", "cat", "dan"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PREFILL_CHUNK_ROWS", CHUNK)


def place(peer: PeerId, at: int = 0, *, kept: int = 0, base: int = 0, fresh: bool = True) -> Place:
    return Place(peer, RANGES[at], 0.0, 0.0, fresh=fresh, kept=kept, base=base)


# Names ---------------------------------------------------------------------------------------------------------------


def test_a_block_is_named_after_all_tokens_up_to_its_end() -> None:
    order = make_order(11, 5)
    names = block_names(order, ())
    assert len(names) == 2
    other = replace(order, prompt=(*order.prompt[:4], 99, *order.prompt[5:]))
    assert block_names(other, ())[0] == names[0]
    assert block_names(other, ())[1] != names[1]
    earlier = replace(order, prompt=(99, *order.prompt[1:]))
    assert not set(block_names(earlier, ())) & set(names)


def test_and_after_whoever_its_rows_came_through() -> None:
    order = make_order(8, 5)
    ways = [(), (place(ADA),), (place(BOB),), (place(ADA), place(BOB, 1)), (place(ADA, 1),)]
    names = [block_names(order, way) for way in ways]
    assert len({name for each in names for name in each}) == 2 * len(ways)


def test_there_are_no_more_names_than_an_opening_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PREFIX_BLOCKS_MAX", 3)
    order = make_order(40, 5)
    assert len(block_names(order, ())) == 3
    assert can_be_kept(12, order)
    assert not can_be_kept(16, order)


def test_an_order_that_shares_no_prefix_names_nothing_and_is_left_nothing() -> None:
    order = replace(make_order(11, 5), shares_prefix=False)
    assert block_names(order, ()) == ()
    assert [can_be_kept(rows, order) for rows in (0, 4)] == [True, False]


@pytest.mark.parametrize(("rows", "can"), [(0, True), (3, False), (4, True), (8, False), (12, False)])
def test_what_can_be_kept_are_whole_blocks_without_the_last_row(rows: int, *, can: bool) -> None:
    assert can_be_kept(rows, make_order(8, 5)) is can


# Where to begin ------------------------------------------------------------------------------------------------------


def test_a_session_begins_at_the_row_that_all_stages_have() -> None:
    places = [place(ADA, kept=8), place(BOB, kept=4), place(CAT, kept=12)]
    begin(places)
    assert [each.base for each in places] == [4, 4, 4]


@pytest.mark.parametrize(("kept", "bases"), [(8, (8, 8, 8)), (12, (8, 8, 8)), (4, None), (0, None)], ids=str)
def test_a_standby_needs_the_rows_that_the_journal_before_it_lacks(
    kept: int, bases: tuple[int, ...] | None
) -> None:
    places = [
        place(ADA, base=8, fresh=False),
        place(DAN, 1, kept=kept),
        place(CAT, 2, base=8, fresh=False),
    ]
    assert begin_again(places) is (bases is not None)
    assert bases is None or tuple(each.base for each in places) == bases


def test_standbys_at_the_front_are_fed_from_the_row_that_they_have() -> None:
    places = [place(ADA, kept=8), place(BOB, 1, kept=4), place(CAT, 2, base=12, fresh=False)]
    assert begin_again(places)
    assert [each.base for each in places] == [4, 4, 12]


# The machine ---------------------------------------------------------------------------------------------------------


def opened(rows: tuple[int, ...], prompt: int = 10) -> tuple[Session, list[e.Output]]:
    """Stages of ada, bob and cat that had so many rows; dan stands by for each."""
    order = make_order(prompt, 9)
    hops = [e.Hop(peer, layers) for peer, layers in zip((ADA, BOB, CAT), RANGES, strict=False)]
    session = Session(order, hops, lambda _, excluded: None if DAN in excluded else DAN)
    session.handle(e.Start(), 0)
    outputs: list[e.Output] = []
    for index, count in enumerate(rows):
        outputs = session.handle(e.Told(index, 1, StageOpened(0, count)), 0)
    return session, outputs


def test_only_the_rest_of_the_prompt_is_fed() -> None:
    session, outputs = opened((8, 4, 8))
    assert outputs == [e.Feed(Kind.PREFILL, 0, 4, session.order.prompt[4:], sample=True)]


def test_a_stage_that_cannot_have_what_it_says_is_seen_to_be_wrong() -> None:
    session, outputs = opened((9,))
    assert isinstance(outputs[0], e.Blame)
    assert outputs[0].outcome is Outcome.WRONG
    assert session.places[0].peer == DAN


def lost_after_a_token(index: int, kept: int) -> tuple[Session, list[e.Output]]:
    """What follows when a standby that kept so many rows has opened, of a session that began at row 8."""
    session, _ = opened((8, 8, 8))
    session.handle(e.Told(2, 1, Sampled(0, 10, 77)), 1)
    opening = [out for out in session.handle(e.Lost(index, 1, "gone"), 2) if isinstance(out, e.Open)]
    assert [(out.peer, len(out.message.prefix)) for out in opening] == [(DAN, 2)]
    return session, session.handle(e.Told(index, 2, StageOpened(1, kept)), 3)


def reroutes(outputs: list[e.Output]) -> dict[int, Reroute]:
    return {
        out.index: out.message
        for out in outputs
        if isinstance(out, e.Send) and isinstance(out.message, Reroute)
    }


def test_a_standby_that_has_the_same_rows_is_rebuilt_from_the_journal() -> None:
    _, outputs = lost_after_a_token(1, 8)
    assert {at: (order.resume_at, order.replay) for at, order in reroutes(outputs).items()} == {
        0: (10, True),
        2: (10, False),
    }


def test_with_a_standby_that_lacks_them_all_start_over_from_the_tokens() -> None:
    session, outputs = lost_after_a_token(1, 4)
    orders = reroutes(outputs)
    assert {
        at: (order.epoch, order.resume_at, order.replay) for at, order in orders.items()
    } == dict.fromkeys(range(3), (2, 0, False))
    for index in range(3):
        incarnation = session.places[index].incarnation
        outputs = session.handle(e.Told(index, incarnation, Rerouted(2, 0, True)), 4)
    assert [(out.kind, out.position, len(out.tokens)) for out in outputs if isinstance(out, e.Feed)] == [
        (Kind.REPLAY, 0, 10),
        (Kind.DECODE, 10, 1),
    ]


@pytest.mark.parametrize("kept", [0, 4, 8])
def test_a_first_stage_is_fed_what_it_has_not(kept: int) -> None:
    session, outputs = lost_after_a_token(0, kept)
    for index in reroutes(outputs):
        outputs = session.handle(e.Told(index, 1, Rerouted(1, 0, True)), 4)
    (recovered,) = (out for out in outputs if isinstance(out, e.Recovered))
    assert recovered.replayed_rows == 10 - kept
    feeds = [out for out in outputs if isinstance(out, e.Feed)]
    assert feeds[0] == e.Feed(Kind.REPLAY, 1, kept, tuple(session.tokens[kept:10]), sample=False)


# Machines joined -----------------------------------------------------------------------------------------------------


def run(
    order: e.Order,
    stages: int,
    copies: int,
    random: Random,
    kept: Kept,
    *,
    kills: int = 0,
    merge: bool = True,
) -> Machines:
    machines = Machines(order, RANGES[:stages], copies, random, merge=merge, kept=kept)
    machines.run(kills)
    assert machines.end == e.Finish("length")
    assert machines.emitted == expected(order, RANGES[:stages])
    return machines


@pytest.mark.parametrize("stages", [1, 3])
def test_a_second_session_computes_only_what_the_first_did_not(stages: int) -> None:
    kept, order = Kept(), make_order(11, 5)
    run(order, stages, 1, Random(1), kept)
    again = run(replace(order, prompt=(*order.prompt[:9], 5, 6, 7)), stages, 1, Random(2), kept)
    assert [holder.computed for holder in again.holders.values()] == [16 - 1 - 8] * stages


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.randoms(use_true_random=False),
    st.integers(1, 4),
    st.integers(0, 3),
    st.booleans(),
    st.integers(1, 18),
    st.integers(0, 18),
)
def test_deaths_change_no_token_of_sessions_that_take_over_rows(
    random: Random, stages: int, kills: int, merge: bool, prompt: int, alike: int
) -> None:
    order, kept = make_order(prompt, 8), Kept()
    for _ in range(2):
        run(order, stages, kills + 1, random, kept, kills=kills, merge=merge)
    kept.forget(random, random.choice([0.0, 0.2, 0.5]))
    other = replace(order, prompt=(*order.prompt[:alike], *range(500, 500 + max(1, prompt - alike))))
    other = replace(other, rows_max=len(other.prompt) + 8)
    run(other, stages, kills + 1, random, kept, kills=kills, merge=merge)


def test_deaths_do_meet_sessions_that_have_taken_over_rows() -> None:
    """Else the test above would show nothing."""
    order, kept, rebuilt, over = make_order(14, 8), Kept(), 0, 0
    for seed in range(60):
        # The standbys get their rows from earlier sessions that went over them.
        random = Random(seed)
        machines = run(order, 3, 3, random, kept, kills=2)
        if not all(each.base for each in machines.session.places):
            over += machines.session.failovers > 0
        elif machines.session.failovers:
            rebuilt += 1
    assert rebuilt > 3
    assert over > 3
