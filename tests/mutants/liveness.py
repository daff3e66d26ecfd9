"""Slips in the failure detector: incarnations, quorums, excuses and tombstones."""

from __future__ import annotations

from tests.mutants.planting import Mutant

SUSPICION = "mesh/liveness/suspicion.py"
STANDING = "mesh/liveness/standing.py"
PROBING = "mesh/liveness/probing.py"
INCARNATION = "mesh/liveness/incarnation.py"

MUTANTS = (
    Mutant(
        "incarnation-not-persisted",
        INCARNATION,
        "        upto = min(incarnation + limits.INCARNATION_BLOCK, INCARNATION_MAX)\n        try:",
        "        upto = min(incarnation + limits.INCARNATION_BLOCK, INCARNATION_MAX)\n        if self._upto:\n            return\n        try:",
        "a node that runs for the third time begins where it began the second time",
    ),
    Mutant(
        "one-monitor-is-enough",
        SUSPICION,
        "return max(1, min(limits.SUSPICIONS_NEEDED, others))",
        "return 1",
        "the suspicion of a single monitor kills",
    ),
    Mutant(
        "lost-time-not-given-back",
        SUSPICION,
        "        for peer in self._accused:\n            self._standings[peer].give_back(lost_s)",
        "",
        "who was stopped buries everybody whose refutation it could not read",
    ),
    Mutant(
        "deaf-node-accuses",
        PROBING,
        "if 2 * silent <= probe.asked_count:",
        "if silent <= probe.asked_count:",
        "a node that hears nothing takes the others for dead",
    ),
    Mutant(
        "suspect-refutes-in-silence",
        SUSPICION,
        "return [Cover(self.incarnation), *self._say_alive(now), *told]",
        "return [Cover(self.incarnation), *told[:1]]",
        "a refutation reaches one accuser, and the others never",
    ),
    Mutant(
        "refutation-only-once",
        SUSPICION,
        "        self._raised_at = now\n        self.incarnation = min",
        "        self._raised_at = math.inf\n        self.incarnation = min",
        "a node that was suspected once can't refute again",
    ),
    Mutant(
        "tombstone-forgotten",
        SUSPICION,
        "elif now - standing.since > limits.TOMBSTONE_S:",
        "elif now - standing.since > 1.0:",
        "the dead are forgotten at once, and old news revives them",
    ),
    Mutant(
        "return-of-the-dead-unheard",
        STANDING,
        "if incarnation <= self.incarnation:",
        "if incarnation <= self.incarnation + 4 * (self.state is State.DEAD):",
        "who comes back is held for dead until it has been suspected five times",
    ),
)
