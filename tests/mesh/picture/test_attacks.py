"""Liars against a mesh that works: what a third of its members say in concert moves no choice of the others.

After the attack model of bad-mouthing, ballot stuffing and sybils: of 10 nodes, 3 compute half of their results wrongly and
lie about everybody. The others give their jobs by score, audit some of them, and hear what all say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from random import Random

import pytest

from mesh.picture.evidence import Ledger
from mesh.picture.hearsay import Hearsay
from mesh.picture.observations import observations_of
from mesh.picture.reputation import is_distrusted, standing
from protocols.ids import PeerId
from protocols.observations import Evidence, Facet, Observations, Outcome, Tally
from tests.mesh.picture.words import peer

NODES, LIARS, HONEST_WATCHED, ROUNDS, AUDITED = 10, 3, 2, 80, 0.3
BAD_WORD, PRAISE = Evidence(0, 60), Evidence(60, 0)


@dataclass
class Node:
    own: PeerId
    ledger: Ledger = field(default_factory=Ledger)
    hearsay: Hearsay = field(init=False)

    def __post_init__(self) -> None:
        self.hearsay = Hearsay(self.own)

    def score(self, subject: PeerId, now: float) -> float:
        if is_distrusted(self.ledger.tally(subject, now)):
            return 0.0
        return standing(self.hearsay.combined(subject, self.ledger, now))


@dataclass
class Mesh:
    """`sybils`: that many more reporters, who do no work."""

    seed: int
    attack: str
    sybils: int = 0
    wrong_delivered: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.nodes = [Node(peer(number)) for number in range(NODES)]
        self.watched = self.nodes[LIARS : LIARS + HONEST_WATCHED]
        self.liars = {node.own for node in self.nodes[:LIARS]}
        self.liars |= {peer(1000 + number) for number in range(self.sybils)}

    def run(self) -> None:
        for now in range(ROUNDS):
            for node in self.watched:
                self._work(node, float(now))
            if now % 20 == 19:
                self._talk(float(now))

    def _work(self, node: Node, now: float) -> None:
        others = [each.own for each in self.nodes if each is not node]
        scores = {each: node.score(each, now) for each in others}
        best = max(scores.values())
        chosen = self.random.choice([each for each in others if scores[each] >= 0.9 * best])
        is_wrong = chosen in self.liars and self.random.random() < 0.5
        is_audited = self.random.random() < AUDITED
        if is_audited:
            outcome = Outcome.WRONG if is_wrong else Outcome.AUDITED
        else:
            outcome = Outcome.SERVED
            self.wrong_delivered += is_wrong and now >= ROUNDS / 2
        node.ledger.observe(chosen, outcome, "", now, now)

    def _talk(self, now: float) -> None:
        for listener in self.watched:
            for speaker in self.watched:
                for subject in tuple(speaker.ledger.newest_subjects()):
                    told = observations_of(subject, speaker.ledger, now, now)
                    listener.hearsay.hear(speaker.own, told, listener.ledger, now)
            for liar in sorted(self.liars) if self.attack else ():
                for subject in self.nodes:
                    listener.hearsay.hear(liar, self._lie(subject.own), listener.ledger, now)

    def _lie(self, subject: PeerId) -> Observations:
        praised = subject in self.liars
        said = {"bad-mouthing": not praised, "ballot": praised}.get(self.attack, True)
        evidence = (PRAISE if praised else BAD_WORD) if said else Evidence()
        return Observations(subject, 0, Tally(), (evidence,) * len(Facet))

    def scores(self) -> list[list[float]]:
        return [[node.score(each.own, float(ROUNDS)) for each in self.nodes] for node in self.watched]


@cache
def at_peace_in(seed: int) -> tuple[list[list[float]], int]:
    mesh = Mesh(seed, "")
    mesh.run()
    return mesh.scores(), mesh.wrong_delivered


@pytest.mark.parametrize("attack", ["bad-mouthing", "ballot", "sybil"])
def test_what_liars_say_in_concert_changes_no_choice(attack: str) -> None:
    wrong_delivered = changed = 0
    for seed in range(20):
        scores_at_peace, wrong_at_peace = at_peace_in(seed)
        attacked = Mesh(seed, attack, 12 if attack == "sybil" else 0)
        attacked.run()
        scores = attacked.scores()
        changed += scores != scores_at_peace
        assert attacked.wrong_delivered == wrong_at_peace
        assert min(score for row in scores for score in row[LIARS:]) > 0.9
        wrong_delivered += attacked.wrong_delivered
    # Praise of a liar that was never caught agrees with what was seen of it, until it is.
    assert changed <= (1 if attack == "ballot" else 0)
    # It is no empty promise: without any record one job in nine would come back wrong.
    assert wrong_delivered <= 0.05 * 20 * HONEST_WATCHED * ROUNDS / 2
