"""The planted bugs: each is a slip that somebody could make, and that an invariant forbids."""

from __future__ import annotations

from typing import Final

from tests.mutants import gossip, liveness, members, placement, sessions
from tests.mutants.planting import Mutant

MUTANTS: Final[dict[str, Mutant]] = {
    mutant.name: mutant
    for wing in (sessions, placement, liveness, gossip, members)
    for mutant in wing.MUTANTS
}
