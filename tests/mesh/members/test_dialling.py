"""Who dials whom, and when."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.members.dialling import Dialling
from protocols import limits
from protocols.ids import PeerId
from protocols.streams import Plane
from tests.mesh.members.people import ONE, THREE, TWO

CONTROL, DATA = Plane.CONTROL, Plane.DATA


@pytest.mark.parametrize(
    ("was_up", "expected"),
    [
        (True, [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0, 5.0]),
        (False, [0.25, 0.5, 1, 2, 4, 8, 16, 32, 60, 60]),
    ],
)
def test_failures_double_the_pause_up_to_its_maximum(was_up: bool, expected: list[float]) -> None:
    dialling, now, pauses = Dialling(ONE), 0.0, []
    if was_up:
        for plane in Plane:
            dialling.connected(TWO, plane, now)
            dialling.lost(TWO, plane, now)
    dialling.want(TWO, now, within_s=0.0)
    for _ in expected:
        assert (TWO, CONTROL) in dialling.due(now)
        assert not dialling.due(now)
        for plane in Plane:
            dialling.ended(TWO, plane, now)
        pauses.append(dialling.deadline - now)
        now = dialling.deadline
    assert pauses == expected


@pytest.mark.parametrize(
    ("own", "peer", "wait_s"), [(ONE, TWO, limits.REDIAL_S_MIN), (TWO, ONE, limits.REDIAL_PATIENCE_S)]
)
def test_after_a_loss_the_lower_id_dials_soon_and_the_higher_one_when_it_hears_nothing(
    own: PeerId, peer: PeerId, wait_s: float
) -> None:
    dialling = Dialling(own)
    dialling.connected(peer, DATA, 0.0)
    dialling.lost(peer, DATA, 100.0)
    assert dialling.deadline == 100.0 + wait_s
    assert dialling.due(100.0 + wait_s) == [(peer, DATA)]


def test_a_connection_that_did_not_last_is_no_success() -> None:
    dialling, now, pauses = Dialling(ONE), 0.0, []
    for _ in range(6):
        dialling.connected(TWO, CONTROL, now)
        dialling.lost(TWO, CONTROL, now + 0.01)
        pauses.append(round(dialling.deadline - now - 0.01, 6))
        now = dialling.deadline
        dialling.due(now)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0]
    dialling.connected(TWO, CONTROL, now)
    dialling.lost(TWO, CONTROL, now + limits.REDIAL_S_MAX)
    assert dialling.deadline == now + limits.REDIAL_S_MAX + limits.REDIAL_S_MIN


def test_what_is_connected_is_not_dialled() -> None:
    dialling = Dialling(ONE)
    dialling.want(TWO, 0.0, within_s=1.0)
    dialling.connected(TWO, CONTROL, 0.5)
    dialling.connected(TWO, DATA, 0.5)
    dialling.want(TWO, 1.0, within_s=0.0)
    dialling.ended(TWO, DATA, 1.0)
    assert dialling.deadline == math.inf
    assert not dialling.due(1e9)


def test_fresh_addresses_shorten_the_wait_and_never_lengthen_it() -> None:
    dialling = Dialling(ONE)
    dialling.want(TWO, 0.0, within_s=3.0)
    dialling.want(TWO, 1.0, within_s=3.0)
    assert dialling.deadline == 3.0
    dialling.want(TWO, 1.0, within_s=0.0)
    assert dialling.due(1.0) == [(TWO, CONTROL), (TWO, DATA)]


def test_a_dial_that_ends_after_it_was_forgotten_is_nothing() -> None:
    dialling = Dialling(ONE)
    dialling.want(TWO, 0.0, within_s=0.0)
    dialling.due(0.0)
    dialling.forget(TWO)
    dialling.ended(TWO, CONTROL, 1.0)
    assert not dialling.is_wanted(TWO)
    assert dialling.deadline == math.inf


LINKS = st.tuples(st.sampled_from([TWO, THREE]), st.sampled_from(list(Plane)))
STEPS = st.lists(
    st.tuples(st.sampled_from(["want", "up", "lost", "ended", "due"]), LINKS, st.floats(0, 10)), max_size=80
)


@given(STEPS)
def test_every_wanted_link_is_up_or_being_dialled_or_will_be_within_the_longest_pause(
    steps: list[tuple[str, tuple[PeerId, Plane], float]],
) -> None:
    dialling, now, dialled, up = Dialling(ONE), 0.0, set(), set()
    for step, (peer, plane), gap in steps:
        now += gap
        match step:
            case "want":
                dialling.want(peer, now, within_s=1.0)
            case "up":
                dialling.connected(peer, plane, now)
                up.add((peer, plane))
            case "lost" if (peer, plane) in up:
                dialling.lost(peer, plane, now)
                up.discard((peer, plane))
            case "ended" if (peer, plane) in dialled:
                dialling.ended(peer, plane, now)
                dialled.discard((peer, plane))
            case "due":
                due = set(dialling.due(now))
                assert not due & up
                dialled |= due
        for link, attempt in dialling._attempts.items():
            waits = attempt.next_at <= now + limits.REDIAL_S_MAX
            assert waits or link in up or link in dialled
