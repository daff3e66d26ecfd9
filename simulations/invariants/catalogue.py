"""All invariants, in the order in which they are asked."""

from __future__ import annotations

from typing import Final

from simulations.invariants import (
    admission,
    ceilings,
    clients,
    durability,
    liveness,
    membership,
    placement,
    reputation,
    resources,
    sessions,
    soundness,
)
from simulations.invariants.invariant import CATALOGUE, Invariant

GROUPS: Final = (
    clients,
    sessions,
    placement,
    resources,
    admission,
    membership,
    reputation,
    durability,
    ceilings,
    soundness,
    liveness,
)
"""Their functions register themselves when they are read."""

ALL: Final[tuple[Invariant, ...]] = tuple(
    invariant for group in GROUPS for invariant in CATALOGUE if invariant.check.__module__ == group.__name__
)
