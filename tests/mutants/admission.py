"""Slips in membership: who is up, who is dialled, who belongs."""

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
    Mutant(
        "restarted-node-waits",
        MEMBERSHIP,
        "            self._dialling.want(contact.peer, now, within_s=0.0)",
        "            pass",
        "a node that was restarted waits to be dialled at an address that nobody knows",
    ),
)
