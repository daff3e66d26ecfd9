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
PICTURE = "mesh/picture/driver.py"
MESSENGER = "mesh/liveness/messenger.py"
PINGER = "mesh/liveness/pinger.py"
DIALLING = "mesh/members/dialling.py"
GOSSIP = "mesh/gossip/driver.py"
DISSEMINATION = "mesh/gossip/dissemination.py"
RPC = "mesh/rpc.py"

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
        "old-feeder-goes-on",
        ENTRY,
        "            if self._feeder:\n                self._feeder.scope.cancel()\n            # A replay",
        "            # A replay",
        "after a failover the entry goes on sending in the old epoch beside the new one",
    ),
    Mutant(
        "redial-meets-another",
        MESSENGER,
        '        except (Unavailable, RemoteFault) as error:\n            log.debug("a redial failed"',
        '        except Unavailable as error:\n            log.debug("a redial failed"',
        "another node at the address of a lost one ends the detector",
    ),
    Mutant(
        "ping-meets-another",
        PINGER,
        "                except (Unavailable, RemoteFault) as error:",
        "                except Unavailable as error:",
        "another node at the address of one that is pinged ends the detector",
    ),
    Mutant(
        "dial-of-a-leaver-ends",
        DIALLING,
        "        attempt = self._attempts.get((peer, plane))\n        if attempt is not None and attempt.up_since",
        "        attempt = self._attempts[peer, plane]\n        if attempt.up_since",
        "a member that leaves while it is dialled ends the node that dials",
    ),
    Mutant(
        "closing-a-lost-neighbour",
        GOSSIP,
        "                    if link := self._links.pop(peer, None):\n                        link.end()",
        "                    self._links.pop(peer).end()",
        "a gossip link that is given up after it has broken ends the node",
    ),
    Mutant(
        "words-to-a-lost-neighbour",
        GOSSIP,
        "            if link := self._links.get(peer):\n                link.send(frame)",
        "            self._links[peer].send(frame)",
        "a word for a neighbour whose link has just broken ends the node",
    ),
    Mutant(
        "prune-of-an-unknown-tree",
        DISSEMINATION,
        "        if author in self._branches:\n            self._branches[author].pop(source, None)",
        "        self._branches[author].pop(source, None)",
        "a neighbour that wants no more of an author whose tree is gone breaks the link",
    ),
    Mutant(
        "quick-restart-untold",
        SUSPICION,
        "        if was is State.ALIVE and item.boot == before:",
        "        if was is State.ALIVE:",
        "a restart that nobody suspected is not told: what the earlier run held goes on counting",
    ),
    Mutant(
        "first-health-stands",
        PICTURE,
        "            self._health[peer] = (now, digest)",
        "            self._health.setdefault(peer, (now, digest))",
        "what a node first said of its health counts for ever, that is until it is too old",
    ),
    Mutant(
        "cancelled-streams-stay-open",
        RPC,
        "        with trio.move_on_after(1, shield=True):\n            await (stream.close() if finished else stream.reset())",
        "        with trio.move_on_after(1):\n            await (stream.close() if finished else stream.reset())",
        "what is cancelled is not ended at the other side",
    ),
    Mutant(
        "stage-owner-kept",
        SHARD,
        "            del self.sessions[key], self._entries[key]\n",
        "            del self.sessions[key]\n",
        "who opened a stage is remembered for ever",
    ),
    Mutant(
        "rtt-of-the-unwatched-stands",
        WATCH,
        "                self.rtts_ms.pop(peer, None)\n",
        "",
        "a node goes on telling how far a member is that it no longer pings",
    ),
    Mutant(
        "pruned-pinger-goes-on",
        WATCH,
        "                self._pingers.pop(peer).stop()\n",
        "                del self._pingers[peer]\n",
        "a task and a stream stay for every member that was ever monitored",
    ),
    Mutant(
        "branch-of-a-lost-link-kept",
        DISSEMINATION,
        "        self._links.pop(peer, None)\n        for branches in self._branches.values():\n            branches.pop(peer, None)",
        "        self._links.pop(peer, None)",
        "words are pushed to a neighbour that is gone, and announced to nobody instead",
    ),
)
