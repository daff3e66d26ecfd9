"""Slips where two parts meet, or in a path that is taken once in a thousand runs: each part by itself looks right."""

from __future__ import annotations

from tests.mutants.planting import Mutant

SESSION = "inference/sessions/session.py"
SHARD = "inference/sessions/shard.py"
ENTRY = "inference/sessions/entry.py"
RELAY = "inference/sessions/relay.py"
GENERATION = "node/generation.py"
HOLDER = "inference/placement/holding/holder.py"
GOSSIPING = "inference/placement/gossiping.py"
WATCH = "mesh/liveness/watch.py"
SUSPICION = "mesh/liveness/suspicion.py"
MEMBERS = "mesh/members/driver.py"
PICTURE = "mesh/picture/driver.py"

MUTANTS = (
    Mutant(
        "orders-to-a-lost-stage",
        ENTRY,
        "        except (trio.WouldBlock, trio.BrokenResourceError):\n            return",
        "        except trio.WouldBlock:\n            return",
        "an order to a stage whose stream has just broken ends the whole node",
    ),
    Mutant(
        "credits-for-a-closed-stream",
        RELAY,
        "            except trio.BrokenResourceError:\n                return  # the stream has ended, and its credits with it\n",
        "",
        "credits for a stream that has ended are a bug of whoever returns them",
    ),
    Mutant(
        "errands-counted-for-ever",
        WATCH,
        "        finally:\n            self._errands -= 1",
        "        except BaseException:\n            self._errands -= 1\n            raise",
        "every errand of the detector counts as under way for ever, and after 256 it does none",
    ),
    Mutant(
        "pruned-before-it-ponged",
        WATCH,
        "                self.rtts_ms.pop(peer, None)",
        "                del self.rtts_ms[peer]",
        "a member that never answered a ping and is monitored by others now ends the detector",
    ),
    Mutant(
        "claims-outlive-their-worker",
        HOLDER,
        "                del self.holdings[key]\n            self._on_change()\n",
        "                del self.holdings[key]\n",
        "what a dead worker had is claimed until it is loaded again",
    ),
    Mutant(
        "new-run-unnoticed",
        GOSSIPING,
        "                    case MemberAlive(peer):\n                        self._lost.discard(peer)\n                        self._tell(peer)",
        "                    case MemberAlive(peer):\n                        self._lost.discard(peer)",
        "what a node held before it was restarted counts until it says something new",
    ),
    Mutant(
        "last-resort-though-lost",
        GENERATION,
        "            if self._adopt is None or self._own in excluded:",
        "            if self._adopt is None:",
        "a session that lost the entry node itself as a stage goes back to it, again and again",
    ),
    Mutant(
        "failover-told-again",
        SESSION,
        "        self._from_tokens = False\n        self._lost.clear()\n",
        "        self._from_tokens = False\n",
        "at its second failover a reader is told of the first one again",
    ),
    Mutant(
        "registration-kept",
        SHARD,
        "            self._relay.unregister(session, stage, deliver)\n",
        "",
        "frames are taken for stages that have ended",
    ),
    Mutant(
        "promoted-range-not-kept",
        HOLDER,
        "if grant.is_claimed and not grant.is_adopted)",
        "if grant.is_claimed and not grant.is_temporary)",
        "a mapped range that is loaded for a session is not there after a restart",
    ),
    Mutant(
        "given-back-under-a-session",
        HOLDER,
        "                if not patience.cancelled_caught and self.holdings.get(key) is holding:",
        "                if self.holdings.get(key) is holding:",
        "a range that was adopted is given back under the sessions that use it",
    ),
    Mutant(
        "own-stage-judged",
        PICTURE,
        "        if peer == self._own:\n            return\n        self._ledger",
        "        self._ledger",
        "a node keeps a record of itself",
    ),
    Mutant(
        "early-doubts-not-judged",
        SUSPICION,
        "        if standing.doubts:  # of this incarnation, heard before it\n            self._accused[author] = None\n",
        "",
        "doubts that came before the incarnation which they are of are never weighed",
    ),
    Mutant(
        "dead-stay-connected",
        SUSPICION,
        "[Disconnect(peer)] if peer in self._connected else []",
        "[]",
        "who is called dead stays connected, and is not told of it when it returns",
    ),
    Mutant(
        "gone-stay-on-the-ring",
        SUSPICION,
        "        if not standing.left(incarnation, now):\n            return []\n        self._ring.discard(author)",
        "        if not standing.left(incarnation, now):\n            return []",
        "who has left goes on monitoring the others, who have one monitor less",
    ),
    Mutant(
        "replaced-stage-kept",
        ENTRY,
        "        if output.index in self._lines:\n            self._lines[output.index].scope.cancel()\n",
        "",
        "a stage that was given up keeps its KV until the session ends",
    ),
    Mutant(
        "living-not-told-anew",
        MEMBERS,
        "                    self._handle(m.Left(change.peer))\n                self._tell_candidates()",
        "                    self._handle(m.Left(change.peer))",
        "gossip goes on choosing neighbours among the dead",
    ),
)
