"""Slips in placement: terms, claims, memory, and what survives a restart."""

from __future__ import annotations

from tests.mutants.planting import Mutant

GRANTS = "inference/placement/holding/grants.py"
HOLDER = "inference/placement/holding/holder.py"
GOSSIPING = "inference/placement/gossiping.py"

MUTANTS = (
    Mutant(
        "term-forgotten-at-restart",
        GRANTS,
        "        self._grants.append(grant)\n        self._remember(offer)\n        return grant",
        "        self._grants.append(grant)\n        return grant",
        "after a restart a holder grants a plan that is older than the one it serves",
    ),
    Mutant(
        "holdings-not-kept",
        HOLDER,
        "    def _changed(self) -> None:\n        self.keep()\n",
        "    def _changed(self) -> None:\n        if len(self.holdings) > 1:\n            self.keep()\n",
        "a node's only range is not there after a restart",
    ),
    Mutant(
        "withdrawn-claim-stays",
        GOSSIPING,
        '        for place in sorted(before.keys() - words.keys()):\n            self._say(place, b"")\n',
        "",
        "a claim that is given up is never taken back",
    ),
    Mutant(
        "claims-of-earlier-run",
        GOSSIPING,
        "claims = tuple(word.claim for word in words if word.boot == boot)[: limits.STAGES_MAX]",
        "claims = tuple(word.claim for word in words)[: limits.STAGES_MAX]",
        "what a node claimed before it was restarted counts as held",
        survives=True,
    ),
    Mutant(
        "new-run-unnoticed",
        GOSSIPING,
        "                    case MemberAlive(peer):\n                        self._lost.discard(peer)\n                        self._tell(peer)",
        "                    case MemberAlive(peer):\n                        self._lost.discard(peer)",
        "what a node held before it was restarted counts until it says something new",
        survives=True,
    ),
    Mutant(
        "dead-strangers-still-claim",
        GOSSIPING,
        "                    case MemberDead(peer) | MemberLeft(peer):\n                        self._down(peer)",
        "                    case MemberDead(peer) | MemberLeft(peer):\n                        self._lost.discard(peer)",
        "what a dead node held counts as long as this node had no connection to it",
        survives=True,
    ),
    Mutant(
        "claims-outlive-their-worker",
        HOLDER,
        "                del self.holdings[key]\n            self._on_change()\n",
        "                del self.holdings[key]\n",
        "what a dead worker had is claimed until it is loaded again",
    ),
    Mutant(
        "dead-worker-still-claims",
        HOLDER,
        "            self.grants.unloaded()\n",
        "",
        "what a dead worker had counts as loaded when memory is granted",
        survives=True,
    ),
    Mutant(
        "failed-adoption-keeps-its-memory",
        HOLDER,
        "            if grant.is_adopted:\n                self.grants.drop(grant)\n            else:\n                self.grants.demote(grant)\n            raise",
        "            if not grant.is_adopted:\n                self.grants.demote(grant)\n            raise",
        "memory is promised for ever to a range that could not be loaded in place of its holder",
        survives=True,
    ),
    Mutant(
        "reload-that-ended-kept",
        HOLDER,
        "                await self._loader.load(grant, _unseen, self._hold)\n        finally:\n            self._stops.pop(grant, None)",
        "                await self._loader.load(grant, _unseen, self._hold)\n        except BaseException:\n            self._stops.pop(grant, None)\n            raise",
        "a grant that was loaded again is remembered for ever",
        survives=True,
    ),
    Mutant(
        "promotion-that-ended-kept",
        HOLDER,
        "                self.grants.demote(grant)\n            raise\n        finally:\n            self._stops.pop(grant, None)",
        "                self.grants.demote(grant)\n            self._stops.pop(grant, None)\n            raise",
        "a grant that was loaded for a session is remembered for ever",
        survives=True,
    ),
)
