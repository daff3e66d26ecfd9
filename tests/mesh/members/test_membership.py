"""The membership machine: inputs in, outputs out."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mesh.directory.address_book import AddressBook
from mesh.members import membership as m
from protocols import limits
from protocols.ids import NetworkId, PeerId
from protocols.membership import Contact
from protocols.records import NodeRecord, SignedRecord, encode_record
from protocols.seams import PeerDown, PeerUp
from protocols.streams import Plane
from tests.mesh.members.people import FOUR, ONE, THREE, TWO, contact

CONTROL, DATA = Plane.CONTROL, Plane.DATA


def machine(*known: PeerId, own: PeerId = ONE) -> m.Membership:
    return m.Membership(own, AddressBook(tuple(map(contact, known))))


def dials(outputs: list[m.Output]) -> set[tuple[PeerId, Plane]]:
    return {(output.peer, output.plane) for output in outputs if isinstance(output, m.Dial)}


def recorded(peer: PeerId, sequence: int) -> m.Recorded:
    """Judged true by whoever hands it over."""
    said = contact(peer, sequence)
    record = NodeRecord(
        peer, NetworkId("ab" * 16), sequence, 0, 60, said.control, said.data, (said.static,), said.name
    )
    return m.Recorded(record, SignedRecord(encode_record(record), bytes(64)))


def test_a_start_dials_everybody_in_the_book_on_both_planes() -> None:
    outputs = machine(TWO, THREE).start(0.0)
    assert m.Learn(contact(TWO)) in outputs
    assert dials(outputs) == {(peer, plane) for peer in (TWO, THREE) for plane in Plane}


def test_whoever_redeems_an_invite_is_stored_before_it_is_dialled() -> None:
    one = machine(TWO, THREE)
    assert one.handle(m.Met(contact(FOUR)), 1.0) == [m.Persist(), m.Learn(contact(FOUR))]
    assert one.is_known(FOUR)


def test_a_member_that_connects_before_its_contact_is_known_is_up_as_soon_as_it_is() -> None:
    one = machine(TWO)
    assert one.handle(PeerUp(FOUR, CONTROL), 0.0) == []
    assert one.connected == {FOUR}
    assert m.MemberUp(FOUR) in one.handle(recorded(FOUR, 1), 1.0)


def test_a_joiner_learns_how_to_dial_its_inviter_and_then_dials_everybody_whom_it_names() -> None:
    four = machine(own=FOUR)
    assert four.handle(m.Joining(contact(ONE)), 0.0) == [m.Learn(contact(ONE))]
    assert not four.members
    outputs = four.handle(m.Joined((contact(ONE), contact(TWO))), 1.0)
    assert outputs[0] == m.Persist()
    assert not dials(outputs)  # the inviter's news of all come first
    assert four.deadline == 1.0 + limits.JOINED_PAUSE_S
    outputs = four.handle(m.Alarm(), four.deadline)
    assert dials(outputs) == {(peer, plane) for peer in (ONE, TWO) for plane in Plane}


def test_what_is_heard_before_the_inviters_answer_is_not_lost() -> None:
    four = machine(own=FOUR)
    four.handle(m.Joining(contact(ONE)), 0.0)
    four.handle(recorded(TWO, 1), 0.5)
    outputs = four.handle(m.Joined((contact(ONE),)), 1.0)
    assert {member.peer for member in four.members} == {ONE, TWO}
    assert (TWO, DATA) in dials(outputs) | dials(four.handle(m.Alarm(), 1.0 + limits.JOINED_PAUSE_S))


def test_a_banned_member_is_gone_and_no_word_of_it_counts() -> None:
    one = machine(TWO, THREE)
    one.handle(PeerUp(TWO, CONTROL), 0.0)
    outputs = one.handle(m.Banned(frozenset({TWO, FOUR})), 1.0)
    assert outputs == [m.Persist(), m.MemberDown(TWO), m.Disconnect(TWO)]
    assert one.handle(recorded(TWO, 9), 2.0) == []
    assert one.handle(m.Met(contact(FOUR)), 2.0) == []
    assert {member.peer for member in one.members} == {THREE}
    assert (TWO, CONTROL) not in dials(one.handle(m.Alarm(), 100.0))


def test_a_banned_member_whom_the_door_lets_in_again_is_one_again() -> None:
    one = machine(TWO)
    one.handle(m.Banned(frozenset({TWO})), 0.0)
    one.handle(PeerUp(TWO, CONTROL), 1.0)
    assert m.MemberUp(TWO) in one.handle(recorded(TWO, 2), 2.0)


def test_a_contact_that_was_asked_for_is_learnt_and_dialled() -> None:
    one = machine(TWO)
    outputs = one.handle(m.Met(contact(TWO, 5)), 0.0)
    assert m.Learn(contact(TWO, 5)) in outputs
    assert (TWO, CONTROL) in dials(one.handle(m.Alarm(), limits.REDIAL_PATIENCE_S))


def test_nobody_tells_this_node_who_it_is() -> None:
    one = machine(TWO)
    assert one.handle(m.Met(contact(ONE, 99)), 0.0) == []
    assert one.handle(recorded(ONE, 99), 0.0) == []


def test_a_member_is_up_while_its_control_plane_is() -> None:
    one = machine(TWO)
    assert one.handle(PeerUp(TWO, DATA), 0.0) == []
    assert m.MemberUp(TWO) in one.handle(PeerUp(TWO, CONTROL), 0.0)
    assert one.handle(PeerUp(TWO, CONTROL), 0.0) == []
    assert one.is_up(TWO)
    assert one.handle(PeerDown(TWO, DATA), 1.0) == []
    assert one.handle(PeerDown(TWO, CONTROL), 1.0) == [m.MemberDown(TWO)]
    assert not one.is_up(TWO)


def test_a_lost_member_is_dialled_again_until_it_is_up() -> None:
    one = machine(TWO)
    one.start(0.0)
    for plane in Plane:
        one.handle(PeerUp(TWO, plane), 0.0)
    one.handle(PeerDown(TWO, CONTROL), 10.0)
    assert dials(one.handle(m.Alarm(), 10.1)) == set()
    assert dials(one.handle(m.Alarm(), one.deadline)) == {(TWO, CONTROL)}
    one.handle(m.DialEnded(TWO, CONTROL), 15.0)
    assert dials(one.handle(m.Alarm(), one.deadline)) == {(TWO, CONTROL)}
    one.handle(PeerUp(TWO, CONTROL), 21.0)
    assert one.deadline == math.inf


def test_whoever_leaves_is_down_disconnected_and_left_in_peace_until_it_comes_back() -> None:
    one = machine(TWO)
    one.start(0.0)
    for plane in Plane:
        one.handle(PeerUp(TWO, plane), 0.0)
    assert one.handle(m.Left(TWO), 1.0) == [m.MemberDown(TWO), m.Disconnect(TWO)]
    for plane in Plane:
        assert one.handle(PeerDown(TWO, plane), 1.1) == []
    assert one.deadline == math.inf
    assert m.MemberUp(TWO) in one.handle(PeerUp(TWO, CONTROL), 50.0)
    one.handle(PeerDown(TWO, CONTROL), 60.0)
    assert one.deadline < 61.0


def test_a_member_that_moved_is_learnt_once_with_its_new_address() -> None:
    one = machine(TWO, THREE)
    outputs = one.handle(recorded(TWO, 2), 100.5)
    assert outputs == [m.Persist(at_once=False), m.Learn(contact(TWO, 2))]
    assert one.handle(recorded(TWO, 2), 100.6) == []
    assert one.handle(m.Met(contact(TWO, 1)), 100.6) == []


def test_news_revive_a_member_whose_goodbye_came_late() -> None:
    one = machine(TWO)
    one.handle(PeerUp(TWO, CONTROL), 0.0)
    one.handle(m.Left(TWO), 1.0)
    assert m.MemberUp(TWO) in one.handle(recorded(TWO, 2), 2.0)


def test_a_full_network_is_said_to_be_full() -> None:
    peers = [PeerId(f"12D3KooW{number:044}") for number in range(limits.MEMBERS_MAX - 1)]
    assert machine(*peers).is_full
    assert not machine(*peers[1:]).is_full


PEERS = st.sampled_from([TWO, THREE, FOUR])
CONTACTS = st.builds(contact, PEERS, st.integers(1, 5), st.integers(1, 9))


class MembershipRules(RuleBasedStateMachine):
    """Whatever happens, events alternate, outputs concern members alone, and the book only grows."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = machine(TWO)
        self.now = 0.0
        self.up: set[PeerId] = set()
        self.size = 1
        self.perform(self.machine.start(self.now))

    def handle(self, event: m.Input) -> None:
        self.now += 0.1
        self.perform(self.machine.handle(event, self.now))

    def perform(self, outputs: list[m.Output]) -> None:
        for output in outputs:
            match output:
                case m.MemberUp(peer):
                    assert peer not in self.up
                    self.up.add(peer)
                case m.MemberDown(peer):
                    assert peer in self.up
                    self.up.discard(peer)
                case m.Dial(peer):
                    assert self.machine.is_known(peer)

    @rule(peer=PEERS, plane=st.sampled_from(list(Plane)))
    def connect(self, peer: PeerId, plane: Plane) -> None:
        self.handle(PeerUp(peer, plane))

    @rule(peer=PEERS, plane=st.sampled_from(list(Plane)))
    def lose(self, peer: PeerId, plane: Plane) -> None:
        self.handle(PeerDown(peer, plane))
        self.handle(m.DialEnded(peer, plane))

    @rule(peer=PEERS, sequence=st.integers(1, 5))
    def record(self, peer: PeerId, sequence: int) -> None:
        self.handle(recorded(peer, sequence))

    @rule(peer=PEERS)
    def leave(self, peer: PeerId) -> None:
        self.handle(m.Left(peer))

    @rule(newcomer=CONTACTS)
    def meet(self, newcomer: Contact) -> None:
        self.handle(m.Met(newcomer))

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.handle(m.Alarm())

    @invariant()
    def what_was_told_is_what_is(self) -> None:
        members = {member.peer for member in self.machine.members}
        assert self.up == {peer for peer in members if self.machine.is_up(peer)}
        assert len(members) >= self.size
        self.size = len(members)


TestMembershipRules = MembershipRules.TestCase
TestMembershipRules.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
