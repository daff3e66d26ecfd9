"""The planted bugs: each is a slip that somebody could make, and that an invariant forbids."""

from __future__ import annotations

from typing import Final

from tests.mutants import admission, gossip, lingering, liveness, placement, sessions, unseen
from tests.mutants.planting import Mutant

MUTANTS: Final[dict[str, Mutant]] = {
    mutant.name: mutant
    for wing in (sessions, placement, liveness, gossip, admission, lingering, unseen)
    for mutant in wing.MUTANTS
}
