"""Probing: pings in rounds, help from others, and whose fault a silence is."""

from __future__ import annotations

import math

import pytest

from mesh.liveness.probing import AskAfter, Health, Ping, Probing
from protocols import limits
from protocols.ids import PeerId
from simulations.network.internet import peer_id

SUBJECT, OTHER, *HELPERS = [peer_id(number) for number in range(1, 7)]


def probing(helpers: list[PeerId] | None = None) -> Probing:
    return Probing(lambda _: HELPERS if helpers is None else helpers)


def test_a_round_pings_everybody_once_and_the_next_is_a_second_later() -> None:
    machine = probing()
    assert machine.begin_round([SUBJECT, OTHER], 10.0) == [Ping(SUBJECT, 1), Ping(OTHER, 2)]
    assert machine.round_at == 10.0 + limits.PROBE_INTERVAL_S
    assert machine.deadline == 10.0 + limits.PROBE_S
    machine.reached(SUBJECT, 1)
    machine.reached(OTHER, 2)
    assert machine.deadline == math.inf
    assert machine.due(11.0) == ([], [])


def test_a_pong_to_another_ping_counts_for_nothing() -> None:
    machine = probing([])
    machine.begin_round([SUBJECT], 0.0)
    machine.reached(SUBJECT, 7)
    machine.reached(OTHER, 1)
    assert machine.due(limits.PROBE_S) == ([], [SUBJECT])


def test_three_others_are_asked_after_a_silent_peer_and_one_that_reaches_it_is_enough() -> None:
    machine = probing()
    machine.begin_round([SUBJECT], 0.0)
    inquiries, unreachable = machine.due(0.5)
    assert inquiries == [AskAfter(via, SUBJECT, 1) for via in HELPERS[: limits.INQUIRIES]]
    assert unreachable == []
    assert machine.deadline == 0.5 + limits.INQUIRY_S
    machine.not_reached(SUBJECT, HELPERS[0], 1)
    machine.reached(SUBJECT, 1)
    assert machine.due(1.0) == ([], [])


@pytest.mark.parametrize(("nacks", "is_blamed"), [(3, True), (2, True), (1, False), (0, False)])
def test_the_peer_is_to_blame_only_if_most_of_those_asked_say_so(nacks: int, is_blamed: bool) -> None:
    machine = probing()
    machine.begin_round([SUBJECT], 0.0)
    machine.due(0.5)
    for via in HELPERS[:nacks]:
        machine.not_reached(SUBJECT, via, 1)
    assert machine.due(0.9) == ([], [SUBJECT] if is_blamed else [])
    assert machine.health.points == (0 if is_blamed else 1)


def test_a_node_that_reaches_nobody_suspects_after_three_rounds_all_the_same() -> None:
    machine, now, verdicts = probing(), 0.0, []
    for _ in range(limits.UNEXPLAINED_ROUNDS):
        machine.begin_round([SUBJECT], now)
        machine.due(machine.deadline)
        verdicts.append(machine.due(machine.deadline)[1])
        now += 2.0
    assert verdicts == [[], [], [SUBJECT]]


def test_an_answer_in_between_starts_the_count_of_rounds_anew() -> None:
    machine, now = probing(), 0.0
    for is_answered in (False, False, True, False, False):
        (ping,) = machine.begin_round([SUBJECT], now)
        if is_answered:
            machine.reached(SUBJECT, ping.nonce)
        else:
            machine.due(machine.deadline)
            assert machine.due(machine.deadline)[1] == []
        now += 2.0


def test_somebody_who_was_not_asked_has_no_say() -> None:
    machine = probing(HELPERS[:2])
    machine.begin_round([SUBJECT], 0.0)
    machine.due(0.5)
    for _ in range(2):
        machine.not_reached(SUBJECT, OTHER, 1)
    machine.not_reached(SUBJECT, HELPERS[0], 99)
    assert machine.due(0.9) == ([], [])


def test_a_peer_is_not_pinged_while_it_owes_and_forgotten_when_others_monitor_it() -> None:
    machine = probing()
    machine.begin_round([SUBJECT, OTHER], 0.0)
    assert machine.begin_round([SUBJECT], 0.2) == []
    assert machine.ping(SUBJECT, 0.3) == []
    machine.due(0.5)
    assert machine.due(1.0)[1] == []
    assert machine.begin_round([SUBJECT], 1.2) == [Ping(SUBJECT, 3)]


def test_lost_time_is_given_back() -> None:
    machine = probing()
    machine.begin_round([SUBJECT], 0.0)
    machine.give_back(20.0)
    assert machine.due(20.4) == ([], [])
    assert machine.deadline == 20.5


def test_lateness_stretches_deadlines_up_to_twofold_and_rounds_on_time_shrink_them_again() -> None:
    health = Health()
    for _ in range(10):
        health.blame()
    assert health.stretch == 2.0
    machine = probing()
    machine.health = health
    machine.begin_round([SUBJECT], 0.0)
    assert machine.deadline == pytest.approx(limits.PROBE_S * 1.75)  # nothing was owed as it began
    machine.reached(SUBJECT, 1)
    for number in range(10):
        (ping,) = machine.begin_round([SUBJECT], 1.0 + number)
        machine.reached(SUBJECT, ping.nonce)
    assert health.stretch == 1.0
