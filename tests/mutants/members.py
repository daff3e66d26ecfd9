"""Slips in membership: who is up, and who is dialled."""

from __future__ import annotations

from tests.mutants.planting import Mutant

MEMBERSHIP = "mesh/members/membership.py"

MUTANTS = (
    Mutant(
        "gone-members-stay-up",
        MEMBERSHIP,
        "        self._up.discard(peer)\n        return [MemberDown(peer)]",
        "        return [MemberDown(peer)]",
        "who was down once is never told of as up again",
    ),
    Mutant(
        "lost-connections-not-redialled",
        MEMBERSHIP,
        "            self._dialling.lost(peer, plane, now)",
        "            pass",
        "a connection that broke is never made again",
    ),
)
