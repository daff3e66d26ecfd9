"""Slips in gossip: which word is newer, what is repaired, what is said again."""

from __future__ import annotations

from tests.mutants.planting import Mutant

TABLE = "mesh/gossip/table.py"
REPAIR = "mesh/gossip/repair.py"
PUBLISHING = "mesh/gossip/publishing.py"

MUTANTS = (
    Mutant(
        "older-word-wins",
        TABLE,
        "if word is None or word.rank < rank:",
        "if word is None or word.rank != rank:",
        "an older word replaces a newer one if it comes later",
    ),
    Mutant(
        "repair-gives-nothing-back",
        REPAIR,
        "lacking = [id_ for ours in held.values() for id_ in ours if id_ not in theirs]",
        "lacking: list[BundleId] = []",
        "repair only pulls: who lacks something and is not asked never gets it",
    ),
    Mutant(
        "sequence-follows-the-clock",
        PUBLISHING,
        "self.sequence = max(self.sequence + 1, wall_ms)",
        "self.sequence = wall_ms",
        "a node whose clock was put back says nothing that anybody takes for news",
    ),
)
