"""Slips in placement: terms, leases, memory, and what survives a restart."""

from __future__ import annotations

from tests.mutants.planting import Mutant

GRANTS = "inference/placement/holding/grants.py"
HOLDER = "inference/placement/holding/holder.py"
CLAIMS = "inference/placement/claims.py"
GOSSIPING = "inference/placement/gossiping.py"
RELOADING = "inference/placement/holding/reloading.py"

MUTANTS = (
    Mutant(
        "term-forgotten-at-restart",
        GRANTS,
        "        self._grants.append(grant)\n        self._remember(offer)\n        return grant",
        "        self._grants.append(grant)\n        return grant",
        "after a restart a holder grants a plan that is older than the one it serves",
    ),
    Mutant(
        "lease-never-ends",
        GRANTS,
        "grant for grant in self._grants if grant.lease_ends_s is not None and grant.lease_ends_s <= now",
        "grant for grant in self._grants if grant.lease_ends_s is not None and grant.lease_ends_s <= now - 1e6",
        "a promise outlives its lease",
    ),
    Mutant(
        "promised-memory-free",
        GRANTS,
        "return max(0, free_bytes - sum(grant.promised_bytes for grant in grants))",
        "return free_bytes",
        "memory that was promised is promised again",
    ),
    Mutant(
        "promotion-promises-nothing",
        GRANTS,
        "grant.is_promoted, grant.promised_bytes = True, grant.offer.bytes_needed",
        "grant.is_promoted, grant.promised_bytes = True, 0",
        "a mapped range is loaded into memory that may be granted to others",
    ),
    Mutant(
        "holdings-not-kept",
        HOLDER,
        "    def _changed(self) -> None:\n        self.keep()\n",
        "    def _changed(self) -> None:\n        if len(self.holdings) > 1:\n            self.keep()\n",
        "a node's only range is not there after a restart",
    ),
    Mutant(
        "reload-forgets-what-failed",
        RELOADING,
        "            self._waiting.append(grant)\n            return",
        "            return",
        "a range that can't be loaded at once after a restart is never loaded again",
    ),
    Mutant(
        "down-peers-still-claim",
        CLAIMS,
        "        if peer in self._told:\n            self._down.add(peer)",
        "        if peer in self._told and len(self._told) > 3:\n            self._down.add(peer)",
        "in a small mesh routes lead to nodes that are down",
    ),
    Mutant(
        "claims-of-earlier-run",
        GOSSIPING,
        "claims = tuple(word.claim for word in words if word.boot == boot)[: limits.STAGES_MAX]",
        "claims = tuple(word.claim for word in words)[: limits.STAGES_MAX]",
        "what a node claimed before it was restarted counts as held",
    ),
    Mutant(
        "withdrawn-claim-stays",
        GOSSIPING,
        '        for place in sorted(before.keys() - words.keys()):\n            self._say(place, b"")\n',
        "",
        "a claim that is given up is never taken back",
    ),
)
