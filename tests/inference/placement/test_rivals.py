"""Several proposers of one model at once, against the real books of the holders: every interleaving ends in one plan."""

from __future__ import annotations

from collections import deque
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from inference.placement.events import Answered, GaveUp, LetGo, Placed, Propose, Subject
from inference.placement.holding.grants import Grant, Grants
from inference.placement.planning.plan import ModelSize
from inference.placement.proposal import Proposal
from protocols.ids import ModelDigest, PeerId
from protocols.placement import Capacity, Claim, Declined, Granted, Release

MODEL = ModelDigest("ab" * 32)
SIZE = ModelSize("tiny", layers=6, layer_bytes=10)
PEERS = tuple(PeerId(f"12D3KooW{number:044d}") for number in range(4))


class Rivals:
    """Streams between proposers and holders, each in order and none faster than chance has it."""

    def __init__(self, proposers, random, memory_bytes=1000):
        self.random, self.memory_bytes = random, memory_bytes
        self.nodes = {peer: Grants() for peer in PEERS}
        self.streams: dict[object, deque] = {}
        self.proposals, self.ends, self.assignments = {}, {}, {}
        for peer in proposers:
            subject = Subject(MODEL, SIZE, "bf16", "exact", (peer,))
            capacities = {each: Capacity(1.0, memory_bytes) for each in PEERS}
            self.proposals[peer] = Proposal(subject, peer, capacities, 1)
            self.post(("begin", peer), lambda peer=peer: self.act(peer, self.proposals[peer].begin()))

    def run(self):
        for _ in range(10_000):
            ready = [name for name, queue in self.streams.items() if queue]
            if not ready:
                return
            self.streams[self.random.choice(ready)].popleft()()
        raise AssertionError("they go round in circles")

    def post(self, stream, action):
        self.streams.setdefault(stream, deque()).append(action)

    def act(self, proposer, outputs):
        # As the driver has it: what is let go of comes before what is proposed in the same breath.
        for output in sorted(outputs, key=lambda output: not isinstance(output, LetGo)):
            match output:
                case LetGo(peer, release):
                    self.streams.pop(("answers", proposer, peer, release.range), None)
                    self.release(peer, release, proposer)
                case Propose(assignment, offer):
                    stream = ("offer", proposer, assignment.peer, assignment.range)
                    self.post(stream, lambda a=assignment, o=offer: self.offer(proposer, a, o))
                case Placed() | GaveUp():
                    assert proposer not in self.ends
                    self.ends[proposer] = output

    def release(self, peer, release: Release, proposer):
        self.streams.pop(("offer", proposer, peer, release.range), None)
        for grant in self.nodes[peer].release(release, proposer):
            self.taken_back(peer, grant)

    def offer(self, proposer, assignment, offer):
        grants = self.nodes[assignment.peer]
        verdict = grants.offer(offer, self.memory_bytes, 0.0, lambda _grant: True)
        for grant in verdict.superseded:
            self.taken_back(assignment.peer, grant)
        self.answer(proposer, assignment, verdict.reply)
        if verdict.grant is None:
            return
        if verdict.is_held:
            self.answer(proposer, assignment, self.claim_of(assignment.peer, verdict.grant))
            return
        self.assignments[id(verdict.grant)] = verdict.grant, assignment
        load = ("load", assignment.peer, id(verdict.grant))
        self.post(load, lambda: self.loaded(proposer, assignment, verdict.grant))

    def loaded(self, proposer, assignment, grant):
        if grant in tuple(self.nodes[assignment.peer]):
            self.nodes[assignment.peer].claim(grant, grant.bytes_needed, 0.0)
            self.answer(proposer, assignment, self.claim_of(assignment.peer, grant))

    def taken_back(self, peer, grant: Grant):
        if grant.is_claimed:
            return
        owner = grant.offer.proposer
        term, highest = self.nodes[peer].highest(MODEL)
        declined = Declined("taken back", term, rival=highest if highest != owner else None)
        self.answer(owner, self.assignments[id(grant)][1], declined)

    def claim_of(self, peer, grant):
        offer = grant.offer
        return Claim(
            peer, MODEL, offer.range, offer.standby, "bf16", "exact", "here", 1.0, offer.term, 0, offer.kind
        )

    def answer(self, proposer, assignment, reply: Granted | Declined | Claim):
        stream = ("answers", proposer, assignment.peer, assignment.range)
        self.post(
            stream, lambda: self.act(proposer, self.proposals[proposer].handle(Answered(assignment, reply)))
        )

    def held(self):
        return {(peer, grant.offer.range) for peer, grants in self.nodes.items() for grant in grants}


@given(st.integers(0, 1 << 32), st.integers(2, 4))
def test_of_rivals_that_meet_one_is_placed_and_its_plan_is_held(seed, count):
    rivals = Rivals(PEERS[:count], Random(seed))
    rivals.run()
    assert set(rivals.ends) == set(PEERS[:count]), "everybody hears how it ended"
    placed = {peer: end.plan for peer, end in rivals.ends.items() if isinstance(end, Placed)}
    assert placed, [end.message for end in rivals.ends.values()]
    ranks = {peer: (rivals.proposals[peer].term, peer) for peer in placed}
    last = max(placed, key=ranks.__getitem__)
    wanted = {(each.peer, each.range) for each in placed[last].assignments()}
    assert wanted <= rivals.held()
    # What is more than that is an earlier winner's, and the last one's decision tidies it away.
    for peer, layers in rivals.held() - wanted:
        rivals.release(peer, Release(ranks[last][0], MODEL, layers), last)
    assert rivals.held() == wanted
