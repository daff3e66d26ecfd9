"""Slips in gossip: neighbours, links, and the trees along which words are pushed."""

from __future__ import annotations

from tests.mutants.planting import Mutant

DRIVER = "mesh/gossip/driver.py"
MACHINE = "mesh/gossip/machine.py"
DISSEMINATION = "mesh/gossip/dissemination.py"

MUTANTS = (
    Mutant(
        "gossip-link-lost-unsaid",
        DRIVER,
        "            del self._links[link.peer]\n            self._handle(Misbehaved(link.peer) if isinstance(error, RemoteFault) else Lost(link.peer))",
        "            del self._links[link.peer]\n            if isinstance(error, RemoteFault):\n                self._handle(Misbehaved(link.peer))",
        "a neighbour whose link ended is still counted on",
    ),
    Mutant(
        "dismissed-link-kept",
        MACHINE,
        "            self._views.avoid(peer, self._now)\n            self._outputs.append(Close(peer))",
        "            self._views.avoid(peer, self._now)",
        "the link to a neighbour that was given up stays open",
    ),
    Mutant(
        "arrived-stays-missing",
        DISSEMINATION,
        "        self._missing.pop(id_, None)\n        self._recent",
        "        self._recent",
        "what was announced and has come is asked for all the same",
    ),
    Mutant(
        "branch-of-a-lost-link-kept",
        DISSEMINATION,
        "        self._heard.pop(peer, None)\n        for branches in self._branches.values():\n            branches.pop(peer, None)",
        "        self._heard.pop(peer, None)",
        "words are pushed to a neighbour that is gone, and announced to nobody instead",
        survives=True,
    ),
    Mutant(
        "lost-neighbour-stays-a-branch",
        MACHINE,
        "else limits.GOSSIP_AVOID_S)\n        self._tree.remove(peer)\n",
        "else limits.GOSSIP_AVOID_S)\n",
        "words are pushed to a neighbour that was lost, and announced to nobody instead",
        survives=True,
    ),
    Mutant(
        "dismissed-neighbour-stays-a-branch",
        MACHINE,
        "            self._views.remove(peer)\n            self._tree.remove(peer)\n            self._views.avoid(peer, self._now)",
        "            self._views.remove(peer)\n            self._views.avoid(peer, self._now)",
        "words are pushed to a neighbour that was given up, and announced to nobody instead",
        survives=True,
    ),
)
