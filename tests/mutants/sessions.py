"""Slips in sessions: fencing, positions, journals, credits and clean-up."""

from __future__ import annotations

from tests.mutants.planting import Mutant

STAGE = "inference/sessions/stage.py"
JOURNAL = "inference/sessions/journal.py"
SESSION = "inference/sessions/session.py"
ENTRY = "inference/sessions/entry.py"
SHARD = "inference/sessions/shard.py"
RELAY = "inference/sessions/relay.py"
PREFIXES = "inference/engine/memory/prefixes.py"

MUTANTS = (
    Mutant(
        "fencing-dropped",
        STAGE,
        "if header.epoch != self.epoch or header.position < self.rows",
        "if header.position < self.rows",
        "a stage takes frames of any epoch",
    ),
    Mutant(
        "result-of-older-epoch-kept",
        STAGE,
        "        if header.epoch != self.epoch:\n            return self._next()",
        "        if header.epoch > self.epoch:\n            return self._next()",
        "a step that was under way when the route changed still counts",
    ),
    Mutant(
        "journal-one-frame-short",
        JOURNAL,
        "        if run:\n            yield _joined(run)",
        "        if len(run) > 1:\n            yield _joined(run)",
        "a replay lacks its last frame if that stands alone",
    ),
    Mutant(
        "half-built-standby-trusted",
        SESSION,
        "half_built = any(place.fresh and place.opened for place in self.places)",
        "half_built = False",
        "a second failure during recovery leaves a standby with part of its rows",
    ),
    Mutant(
        "survivors-hear-no-reroute",
        SESSION,
        "behind = [at for at, place in enumerate(self.places) if place.epoch != self.epoch]",
        "behind = [at for at, place in enumerate(self.places) if place.epoch < self.epoch - 1]",
        "stages are not told of the new epoch if they knew the one before",
    ),
    Mutant(
        "old-feeder-goes-on",
        ENTRY,
        "            if self._feeder:\n                self._feeder.scope.cancel()\n            # A replay",
        "            # A replay",
        "after a failover the entry goes on sending in the old epoch beside the new one",
    ),
    Mutant(
        "replaced-stage-kept",
        ENTRY,
        "        if output.index in self._lines:\n            self._lines[output.index].scope.cancel()\n",
        "",
        "a stage that was given up keeps its KV until the session ends",
    ),
    Mutant(
        "prefix-of-anybody",
        PREFIXES,
        "return [(self.shard, self.peer, name) for name",
        'return [(self.shard, PeerId(""), name) for name',
        "a session takes over rows of whoever asked the same, through whichever entry",
    ),
    Mutant(
        "all-kept-rows-count",
        STAGE,
        "            self._settle(header.position)",
        "            self._settle(self.kept)",
        "a stage goes by all rows that it has of an earlier session, whichever row comes first",
    ),
    Mutant(
        "registration-kept",
        SHARD,
        "            self._relay.unregister(session, stage, deliver)\n",
        "",
        "frames are taken for stages that have ended",
        survives=True,
    ),
    Mutant(
        "stage-owner-kept",
        SHARD,
        "            del self.sessions[key], self._entries[key]\n",
        "            del self.sessions[key]\n",
        "who opened a stage is remembered for ever",
        survives=True,
    ),
    Mutant(
        "outlet-of-a-stage-kept",
        SHARD,
        "            self._relay.unregister(session, stage, deliver)\n            if self._outlet:\n                self._outlet.close()",
        "            self._relay.unregister(session, stage, deliver)",
        "the relay keeps the right to send of every stage that ever was",
    ),
    Mutant(
        "outlet-of-a-feeder-kept",
        ENTRY,
        "        finally:\n            feeder.outlet.close()",
        "        finally:\n            feeder.waiting = 0",
        "the entry keeps an outlet of every session that it ever had",
    ),
    Mutant(
        "opening-of-a-stream-kept",
        RELAY,
        "            if not opening.locked():\n                self._opening.pop((peer, kind), None)",
        "            if opening.locked():\n                self._opening.pop((peer, kind), None)",
        "a lock stays for every peer that rows were ever sent to",
    ),
    Mutant(
        "credits-for-a-closed-stream",
        RELAY,
        "            except (Disconnected, trio.BrokenResourceError):\n                return  # the stream has ended, and its credits with it\n",
        "",
        "credits for a stream that has ended are a bug of whoever returns them",
        survives=True,
    ),
    Mutant(
        "drain-misses-what-is-loaded",
        SHARD,
        "        self.sessions[key], self._entries[key] = opened, (channel.peer, scope)\n        try:\n            with scope:\n                held = await loaded_shard(channel, opened, self._shards, self._work)\n",
        "        held = await loaded_shard(channel, opened, self._shards, self._work)\n        self.sessions[key], self._entries[key] = opened, (channel.peer, scope)\n        try:\n            with scope:\n",
        "a stage that waits for its range is not known of: two may be opened for one place",
        survives=True,
    ),
)
