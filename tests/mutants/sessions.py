"""Slips in sessions: fencing, positions, journals, credits and clean-up."""

from __future__ import annotations

from tests.mutants.planting import Mutant

SESSION = "inference/sessions/session.py"
STAGE = "inference/sessions/stage.py"
JOURNAL = "inference/sessions/journal.py"
SHARD = "inference/sessions/shard.py"
ENTRY = "inference/sessions/entry.py"
RELAY = "inference/sessions/relay.py"

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
        "early-frames-survive-reroute",
        STAGE,
        "        self._early.clear()\n",
        "",
        "frames that waited in the old epoch are computed in the new one",
    ),
    Mutant(
        "reroute-forwards-nothing-below",
        STAGE,
        "        self.forward_from = 0\n        self.journal",
        "        self.journal",
        "a standby that fell behind keeps back rows that the next stage lacks",
    ),
    Mutant(
        "journal-kept-past-truncation",
        STAGE,
        "        self.journal.truncate(self.rows)\n",
        "        self.journal.truncate(max(self.rows, self.journal.rows - 1))\n",
        "the journal holds a row that the new epoch computes again",
    ),
    Mutant(
        "journal-one-frame-short",
        JOURNAL,
        "        if run:\n            yield _joined(run)",
        "        if len(run) > 1:\n            yield _joined(run)",
        "a replay lacks its last frame if that stands alone",
    ),
    Mutant(
        "split-frame-keeps-its-tokens",
        JOURNAL,
        "joins = merge and frame.header.position >= prompt_rows",
        "joins = merge and frame.header.position > prompt_rows + 1",
        "the first decoded row is replayed as part of the prompt",
    ),
    Mutant(
        "half-built-standby-trusted",
        SESSION,
        "half_built = any(place.fresh and place.opened for place in self.places)",
        "half_built = False",
        "a second failure during recovery leaves a standby with part of its rows",
    ),
    Mutant(
        "words-of-replaced-stage-heard",
        SESSION,
        "return self._told(index, message, now) if incarnation == place.incarnation else []",
        "return self._told(index, message, now)",
        "what a stage said before it was replaced counts for the one in its place",
    ),
    Mutant(
        "loss-of-replaced-stage-heard",
        SESSION,
        "return self._lose(index, reason, now) if incarnation == place.incarnation else []",
        "return self._lose(index, reason, now)",
        "the loss of a stage that was replaced already costs the one in its place as well",
    ),
    Mutant(
        "token-of-older-epoch",
        SESSION,
        "if message.epoch != self.epoch or self.phase is not Phase.RUNNING:",
        "if self.phase is not Phase.RUNNING:",
        "a token sampled in an abandoned epoch enters the log",
    ),
    Mutant(
        "rerouted-of-older-epoch",
        SESSION,
        "return self._rerouted(index, replayed_rows, complete, now) if epoch == self.epoch else []",
        "return self._rerouted(index, replayed_rows, complete, now)",
        "an answer to an earlier reroute counts for the latest one",
    ),
    Mutant(
        "only-first-place-of-lost-peer",
        SESSION,
        "lost = [at for at, place in enumerate(self.places) if place.peer == peer]",
        "lost = [at for at, place in enumerate(self.places) if place.peer == peer][:1]",
        "a peer that filled two places is replaced in one of them",
    ),
    Mutant(
        "survivors-hear-no-reroute",
        SESSION,
        "behind = [at for at, place in enumerate(self.places) if place.epoch != self.epoch]",
        "behind = [at for at, place in enumerate(self.places) if place.epoch < self.epoch - 1]",
        "stages are not told of the new epoch if they knew the one before",
    ),
    Mutant(
        "lost-row-never-fed-again",
        SESSION,
        "if self.phase is not Phase.RUNNING or not idle or now - self._moved_s < idle_s_max:",
        "if self.phase is not Phase.RUNNING or not idle or self.failovers:",
        "a row that got lost after a failover is never fed again",
    ),
    Mutant(
        "second-epoch-resumes-early",
        SESSION,
        "self._resume_at = 0 if self._from_tokens else len(self.tokens) - 1",
        "self._resume_at = 0 if self._from_tokens else len(self.tokens) - 1 - (self.failovers > 2)",
        "from the third failover on a row is skipped: positions do not follow on",
    ),
    Mutant(
        "stage-keeps-back-after-reroute",
        SHARD,
        "                    if not self._reroutes_waiting:\n                        self._keep_rows = math.inf\n",
        "",
        "after a reroute a stage keeps dropping rows as if one were waiting",
    ),
    Mutant(
        "cache-not-closed-when-cancelled",
        SHARD,
        "            with trio.move_on_after(limits.REPLY_S, shield=True):\n                await self._close_cache(held.shard, opened)",
        "            with trio.move_on_after(limits.REPLY_S):\n                await self._close_cache(held.shard, opened)",
        "the KV of a stage that is cut short is never freed",
    ),
    Mutant(
        "credits-of-older-epoch-owed",
        SHARD,
        "owed = owed + 1 if epoch == self._machine.epoch else 1",
        "owed = 1 if epoch == self._machine.epoch else owed + 1",
        "credits are not returned as they should be, and the sender waits for ever",
    ),
    Mutant(
        "broken-stream-untold",
        RELAY,
        "            if outlet.peer == peer and kind in outlet.used:\n                outlet.mark_broken()",
        "            if outlet.peer == peer and kind in outlet.used and outlet.credits == 0:\n                outlet.mark_broken()",
        "a stage whose stream broke between two frames is not told",
    ),
    Mutant(
        "feeder-of-older-epoch",
        ENTRY,
        "if self._feeder is None or self._feeder.epoch != feed.epoch:",
        "if self._feeder is None:",
        "the entry goes on feeding the first stage that the session had",
    ),
    Mutant(
        "stages-not-told-of-the-end",
        ENTRY,
        "            self._send(index, CloseStage())\n            line.orders.close()\n        nursery.cancel_scope.deadline = trio.current_time() + 1",
        "            del line\n        nursery.cancel_scope.deadline = math.inf",
        "a session that has ended waits for its stages, which wait for it",
    ),
)
