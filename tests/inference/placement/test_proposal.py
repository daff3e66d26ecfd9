"""The proposer's machine: rounds, declines, losses, and what is released at each end."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.placement.events import Answered, GaveUp, LetGo, Lost, Placed, Propose, Report, Subject
from inference.placement.planning.plan import Assignment, ModelSize
from inference.placement.proposal import Proposal
from protocols import limits
from protocols.ids import ModelDigest, PeerId
from protocols.placement import Capacity, Claim, Declined, Granted, LayerRange, LoadFailed, StandbyKind

A, B, C = (PeerId(f"12D3KooW{letter * 44}") for letter in "ABC")
MODEL = ModelDigest("ab" * 32)
SIZE = ModelSize("tiny", layers=6, layer_bytes=10)
SUBJECT = Subject(MODEL, SIZE, "bf16", "exact", (A,))


def a_claim(assignment, term=1, model=MODEL):
    return Claim(
        assignment.peer, model, assignment.range, assignment.standby, "bf16", "exact", "here", 1.0, term,
        kind=assignment.kind,
    )  # fmt: skip


class Mesh:
    """Plays the nodes: answers every offer by `answer(assignment)`, which may be None for no answer yet."""

    def __init__(self, proposal, answer):
        self.proposal, self.answer = proposal, answer
        self.offers, self.released, self.events, self.held = [], [], [], set()
        self.exact = set()  # released only as far as this proposal had them granted
        self.end = None
        self.take(proposal.begin())

    def take(self, outputs):
        queue = list(outputs)
        while queue:
            output = queue.pop(0)
            match output:
                case Propose(assignment, offer):
                    assert self.end is None
                    self.offers.append(offer)
                    for reply in self.answer(assignment):
                        if isinstance(reply, Claim):
                            self.held.add((assignment.peer, assignment.range))
                        queue += self.proposal.handle(Answered(assignment, reply))
                case LetGo(peer, release):
                    self.released.append((peer, release.range))
                    if release.exact:
                        self.exact.add((peer, release.range))
                    self.held.discard((peer, release.range))
                case Report(event):
                    self.events.append(event)
                case Placed() | GaveUp():
                    assert self.end is None
                    self.end = output

    def tell(self, event):
        self.take(self.proposal.handle(event))


def willing(assignment):
    return Granted(1), a_claim(assignment)


def a_proposal(peers=(A, B, C), free_bytes=1000, before=(), **capacity):
    return Proposal(SUBJECT, A, {peer: Capacity(1.0, free_bytes, **capacity) for peer in peers}, 1, before)


def test_a_willing_mesh_takes_one_round():
    mesh = Mesh(a_proposal(), willing)
    assert isinstance(mesh.end, Placed)
    assert len(mesh.offers) == 6, "three primaries and three standbys"
    assert [offer.standby for offer in mesh.offers] == [False] * 3 + [True] * 3, (
        "what has to be there comes first"
    )
    assert {offer.term for offer in mesh.offers} == {1}
    assert mesh.released == []
    assert [event["event"] for event in mesh.events].count("claimed") == 6


def test_a_node_that_declines_outright_is_left_out_of_a_higher_term():
    mesh = Mesh(
        a_proposal(),
        lambda each: (Declined("its operator said no"),) if each.peer == B else willing(each),
    )
    assert isinstance(mesh.end, Placed)
    assert {planned.primary for planned in mesh.end.plan.ranges} == {A, C}
    assert mesh.offers[-1].term == 2
    assert mesh.held == {(each.peer, each.range) for each in mesh.end.plan.assignments()}


def test_a_node_that_would_take_fewer_layers_gets_fewer():
    def answer(each):
        return (
            (Declined("too much", layers_max=1),)
            if each.peer == B and each.range.layers > 1
            else willing(each)
        )

    mesh = Mesh(a_proposal(), answer)
    assert isinstance(mesh.end, Placed)
    (mine,) = [planned for planned in mesh.end.plan.ranges if planned.primary == B]
    assert mine.range.layers == 1


def test_a_standby_that_cannot_be_loaded_leaves_the_nodes_own_range_alone():
    mesh = Mesh(
        a_proposal(),
        lambda each: (
            (Granted(1), LoadFailed("out of memory")) if each.peer == B and each.standby else willing(each)
        ),
    )
    assert isinstance(mesh.end, Placed)
    assert [planned.primary for planned in mesh.end.plan.ranges] == [A, B, C]
    assert B not in [planned.standby for planned in mesh.end.plan.ranges]
    assert None not in [planned.standby for planned in mesh.end.plan.ranges], "another node stands by instead"


def test_a_node_whose_worker_dies_while_loading_is_left_out():
    mesh = Mesh(
        a_proposal(),
        lambda each: (Granted(1), LoadFailed("the worker ended")) if each.peer == C else willing(each),
    )
    assert isinstance(mesh.end, Placed)
    assert {each.peer for each in mesh.end.plan.assignments()} == {A, B}
    assert [event["reason"] for event in mesh.events if event["event"] == "failed"] == [
        "the worker ended"
    ] * 2


def test_when_every_holder_fails_the_user_hears_each_reason_in_one_line():
    mesh = Mesh(a_proposal(), lambda each: (Granted(1), LoadFailed("tensor w arrived with another hash")))
    assert isinstance(mesh.end, GaveUp)
    assert "tiny could not be placed: AAAAAAAA did not take layers 0-1: tensor w arrived" in mesh.end.message
    assert "No other node is left to ask" in mesh.end.message
    assert "weft invite" in mesh.end.message
    assert "\n" not in mesh.end.message
    assert mesh.held == set()


def test_a_node_lost_midway_is_planned_around_and_the_rest_is_kept():
    waiting = {}

    def answer(each):
        if each.peer == C:
            waiting[each.standby] = each
            return (Granted(1),)
        return willing(each)

    mesh = Mesh(a_proposal(), answer)
    assert mesh.end is None
    mesh.tell(Lost(C, "the connection ended"))
    assert isinstance(mesh.end, Placed)
    assert {each.peer for each in mesh.end.plan.assignments()} == {A, B}
    assert mesh.held == {(each.peer, each.range) for each in mesh.end.plan.assignments()}
    mesh.tell(Answered(waiting[False], a_claim(waiting[False])))
    mesh.tell(Lost(B, "too late to matter"))


def test_a_loss_heard_of_twice_counts_once():
    mesh = Mesh(a_proposal(), lambda each: willing(each) if each.peer != B else (Granted(1),))
    mesh.tell(Lost(B, "first"))
    before = mesh.proposal.rounds
    mesh.tell(Lost(B, "second"))
    assert mesh.proposal.rounds == before


def test_the_next_plan_waits_until_everybody_has_answered():
    silent = []

    def answer(each):
        if each.peer == C and not silent:
            silent.append(each)
            return ()
        return (Declined("no"),) if each.peer == B else willing(each)

    mesh = Mesh(a_proposal(), answer)
    assert mesh.proposal.rounds == 1
    mesh.tell(Answered(silent[0], Granted(1)))
    assert mesh.proposal.rounds == 2


def test_a_stale_term_is_raised_past_what_the_node_has_granted():
    def answer(each):
        return willing(each) if mesh_terms[-1] > 7 else (Declined("newer", term=7),)

    mesh_terms = [1]
    proposal = a_proposal()
    offers = proposal.begin()
    outputs = []
    for each in [output for output in offers if isinstance(output, Propose)]:
        outputs += proposal.handle(Answered(each.assignment, Declined("newer", term=7)))
    terms = {output.offer.term for output in outputs if isinstance(output, Propose)}
    assert terms == {8}


def test_a_proposer_whose_grant_was_taken_back_gives_way():
    mesh = Mesh(
        a_proposal(),
        lambda each: (
            (Granted(1), Declined("a newer plan was granted", term=2)) if each.peer == B else willing(each)
        ),
    )
    assert isinstance(mesh.end, GaveUp)
    assert "newer plan has taken its place" in mesh.end.message
    assert mesh.held == set(), "what it was granted elsewhere is released"


def test_of_two_that_meet_the_higher_peer_id_goes_on_and_the_other_gives_up():
    met = []

    def meets(rival):
        def answer(each):
            if each.peer == C and len(met) < 2:
                met.append(each)
                return Granted(1), Declined("taken back", term=4, rival=rival)
            return willing(each)

        return answer

    higher = Mesh(a_proposal(), meets(C))
    assert isinstance(higher.end, GaveUp)
    assert "is placing it as well" in higher.end.message
    met.clear()
    lower = Mesh(a_proposal(), meets(PeerId("12D3KooW" + "1" * 44)))
    assert isinstance(lower.end, Placed)
    assert lower.offers[-1].term == 5, "above what its rival had there"


def test_a_mapped_standby_that_claims_to_be_something_else_is_a_failure():
    def answer(each):
        claim = a_claim(each)
        if each.standby and each.peer == B:
            claim = msgspec.structs.replace(claim, kind=StandbyKind.COLD)
        return Granted(1), claim

    mesh = Mesh(a_proposal(), answer)
    assert isinstance(mesh.end, Placed)
    assert B not in [standby.peer for standby in mesh.end.plan.standbys()]


def test_the_offer_of_a_mapped_standby_says_what_it_will_need():
    mesh = Mesh(a_proposal(disk_free_bytes=1000), willing)
    mapped = [offer for offer in mesh.offers if offer.kind is StandbyKind.MAPPED]
    assert len(mapped) == 3
    assert {offer.bytes_needed for offer in mapped} == {SIZE.bytes_of(offer.range) for offer in mapped}


def test_a_claim_for_something_else_is_a_failure():
    other = ModelDigest("cd" * 32)
    mesh = Mesh(
        a_proposal(),
        lambda each: (Granted(1), a_claim(each, model=other)) if each.peer == B else willing(each),
    )
    assert isinstance(mesh.end, Placed)
    assert {planned.primary for planned in mesh.end.plan.ranges} == {A, C}


def test_what_was_held_before_is_kept_on_failure_and_released_on_success():
    before = (
        a_claim(Assignment(B, LayerRange(0, 6), False, 60)),
        a_claim(Assignment(A, LayerRange(0, 2), False, 20)),
    )
    placed = Mesh(a_proposal(before=before), willing)
    assert placed.released == [(B, LayerRange(0, 6))], "A's range is in the plan as well"
    assert isinstance(placed.end, Placed)
    failed = Mesh(
        a_proposal(before=before, free_bytes=30),
        lambda each: willing(each) if each.peer == A else (Granted(1), LoadFailed("no")),
    )
    assert isinstance(failed.end, GaveUp)
    kept = {(claim.holder, claim.range) for claim in before}
    assert {each for each in failed.released if each in kept} <= failed.exact, (
        "holders keep what was theirs before"
    )


def test_a_model_too_big_is_refused_before_anything_is_offered():
    mesh = Mesh(a_proposal(free_bytes=15), willing)
    assert isinstance(mesh.end, GaveUp)
    assert mesh.end.message.startswith("tiny needs")
    assert mesh.offers == []


def test_the_user_who_leaves_releases_everything():
    mesh = Mesh(a_proposal(), lambda each: willing(each) if each.peer == A else (Granted(1),))
    mesh.take(mesh.proposal.abandon())
    assert mesh.held == set()
    assert len(mesh.released) == 6
    assert mesh.proposal.abandon() == []


def test_leases_grow_with_the_bytes_but_are_bounded():
    def lease_of(layer_bytes):
        subject = Subject(MODEL, ModelSize("m", 2, layer_bytes), "bf16", "fast", (A,))
        (_, first, *_) = Proposal(subject, A, {A: Capacity(1.0, 1 << 60)}, 1).begin()
        return first.offer.lease_s

    assert lease_of(1) == pytest.approx(limits.GRANT_LEASE_S, abs=1)
    assert lease_of(4 << 30) == pytest.approx(limits.GRANT_LEASE_S + 1024)
    assert lease_of(1 << 40) == limits.LEASE_S_MAX


REPLIES = st.sampled_from(("claim", "claim", "claim", "decline", "cap", "stale", "fail", "lost"))


@given(st.data(), st.integers(1, 5))
def test_every_proposal_ends_and_leaves_nothing_behind_that_is_not_in_its_plan(data, nodes):
    peers = [PeerId(f"12D3KooW{number:044d}") for number in range(nodes)]
    lost = []

    def answer(each):
        match data.draw(REPLIES):
            case "decline":
                return (Declined("no"),)
            case "cap":
                return (Declined("less", layers_max=each.range.layers - 1),)
            case "stale":
                return (Declined("newer", term=data.draw(st.integers(0, 9))),)
            case "fail":
                return Granted(1), LoadFailed("broken")
            case "lost":
                lost.append(each.peer)
                return (Granted(1),)
            case _:
                return willing(each)

    mesh = Mesh(a_proposal(tuple(peers)), answer)
    while mesh.end is None:
        peer = lost.pop(0)
        mesh.held = {(holder, held) for holder, held in mesh.held if holder != peer}
        mesh.tell(Lost(peer, "gone"))
    assert mesh.proposal.rounds <= limits.PLAN_ROUNDS_MAX + 1
    in_plan = set()
    if isinstance(mesh.end, Placed):
        in_plan = {(each.peer, each.range) for each in mesh.end.plan.assignments()}
        ends = [planned.range.end for planned in mesh.end.plan.ranges]
        assert ends[-1] == SIZE.layers
    assert mesh.held == in_plan
