"""The detector of one node, as data: every transition, who is told, who is believed, and when this node blames itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.liveness import suspicion_events as e
from mesh.liveness.detector import MemberAlive, MemberDead, MemberLeft, MemberSuspect, State
from mesh.liveness.probing import AskAfter, Ping
from mesh.liveness.ring import Ring
from mesh.liveness.suspicion import LATE_S, SHOWN_PAUSE_S, Suspicion
from protocols import limits
from protocols.ids import PeerId
from protocols.liveness import INCARNATION_MAX, Alive, Left, LivenessItem, Suspect
from simulations.network.internet import peer_id

OWN, *OTHERS = [peer_id(number) for number in range(1, 6)]
A, B, C, D = OTHERS
BOOT, OTHER_BOOT = bytes(8), bytes([1]) * 8
RETOLD = limits.REFUTE_PAUSE_S


def node(*members: PeerId, incarnation: int = 10, connected: bool = True, now: float = 0.0) -> Suspicion:
    """A node whose members have said that they live, at incarnation 5; the first round of pings is answered."""
    machine = Suspicion(OWN, incarnation, BOOT)
    machine.start(now)
    machine.handle(e.Candidates(frozenset(members)), now)
    for member in members:
        if connected:
            machine.handle(e.Connected(member), now)
        machine.handle(e.Heard(member, Alive(5, BOOT)), now)
    return machine


def hear(machine: Suspicion, author: PeerId, item: LivenessItem, now: float = 0.0) -> list[e.Output]:
    return machine.handle(e.Heard(author, item), now)


def ring(machine: Suspicion, until: float, answering: frozenset[PeerId] = frozenset()) -> list[e.Output]:
    """Every alarm on time up to `until`; `answering` peers send their pongs at once."""
    outputs: list[e.Output] = []
    while machine.deadline <= until:
        now = machine.deadline
        fresh = machine.handle(e.Alarm(), now)
        outputs += fresh
        for output in fresh:
            if isinstance(output, Ping) and output.peer in answering:
                machine.handle(e.Ponged(output.peer, output.nonce), now)
            elif isinstance(output, AskAfter) and output.via in answering:
                reached = output.subject in answering
                machine.handle(e.Answered(output.via, output.subject, output.nonce, reached), now)
    return outputs


ALL = frozenset(OTHERS)


# Alive, dead, left -------------------------------------------------------------------------------------------------------


def test_a_member_that_was_never_heard_of_is_dead_and_not_listed() -> None:
    machine = Suspicion(OWN, 1, BOOT)
    machine.start(0.0)
    machine.handle(e.Candidates(frozenset({A})), 0.0)
    assert machine.state(A) is State.DEAD
    assert machine.states() == {}


def test_who_connects_lives_and_is_told_this_nodes_incarnation() -> None:
    machine = Suspicion(OWN, 7, BOOT)
    machine.start(0.0)
    machine.handle(e.Candidates(frozenset({A})), 0.0)
    assert machine.handle(e.Connected(A), 0.0) == [MemberAlive(A, 0), e.Tell(A, (Alive(7, BOOT),))]


def test_who_was_connected_before_it_became_a_member_lives_from_then_on() -> None:
    machine = Suspicion(OWN, 7, BOOT)
    machine.start(0.0)
    assert machine.handle(e.Connected(A), 0.0) == []
    assert MemberAlive(A, 0) in machine.handle(e.Candidates(frozenset({A, OWN})), 0.0)
    assert OWN not in machine.states()


def test_alive_is_idempotent_and_an_old_incarnation_is_ignored() -> None:
    machine = node(A, B, C)
    for incarnation in (5, 4, 0):
        assert hear(machine, A, Alive(incarnation, BOOT)) == []
    hear(machine, A, Alive(5, OTHER_BOOT))  # two at one incarnation: the first one counts
    assert (machine.incarnation_of(A), machine.boot_of(A)) == (5, BOOT)
    assert hear(machine, A, Alive(6, BOOT)) == []
    assert machine.incarnation_of(A) == 6


def test_another_run_of_a_living_member_is_told_and_so_is_the_first_that_says_its_boot() -> None:
    machine = node(A)
    hear(machine, A, Alive(5, BOOT))
    assert hear(machine, A, Alive(6, OTHER_BOOT)) == [MemberAlive(A, 6)]
    machine = node()
    machine.handle(e.Candidates(frozenset({A, OWN})), 0.0)
    machine.handle(e.Connected(A), 0.0)
    assert hear(machine, A, Alive(5, BOOT)) == [MemberAlive(A, 5)]
    assert machine.boot_of(A) == BOOT


@pytest.mark.parametrize("incarnation", [5, 2])
def test_a_run_whose_disk_has_forgotten_an_earlier_one_is_shown_that_and_goes_past_it(
    incarnation: int,
) -> None:
    machine, restarted = node(A), Suspicion(A, incarnation, OTHER_BOOT)
    restarted.start(0.0)
    for event in (e.Candidates(frozenset({OWN})), e.Connected(OWN)):
        restarted.handle(event, 0.0)
    (told,) = hear(machine, A, Alive(incarnation, OTHER_BOOT))
    assert told == e.Tell(A, (Suspect(A, 5),))
    (again,) = [
        each.items[0] for each in hear(restarted, OWN, Suspect(A, 5), 1.0) if isinstance(each, e.Tell)
    ]
    assert hear(machine, A, again) == [MemberAlive(A, 6)]
    assert machine.boot_of(A) == OTHER_BOOT


def test_two_runs_with_one_key_are_not_shown_each_other_all_the_time() -> None:
    machine = node(A)
    assert hear(machine, A, Alive(5, OTHER_BOOT))
    assert not any(hear(machine, A, Alive(5, OTHER_BOOT), now) for now in (0.1, SHOWN_PAUSE_S - 0.1))
    assert hear(machine, A, Alive(5, OTHER_BOOT), SHOWN_PAUSE_S)


def test_what_an_earlier_run_said_of_one_that_is_not_connected_is_answered_by_nothing() -> None:
    assert hear(node(A, connected=False), A, Alive(4, OTHER_BOOT)) == []


def dead(machine: Suspicion, peer: PeerId, *monitors: PeerId, now: float = 0.0) -> list[e.Output]:
    outputs = [out for monitor in monitors for out in hear(machine, monitor, Suspect(peer, 5), now)]
    return [*outputs, *ring(machine, now + 2 * limits.REFUTE_S, frozenset(OTHERS) - {peer})]


def test_two_monitors_make_a_member_dead_and_one_does_not() -> None:
    machine = node(A, B, C, D)
    outputs = hear(machine, B, Suspect(A, 5))
    assert MemberSuspect(A, 5) in outputs
    assert machine.state(A) is State.SUSPECT
    assert ring(machine, 0.4, ALL) is not None
    hear(machine, C, Suspect(A, 5), 0.4)
    assert MemberDead(A, 5) not in ring(machine, 0.4 + limits.REFUTE_S - 0.01, ALL)
    outputs = ring(machine, 0.4 + limits.REFUTE_S, ALL)
    assert outputs[:2] == [e.Disconnect(A), MemberDead(A, 5)]


def test_the_same_suspicion_from_one_monitor_counts_once_however_often_it_comes() -> None:
    machine = node(A, B, C, D)
    for _ in range(5):
        hear(machine, B, Suspect(A, 5))
    assert not any(isinstance(out, MemberDead) for out in ring(machine, 4.0, ALL))
    assert machine.state(A) is State.SUSPECT


def test_both_refused_is_dead_in_half_the_time() -> None:
    machine = node(A, B, C, D)
    hear(machine, B, Suspect(A, 5, True))
    hear(machine, C, Suspect(A, 5, True))
    ring(machine, limits.REFUTE_REFUSED_S, ALL)
    assert machine.state(A) is State.DEAD


def test_a_refutation_in_time_ends_the_suspicion() -> None:
    machine = node(A, B, C, D)
    for monitor in (B, C):
        hear(machine, monitor, Suspect(A, 5))
    assert hear(machine, A, Alive(6, BOOT), 0.9) == [MemberAlive(A, 6)]
    assert not any(isinstance(out, MemberDead) for out in ring(machine, 20.0, ALL))


def test_a_suspicion_of_an_incarnation_past_is_nothing() -> None:
    machine = node(A, B, C)
    assert hear(machine, B, Suspect(A, 4)) == []
    assert machine.state(A) is State.ALIVE


@pytest.mark.parametrize("replayed", [0, 3, 5])
def test_what_was_said_before_dying_revives_nobody(replayed: int) -> None:
    machine = node(A, B, C, D)
    dead(machine, A, B, C)
    assert hear(machine, A, Alive(replayed, BOOT), 9.0) == []
    assert machine.state(A) is State.DEAD
    assert hear(machine, A, Alive(1001, OTHER_BOOT), 9.0) == [MemberAlive(A, 1001)]


def test_who_is_held_dead_and_connects_is_told_so_and_is_alive_once_it_objects() -> None:
    machine = node(A, B, C, D)
    dead(machine, A, B, C)
    machine.handle(e.Lost(A), 5.0)
    assert machine.handle(e.Connected(A), 6.0) == [e.Tell(A, (Alive(10, BOOT), Suspect(A, 5)))]
    assert machine.state(A) is State.DEAD
    assert hear(machine, A, Alive(6, BOOT), 6.1) == [MemberAlive(A, 6)]


def test_the_dead_are_forgotten_after_three_days() -> None:
    machine = node(A, B, C, D)
    dead(machine, A, B, C)
    since = machine.deadline
    machine.handle(e.Alarm(), since + limits.TOMBSTONE_S - 10.0)
    assert hear(machine, A, Alive(5, BOOT), since + limits.TOMBSTONE_S - 9.0) == []
    machine.handle(e.Alarm(), since + limits.TOMBSTONE_S + 10.0)
    ring(machine, since + limits.TOMBSTONE_S + 12.0)
    assert A not in machine.states()


def test_monitors_of_the_dead_keep_saying_so_and_take_it_back_when_it_lives() -> None:
    machine = node(A, B, C)  # with four nodes, everybody is everybody's monitor
    hear(machine, B, Suspect(A, 5))
    hear(machine, C, Suspect(A, 5))
    outputs = ring(machine, 3.0, ALL - {A})
    assert e.Publish(Suspect(A, 5)) in outputs
    assert e.Publish(Suspect(A, 5)) not in ring(machine, 30.0, ALL - {A})
    hear(machine, A, Alive(6, BOOT), 30.0)
    assert e.Withdraw(A) in ring(machine, 32.0, ALL)


def test_who_leaves_is_left_and_comes_back_with_a_higher_incarnation_alone() -> None:
    machine = node(A, B, C)
    assert hear(machine, A, Left(5)) == [MemberLeft(A, 5)]
    assert hear(machine, A, Left(5)) == []
    assert hear(machine, B, Suspect(A, 5)) == []
    assert hear(machine, A, Alive(5, BOOT)) == []
    assert hear(machine, A, Alive(6, BOOT)) == [MemberAlive(A, 6)]


def test_a_member_no_more_has_left_and_has_no_say() -> None:
    machine = node(A, B)
    assert machine.handle(e.Candidates(frozenset({B})), 1.0) == [MemberLeft(A, 5)]
    assert hear(machine, A, Suspect(B, 5), 1.0) == []
    assert hear(machine, B, Suspect(A, 5), 1.0) == []
    assert A not in machine.states()


# Who has a say ---------------------------------------------------------------------------------------------------------------


def test_only_monitors_have_a_say() -> None:
    many = [peer_id(number) for number in range(100, 140)]
    machine = node(*many)
    subject = many[0]
    nearby = Ring([OWN, *many]).successors(subject, limits.MONITORS + limits.MONITORS_SLACK)
    strangers_to_it = [peer for peer in many[1:] if peer not in nearby]
    for peer in strangers_to_it:
        hear(machine, peer, Suspect(subject, 5))
    assert machine.state(subject) is State.ALIVE
    near = [peer for peer in nearby if peer != OWN][:2]
    for peer in near:
        hear(machine, peer, Suspect(subject, 5))
    assert machine.state(subject) is State.SUSPECT
    ring(machine, 1.5, frozenset(many))
    assert machine.state(subject) is State.DEAD


def test_suspicions_of_invented_members_leave_no_trace() -> None:
    machine = node(A, B, C)
    for number in range(100, 1000):
        assert hear(machine, B, Suspect(peer_id(number), 5)) == []
        assert hear(machine, peer_id(number), Alive(5, BOOT)) == []
    assert set(machine._standings) == {A, B, C}


def test_who_is_first_heard_of_by_a_suspicion_is_a_suspect_as_soon_as_it_lives() -> None:
    machine = node(B, C, D)
    machine.handle(e.Candidates(frozenset({A, B, C, D})), 0.0)
    assert hear(machine, B, Suspect(A, 5)) == []
    assert machine.state(A) is State.DEAD
    assert hear(machine, A, Alive(5, BOOT)) == [MemberAlive(A, 5), MemberSuspect(A, 5)]


def test_only_monitors_keep_tombstones() -> None:
    many = [peer_id(number) for number in range(100, 140)]
    order = Ring([OWN, *many]).predecessors(OWN, 30)
    near, far = order[0], order[20]  # this node is the first successor of one, and the 21st of the other
    machine = node(*many)
    for subject in (near, far):
        monitors = [
            peer for peer in Ring([OWN, *many]).successors(subject, 5) if peer not in (OWN, near, far)
        ]
        for monitor in monitors[:2]:
            hear(machine, monitor, Suspect(subject, 5, True))
    outputs = ring(machine, 3.0, frozenset(many) - {near, far})
    assert (machine.state(near), machine.state(far)) == (State.DEAD, State.DEAD)
    said = {
        out.item.subject for out in outputs if isinstance(out, e.Publish) and isinstance(out.item, Suspect)
    }
    assert said == {near}


def test_suspects_are_not_asked_for_help() -> None:
    machine = node(A, B, C)
    hear(machine, A, Suspect(B, 5))
    outputs = ring(machine, limits.PROBE_INTERVAL_S + limits.PROBE_S)  # nobody answers
    asked = {(out.via, out.subject) for out in outputs if isinstance(out, AskAfter)}
    assert (C, A) in asked
    assert B not in {via for via, _ in asked}


def test_nobody_suspects_itself_and_nobody_is_believed_twice() -> None:
    machine = node(A, B, C)
    assert hear(machine, A, Suspect(A, 5)) == []
    assert machine.state(A) is State.ALIVE


@pytest.mark.parametrize("members", [(A,), (A, B), (A, B, C)])
def test_one_suspicion_is_enough_only_between_two(members: tuple[PeerId, ...]) -> None:
    machine = node(*members)
    answering = frozenset(members) - {A}
    ring(machine, limits.ALONE_S, answering)
    expected = State.DEAD if len(members) == 1 else State.SUSPECT
    assert machine.state(A) is expected
    ring(machine, 2 * limits.ALONE_S + 3.0, answering)
    assert machine.state(A) is State.DEAD  # for this node alone, which stands by what it sees


# Probing and suspecting -----------------------------------------------------------------------------------------------------


def test_a_silent_member_is_suspected_and_it_and_its_monitors_are_told_directly() -> None:
    machine = node(A, B, C)
    outputs = ring(machine, 2.0, frozenset({B, C}))
    said = Suspect(A, 5)
    assert outputs.count(e.Publish(said)) == 1
    assert {out.peer for out in outputs if isinstance(out, e.Tell) and out.items == (said,)} == {A, B, C}


def test_in_a_small_mesh_everybody_is_told_directly_and_in_a_large_one_the_nearest() -> None:
    for count, told in ((11, 11), (60, limits.TOLD_DIRECTLY)):
        many = [peer_id(number) for number in range(100, 100 + count)]
        machine = node(*many)
        subject = machine.subjects[0]
        machine.handle(e.Lost(subject), 0.1)
        outputs = machine.handle(e.Refused(subject), 0.1)
        tells = {out.peer for out in outputs if isinstance(out, e.Tell)}
        assert len(tells) == pytest.approx(
            told, abs=1
        )  # the subject is not connected, and this node is on the ring
        assert set(Ring([OWN, *many]).successors(subject, limits.MONITORS)) - {OWN} <= tells


def test_everybody_who_answers_is_never_suspected() -> None:
    machine = node(A, B, C, D)
    outputs = ring(machine, 100.0, ALL)
    assert not any(isinstance(out, MemberSuspect | MemberDead | e.Tell) for out in outputs)
    pinged = [out.peer for out in outputs if isinstance(out, Ping)]
    assert len(pinged) == pytest.approx(limits.MONITORS * 100, abs=limits.MONITORS)


def test_a_lost_connection_is_redialled_by_monitors_and_refusal_is_suspicion_at_once() -> None:
    machine = node(A, B, C)
    assert machine.handle(e.Lost(A), 0.1) == [e.Redial(A)]
    outputs = machine.handle(e.Refused(A), 0.11)
    assert outputs[0] == e.Publish(Suspect(A, 5, True))
    assert e.Tell(B, (Suspect(A, 5, True),)) in outputs
    assert MemberSuspect(A, 5) in outputs


def test_a_refusal_that_a_new_connection_has_overtaken_is_nothing() -> None:
    machine = node(A, B, C)
    machine.handle(e.Lost(A), 0.1)
    machine.handle(e.Connected(A), 0.2)
    assert machine.handle(e.Refused(A), 0.3) == []


def test_whoever_hears_of_a_suspicion_of_its_subject_looks_at_once() -> None:
    machine = node(A, B, C)
    ring(machine, 0.0, ALL)
    outputs = hear(machine, B, Suspect(A, 5), 0.3)
    assert [out.peer for out in outputs if isinstance(out, Ping)] == [A]
    assert not any(isinstance(out, Ping) for out in hear(machine, C, Suspect(A, 5), 0.35))


def test_a_suspect_that_answers_again_is_reminded_until_it_objects() -> None:
    machine = node(A, B, C)
    ring(machine, 0.5, ALL)
    hear(machine, B, Suspect(A, 5), 0.5)
    assert e.Tell(A, (Suspect(A, 5),)) not in ring(machine, 1.4, ALL)
    outputs = ring(machine, 4.9, ALL)
    assert outputs.count(e.Tell(A, (Suspect(A, 5),))) == 3
    hear(machine, A, Alive(6, BOOT), 5.0)
    assert not any(isinstance(out, e.Tell) for out in ring(machine, 9.0, ALL))


# Speaking for itself ----------------------------------------------------------------------------------------------------------


def test_a_refutation_raises_the_incarnation_and_reserves_it_first() -> None:
    machine = node(A, B, C)
    outputs = hear(machine, B, Suspect(OWN, 10))
    assert machine.incarnation == 11
    assert outputs[:2] == [e.Cover(11), e.Publish(Alive(11, BOOT))]
    assert machine.stretch > 1.0  # others may have had reason to
    assert {out.peer for out in outputs[2:] if isinstance(out, e.Tell)} == {A, B, C}


def test_a_dogpile_of_suspicions_is_refuted_once() -> None:
    machine = node(A, B, C)
    for monitor in (A, B, C):
        hear(machine, monitor, Suspect(OWN, 10))
    assert machine.incarnation == 11


def test_a_suspicion_of_an_incarnation_past_is_answered_with_the_newest() -> None:
    machine = node(A, B, C)
    assert hear(machine, B, Suspect(OWN, 9)) == [e.Tell(B, (Alive(10, BOOT),))]


def test_what_others_remember_of_a_former_home_is_outdone() -> None:
    machine = node(A, B, C, incarnation=1)
    hear(machine, B, Suspect(OWN, 5000))
    assert machine.incarnation == 5001


def test_no_suspicion_drives_the_incarnation_out_of_its_bounds_or_faster_than_ten_a_second() -> None:
    machine = node(A, B, C)
    hear(machine, B, Suspect(OWN, 11 + limits.INCARNATION_JUMP_MAX))
    assert machine.incarnation == 10
    for step in range(100):
        hear(machine, B, Suspect(OWN, machine.incarnation), 0.5 + step * 0.01)
    assert machine.incarnation <= 10 + 1.0 / RETOLD + 1
    assert node(A, incarnation=INCARNATION_MAX) is not None
    full = node(A, B, incarnation=INCARNATION_MAX)
    hear(full, A, Suspect(OWN, INCARNATION_MAX))
    assert full.incarnation == INCARNATION_MAX


def test_alive_is_said_at_the_start_and_again_before_it_expires() -> None:
    machine = Suspicion(OWN, 3, BOOT)
    assert e.Publish(Alive(3, BOOT)) in machine.start(100.0)
    said = ring(machine, 100.0 + limits.ALIVE_TTL_S).count(e.Publish(Alive(3, BOOT)))
    assert said == 3


def test_leaving_is_told_to_all_and_the_last_word() -> None:
    machine = node(A, B)
    outputs = machine.handle(e.Leave(), 1.0)
    assert outputs == [e.Publish(Left(10)), e.Tell(A, (Left(10),)), e.Tell(B, (Left(10),))]
    assert hear(machine, A, Suspect(OWN, 10), 2.0) == []
    assert machine.handle(e.Alarm(), 99.0) == []


# Lateness -----------------------------------------------------------------------------------------------------------------------


def test_a_node_that_stood_still_gives_everybody_the_time_back() -> None:
    machine = node(A, B, C)
    hear(machine, B, Suspect(A, 5))
    hear(machine, C, Suspect(A, 5))
    late = machine.deadline + 60.0
    outputs = machine.handle(e.Alarm(), late)
    assert not any(isinstance(out, MemberDead) for out in outputs)
    assert machine.state(A) is State.SUSPECT
    assert machine.stretch > 1.0
    assert hear(machine, A, Alive(6, BOOT), late + 0.1) == [MemberAlive(A, 6)]


def test_a_standstill_is_noticed_whatever_is_read_first_afterwards() -> None:
    machine = node(A, B, C)
    ring(machine, 0.0)  # all owe a pong
    late = machine.deadline + 5.0
    for peer in (A, B, C):
        assert hear(machine, peer, Alive(5, BOOT), late) == []
    assert machine.deadline == pytest.approx(late)
    assert machine.stretch == 1.25
    assert not any(isinstance(out, AskAfter | e.Publish) for out in ring(machine, late + 0.1))


def test_one_standstill_is_blamed_once_however_long_it_was() -> None:
    machine = node(A, B, C)
    late = 2 * limits.ALIVE_TTL_S
    for _ in range(3):
        hear(machine, A, Alive(5, BOOT), late)
    assert machine.stretch == 1.25


def test_a_little_lateness_is_nothing() -> None:
    machine = node(A, B, C)
    machine.handle(e.Alarm(), machine.deadline + 0.9 * LATE_S)
    assert machine.stretch == 1.0


# Whatever comes ------------------------------------------------------------------------------------------------------------------

ITEMS = st.one_of(
    st.builds(Alive, st.integers(0, 20), st.sampled_from([BOOT, OTHER_BOOT])),
    st.builds(Suspect, st.sampled_from([OWN, *OTHERS]), st.integers(0, 20), st.booleans()),
    st.builds(Left, st.integers(0, 20)),
)
PEERS = st.sampled_from([*OTHERS, peer_id(99)])
EVENTS = st.one_of(
    st.builds(e.Heard, PEERS, ITEMS),
    st.builds(e.Connected, PEERS),
    st.builds(e.Lost, PEERS),
    st.builds(e.Refused, PEERS),
    st.builds(e.Ponged, PEERS, st.integers(0, 9)),
    st.builds(e.Answered, PEERS, PEERS, st.integers(0, 9), st.booleans()),
    st.builds(e.Candidates, st.frozensets(st.sampled_from(OTHERS))),
    st.just(e.Alarm()),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0.0, 3.0)), max_size=80))
def test_whatever_comes_no_state_goes_back_and_the_next_alarm_is_ahead(
    events: list[tuple[e.Input, float]],
) -> None:
    machine, now = node(*OTHERS), 0.0
    known: dict[PeerId, tuple[int, State]] = {}
    for event, pause_s in events:
        now = min(now + pause_s, machine.deadline + 0.1)
        before = machine.incarnation
        outputs = machine.handle(event, now)
        if isinstance(event, e.Alarm):
            assert machine.deadline > now
        assert machine.incarnation >= before
        assert all(out.peer != OWN for out in outputs if isinstance(out, Ping | e.Tell | e.Redial))
        states = machine.states()
        known = {peer: seen for peer, seen in known.items() if peer in states}
        for peer, state in states.items():
            seen = (machine.incarnation_of(peer), state)
            assert seen >= known.get(peer, seen)
            known[peer] = seen


@given(
    st.permutations(
        [(B, Suspect(A, 7)), (C, Suspect(A, 7)), (A, Alive(7, BOOT)), (A, Alive(6, BOOT)), (D, Suspect(A, 6))]
    )
)
def test_in_whatever_order_things_are_heard_they_come_to_the_same(
    heard: list[tuple[PeerId, LivenessItem]],
) -> None:
    machine = node(A, B, C, D)
    for author, item in heard:
        hear(machine, author, item)
    ring(machine, 1.2, ALL)
    assert (machine.state(A), machine.incarnation_of(A)) == (State.DEAD, 7)
