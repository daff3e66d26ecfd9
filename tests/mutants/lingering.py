"""Slips that leave something behind, or somebody waiting, after trouble: what only shows when faults come together."""

from __future__ import annotations

from tests.mutants.planting import Mutant

SESSION = "inference/sessions/session.py"
SHARD = "inference/sessions/shard.py"
ENTRY = "inference/sessions/entry.py"
RELAY = "inference/sessions/relay.py"
GENERATION = "node/generation.py"
GRANTS = "inference/placement/holding/grants.py"
HOLDER = "inference/placement/holding/holder.py"
SUSPICION = "mesh/liveness/suspicion.py"
WATCH = "mesh/liveness/watch.py"
MEMBERSHIP = "mesh/members/membership.py"
DIALLING = "mesh/members/dialling.py"
GOSSIP = "mesh/gossip/driver.py"
MACHINE = "mesh/gossip/machine.py"

MUTANTS = (
    Mutant(
        "outlet-of-a-stage-kept",
        SHARD,
        "            self._relay.unregister(session, stage, deliver)\n            if self._outlet:\n                self._outlet.close()",
        "            self._relay.unregister(session, stage, deliver)",
        "the relay keeps the right to send of every stage that ever was",
    ),
    Mutant(
        "outlet-of-an-epoch-kept",
        SHARD,
        "            if self._outlet:\n                self._outlet.close()\n            self._outlet = self._relay",
        "            self._outlet = self._relay",
        "after every reroute an outlet stays behind",
    ),
    Mutant(
        "outlet-of-a-feeder-kept",
        ENTRY,
        "        finally:\n            feeder.outlet.close()",
        "        finally:\n            feeder.waiting = 0",
        "the entry keeps an outlet of every session that it ever had",
    ),
    Mutant(
        "failed-request-stays-running",
        GENERATION,
        "        finally:\n            # Last of all",
        "        except BaseException:\n            raise\n        else:\n            # Last of all",
        "a request that failed is under way for ever, and a drain waits for it",
    ),
    Mutant(
        "silent-stage-waited-for",
        ENTRY,
        "        nursery.cancel_scope.deadline = trio.current_time() + 1",
        "        nursery.cancel_scope.deadline = trio.current_time() + 600",
        "a session that has ended stays until its silent stages have heard of it",
    ),
    Mutant(
        "sending-not-cut-short",
        SHARD,
        "        if self._sending:\n            self._sending.cancel()\n",
        "",
        "a stage that sends to a dead one hears of no reroute until that is over",
    ),
    Mutant(
        "broken-outlet-wakes-nobody",
        RELAY,
        "        self._is_broken = True\n        self._changed.set()",
        "        self._is_broken = True",
        "who waits for credit on a stream that breaks waits for ever",
    ),
    Mutant(
        "dead-stage-keeps-its-scope",
        SHARD,
        "            except Disconnected:\n                return\n            match message:",
        "            except Disconnected:\n                await trio.sleep(600)\n                return\n            match message:",
        "a stage whose entry has died stays open, with its memory",
    ),
    Mutant(
        "credit-beyond-the-first",
        RELAY,
        "        self.credits = min(self.credits + frames, limits.CREDITS_PER_SESSION)",
        "        self.credits = self.credits + frames + 1",
        "a sender takes itself for owed more than it was given",
    ),
    Mutant(
        "demoted-range-keeps-its-memory",
        GRANTS,
        "        grant.is_promoted = False\n        grant.promised_bytes = grant.bytes_needed",
        "        grant.is_promoted = False",
        "a range that is mapped again keeps the memory that it was promised",
    ),
    Mutant(
        "dead-worker-still-claims",
        HOLDER,
        "            self.grants.unloaded()\n",
        "",
        "what a dead worker had counts as loaded when memory is granted",
    ),
    Mutant(
        "suspect-not-reminded",
        SUSPICION,
        "            outputs += [*self._remind(now), *self._keep_tombstones(now)]",
        "            outputs += [*self._keep_tombstones(now)]",
        "a suspect whose refutation was lost stays a suspect",
    ),
    Mutant(
        "dead-not-told-of-their-death",
        SUSPICION,
        "        if standing.state in (State.SUSPECT, State.DEAD):",
        "        if standing.state is State.SUSPECT:",
        "who was buried while cut off is not told, and stays dead",
    ),
    Mutant(
        "newcomers-miss-old-doubts",
        WATCH,
        "            if about & news:",
        "            if about & news and len(news) > 1:",
        "what was said of a member before it was known here is not read again",
    ),
    Mutant(
        "data-plane-not-redialled",
        MEMBERSHIP,
        "        if self._dialling.is_wanted(peer):\n            self._dialling.lost(peer, plane, now)",
        "        if self._dialling.is_wanted(peer) and plane is Plane.CONTROL:\n            self._dialling.lost(peer, plane, now)",
        "a data connection that broke is made again only by a session that needs it",
    ),
    Mutant(
        "failed-dial-never-tried-again",
        DIALLING,
        "        if attempt is not None and attempt.up_since is None and attempt.next_at == math.inf:\n            attempt.wait(now)",
        "        if attempt is not None and attempt.was_up and attempt.next_at == math.inf:\n            attempt.wait(now)",
        "a peer that could not be reached the first time is never dialled again",
    ),
    Mutant(
        "pause-between-dials-grows-for-ever",
        DIALLING,
        "        self.pause_s = min(2 * self.pause_s, most_s)",
        "        self.pause_s = 4 * self.pause_s",
        "a peer that was away for a while is dialled once an hour",
    ),
    Mutant(
        "gossip-link-lost-unsaid",
        GOSSIP,
        "            del self._links[link.peer]\n            self._handle(Misbehaved(link.peer) if isinstance(error, RemoteFault) else Lost(link.peer))",
        "            del self._links[link.peer]\n            if isinstance(error, RemoteFault):\n                self._handle(Misbehaved(link.peer))",
        "a neighbour whose link ended is still counted on",
    ),
    Mutant(
        "refused-neighbour-avoided-for-good",
        MACHINE,
        "        self._views.avoid(peer, self._now, LOST_AVOID_S if was_active else limits.GOSSIP_AVOID_S)",
        "        self._views.avoid(peer, self._now, 3600.0)",
        "a neighbour that was lost is not tried again for an hour",
    ),
    Mutant(
        "repair-never-again",
        MACHINE,
        "        self._repair_at = self._now + self._repair_pause_s()\n        self._intake",
        "        self._repair_at = self._now + 100 * self._repair_pause_s()\n        self._intake",
        "tables that differ stay so for minutes",
    ),
    Mutant(
        "excused-for-standing-still",
        SESSION,
        "        self._moved_s += late_s\n        for place in self.places:\n            place.excuse(late_s, now)",
        "        self._moved_s += late_s",
        "an entry that stood still blames every stage for its own silence",
    ),
    Mutant(
        "stop-waiting-for-the-dying",
        SESSION,
        "        if now - (place.heard_s if place.opened else place.advanced_s) > limits.REPLY_S:\n            return True",
        "        if now - (place.heard_s if place.opened else place.advanced_s) > 1e4:\n            return True",
        "a session whose last holder has fallen silent waits for it for ever",
    ),
)
