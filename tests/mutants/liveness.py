"""Slips in the failure detector: incarnations, quorums, monitors and pings."""

from __future__ import annotations

from tests.mutants.planting import Mutant

INCARNATION = "mesh/liveness/incarnation.py"
SUSPICION = "mesh/liveness/suspicion.py"
WATCH = "mesh/liveness/watch.py"
PINGER = "mesh/liveness/pinger.py"
MESSENGER = "mesh/liveness/messenger.py"

MUTANTS = (
    Mutant(
        "incarnation-not-persisted",
        INCARNATION,
        "        upto = min(incarnation + limits.INCARNATION_BLOCK, INCARNATION_MAX)\n        try:",
        "        upto = min(incarnation + limits.INCARNATION_BLOCK, INCARNATION_MAX)\n        if self._upto:\n            return\n        try:",
        "a node that runs for the third time begins where it began the second time",
    ),
    Mutant(
        "one-monitor-is-enough",
        SUSPICION,
        "return max(1, min(limits.SUSPICIONS_NEEDED, others))",
        "return 1",
        "the suspicion of a single monitor kills",
    ),
    Mutant(
        "tombstone-forgotten",
        SUSPICION,
        "if now - standing.since > limits.TOMBSTONE_S:",
        "if now - standing.since > 1.0:",
        "the dead are forgotten at once, and old news revives them",
    ),
    Mutant(
        "dead-stay-on-the-ring",
        SUSPICION,
        "        self._ring.discard(peer)\n        disconnect",
        "        disconnect",
        "who has died goes on monitoring the others, who have one monitor less",
    ),
    Mutant(
        "gone-stay-on-the-ring",
        SUSPICION,
        "        if not standing.left(incarnation, now):\n            return []\n        self._ring.discard(author)",
        "        if not standing.left(incarnation, now):\n            return []",
        "who has left goes on monitoring the others, who have one monitor less",
    ),
    Mutant(
        "returned-stay-off-the-ring",
        SUSPICION,
        "        if was > State.SUSPECT:\n            self._ring.add(author)",
        "        if was is State.DEAD:\n            self._ring.add(author)",
        "who has left and comes back is monitored by nobody",
        survives=True,
    ),
    Mutant(
        "errands-counted-for-ever",
        WATCH,
        "        finally:\n            self._errands -= 1",
        "        except BaseException:\n            self._errands -= 1\n            raise",
        "every errand of the detector counts as under way for ever, and after 256 it does none",
        survives=True,
    ),
    Mutant(
        "pruned-pinger-goes-on",
        WATCH,
        "                self._pingers.pop(peer).stop()\n",
        "                del self._pingers[peer]\n",
        "a task and a stream stay for every member that was ever monitored",
        survives=True,
    ),
    Mutant(
        "rtt-of-the-unwatched-stands",
        WATCH,
        "                self.rtts_ms.pop(peer, None)\n",
        "",
        "a node goes on telling how far a member is that it no longer pings",
        survives=True,
    ),
    Mutant(
        "nonces-of-the-unwatched-kept",
        WATCH,
        "                self._pinged.pop(peer, None)\n",
        "",
        "a node waits for answers to pings that it sent to members whom others monitor now",
        survives=True,
    ),
    Mutant(
        "ping-meets-another",
        PINGER,
        "                except (Unavailable, RemoteFault) as error:",
        "                except Unavailable as error:",
        "another node at the address of one that is pinged ends the detector",
    ),
    Mutant(
        "redial-is-refused",
        MESSENGER,
        '        except (Unavailable, RemoteFault) as error:\n            log.debug("a redial failed"',
        '        except Unavailable as error:\n            log.debug("a redial failed"',
        "a lost member that no longer lets this node in ends the detector",
    ),
)
