"""The membership machine: inputs in, outputs out."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mesh.members import membership as m
from mesh.members.address_book import AddressBook
from protocols import limits
from protocols.errors import Dishonest
from protocols.ids import PeerId
from protocols.membership import MEMBERS_CODEC, Announce, Contact, Leaving, Vouch
from protocols.seams import PeerDown, PeerUp
from protocols.streams import MEMBERS, Plane
from tests.mesh.members.people import FOUR, ONE, THREE, TWO, contact

CONTROL, DATA = Plane.CONTROL, Plane.DATA


def machine(*known: PeerId, own: PeerId = ONE) -> m.Membership:
    return m.Membership(contact(own), AddressBook(tuple(map(contact, known))))


def dials(outputs: list[m.Output]) -> set[tuple[PeerId, Plane]]:
    return {(output.peer, output.plane) for output in outputs if isinstance(output, m.Dial)}


def tells(outputs: list[m.Output]) -> dict[PeerId, tuple[object, ...]]:
    return {output.peer: output.messages for output in outputs if isinstance(output, m.Tell)}


def test_a_start_admits_and_dials_everybody_in_the_book_on_both_planes() -> None:
    outputs = machine(TWO, THREE).start(0.0)
    assert m.Admit(frozenset({TWO, THREE})) in outputs
    assert m.Learn(contact(TWO)) in outputs
    assert dials(outputs) == {(peer, plane) for peer in (TWO, THREE) for plane in Plane}


def test_whoever_redeems_an_invite_is_stored_then_admitted_and_the_others_are_told() -> None:
    one = machine(TWO, THREE)
    one.handle(PeerUp(TWO, CONTROL), 0.0)
    outputs = one.handle(m.Redeemed(contact(FOUR)), 1.0)
    assert outputs == [
        m.Persist(),
        m.Learn(contact(FOUR)),
        m.Admit(frozenset({TWO, THREE, FOUR})),
        m.Tell(TWO, (Vouch((contact(FOUR),)),)),
    ]
    assert one.is_member(FOUR)


def test_a_stranger_that_was_connected_when_it_became_a_member_is_up_at_once() -> None:
    one = machine(TWO)
    assert one.handle(PeerUp(FOUR, CONTROL), 0.0) == []
    outputs = one.handle(m.Redeemed(contact(FOUR)), 1.0)
    assert m.MemberUp(FOUR) in outputs
    assert tells(outputs)[FOUR] == (Announce(contact(ONE)), Vouch((contact(TWO),)))


def test_a_joiner_trusts_its_inviter_while_it_asks_and_everybody_whom_it_names() -> None:
    four = machine(own=FOUR)
    assert four.handle(m.Joining(contact(ONE)), 0.0) == [m.Learn(contact(ONE)), m.Admit(frozenset({ONE}))]
    assert not four.members
    outputs = four.handle(m.Joined((contact(ONE), contact(TWO))), 1.0)
    assert outputs[-5] == m.Admit(frozenset({ONE, TWO}))
    assert dials(outputs) == {(peer, plane) for peer in (ONE, TWO) for plane in Plane}


def test_what_the_inviter_says_before_its_answer_is_not_lost() -> None:
    four = machine(own=FOUR)
    four.handle(m.Joining(contact(ONE)), 0.0)
    four.handle(m.Heard(ONE, Vouch((contact(TWO), contact(FOUR)))), 0.5)
    outputs = four.handle(m.Joined((contact(ONE),)), 1.0)
    assert {member.peer for member in four.members} == {ONE, TWO}
    assert (TWO, DATA) in dials(outputs)


def test_a_join_that_failed_admits_nobody() -> None:
    four = machine(own=FOUR)
    four.handle(m.Joining(contact(ONE)), 0.0)
    assert four.handle(m.JoinFailed(), 1.0) == [m.Admit(frozenset())]
    assert four.handle(m.Heard(ONE, Vouch((contact(TWO),))), 2.0) == []
    assert not four.members


@pytest.mark.parametrize(
    "message", [Announce(contact(FOUR)), Vouch((contact(FOUR),)), Vouch((contact(TWO, 9),)), Leaving()]
)
def test_strangers_say_nothing_that_counts(message: Announce | Vouch | Leaving) -> None:
    one = machine(TWO)
    one.handle(PeerUp(FOUR, CONTROL), 0.0)
    assert one.handle(m.Heard(FOUR, message), 1.0) == []
    assert one.members == (contact(TWO),)


def test_who_announces_another_is_dishonest() -> None:
    with pytest.raises(Dishonest) as caught:
        machine(TWO, THREE).handle(m.Heard(TWO, Announce(contact(THREE, 9))), 0.0)
    assert caught.value.peer == TWO


def test_nobody_is_told_of_itself_and_nobody_tells_this_node_who_it_is() -> None:
    one = machine(TWO)
    assert one.handle(m.Heard(TWO, Vouch((contact(ONE, 99),))), 0.0) == []
    assert tells(one.handle(PeerUp(TWO, CONTROL), 0.0)) == {TWO: (Announce(contact(ONE)),)}


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
    assert one.handle(m.Heard(TWO, Leaving()), 1.0) == [m.MemberDown(TWO), m.Disconnect(TWO)]
    for plane in Plane:
        assert one.handle(PeerDown(TWO, plane), 1.1) == []
    assert one.deadline == math.inf
    assert m.MemberUp(TWO) in one.handle(PeerUp(TWO, CONTROL), 50.0)
    one.handle(PeerDown(TWO, CONTROL), 60.0)
    assert one.deadline < 61.0


def test_a_member_that_moved_is_learned_and_told_to_those_who_were_greeted_without_it() -> None:
    one = machine(TWO, THREE, FOUR)
    one.handle(PeerUp(FOUR, CONTROL), 0.0)
    for peer in (TWO, THREE):
        one.handle(PeerUp(peer, CONTROL), 100.0)
    moved = contact(TWO, 2, port=5)
    outputs = one.handle(m.Heard(TWO, Announce(moved)), 100.5)
    assert m.Learn(moved) in outputs
    assert m.Persist() in outputs
    assert tells(outputs) == {THREE: (Vouch((moved,)),)}
    assert one.handle(m.Heard(TWO, Announce(moved)), 100.6) == []


def test_an_announcement_revives_a_member_whose_goodbye_came_late() -> None:
    one = machine(TWO)
    one.handle(PeerUp(TWO, CONTROL), 0.0)
    one.handle(m.Heard(TWO, Leaving()), 1.0)
    assert m.MemberUp(TWO) in one.handle(m.Heard(TWO, Announce(contact(TWO))), 2.0)


def test_a_greeting_of_a_large_network_fits_its_frames() -> None:
    long = ("/ip4/255.255.255.255/tcp/65535/" + "x" * 225,) * limits.ADDRESSES_MAX
    peers = [PeerId("12D3KooW" + str(number).rjust(56, "x")) for number in range(200)]
    book = AddressBook(tuple(Contact(peer, bytes(32), long, long, 1 << 62, "n" * 64) for peer in peers))
    one = m.Membership(contact(ONE), book)
    messages = tells(one.handle(PeerUp(peers[0], CONTROL), 0.0))[peers[0]]
    told = [other.peer for message in messages if isinstance(message, Vouch) for other in message.contacts]
    assert told == peers[1:]
    assert all(len(MEMBERS_CODEC.encode(message)) <= MEMBERS.limit_bytes for message in messages)


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
        self.admitted: frozenset[PeerId] = frozenset()
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
                case m.Admit(members):
                    self.admitted = members
                case m.Dial(peer) | m.Tell(peer):
                    assert self.machine.is_member(peer)

    @rule(peer=PEERS, plane=st.sampled_from(list(Plane)))
    def connect(self, peer: PeerId, plane: Plane) -> None:
        self.handle(PeerUp(peer, plane))

    @rule(peer=PEERS, plane=st.sampled_from(list(Plane)))
    def lose(self, peer: PeerId, plane: Plane) -> None:
        self.handle(PeerDown(peer, plane))
        self.handle(m.DialEnded(peer, plane))

    @rule(peer=PEERS, contacts=st.lists(CONTACTS, max_size=3))
    def vouch(self, peer: PeerId, contacts: list[Contact]) -> None:
        self.handle(m.Heard(peer, Vouch(tuple(contacts))))

    @rule(told=CONTACTS)
    def announce(self, told: Contact) -> None:
        self.handle(m.Heard(told.peer, Announce(told)))

    @rule(peer=PEERS)
    def leave(self, peer: PeerId) -> None:
        self.handle(m.Heard(peer, Leaving()))

    @rule(newcomer=CONTACTS)
    def redeem(self, newcomer: Contact) -> None:
        self.handle(m.Redeemed(newcomer))

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.handle(m.Alarm())

    @invariant()
    def what_was_told_is_what_is(self) -> None:
        members = {member.peer for member in self.machine.members}
        assert self.admitted == members
        assert self.up == {peer for peer in members if self.machine.is_up(peer)}
        assert len(members) >= self.size
        self.size = len(members)


TestMembershipRules = MembershipRules.TestCase
TestMembershipRules.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("known", [(), (THREE,)])
def test_two_that_greet_each_other_end_up_with_one_book(known: tuple[PeerId, ...]) -> None:
    one, two = machine(*known), machine(FOUR, own=TWO)
    one.handle(m.Redeemed(contact(TWO)), 0.0)
    two.handle(m.Joined((contact(ONE),)), 0.0)
    for speaker, hearer in ((one, two), (two, one)):
        for message in tells(speaker.handle(PeerUp(hearer.own.peer, CONTROL), 1.0))[hearer.own.peer]:
            hearer.handle(m.Heard(speaker.own.peer, message), 2.0)
    books = [{member.peer for member in each.members} | {each.own.peer} for each in (one, two)]
    assert books[0] == books[1]
