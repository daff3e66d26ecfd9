"""How long things may take, from the limits that the product promises, with the arithmetic. Virtual seconds."""

from __future__ import annotations

from typing import Final

from mesh.picture.health import pause_s
from protocols import limits

STRETCH_MAX: Final = 1 + limits.LATENESS_MAX / 4  # of deadlines while a node is late itself
VERDICT_S: Final = (
    limits.PROBE_INTERVAL_S
    + STRETCH_MAX * (limits.PROBE_S + limits.INQUIRY_S + limits.REFUTE_S)
    + limits.UNEXPLAINED_ROUNDS * limits.PROBE_INTERVAL_S
    + limits.ALONE_S
)  # 12.8 s: a round, all deadlines stretched, a few rounds in which nobody could be asked, and standing alone

FREED_S: Final = (
    5.0  # KV after an end that its stages are told, which takes a second at most, or hear as a reset
)
FREED_UNTOLD_S: Final = (
    VERDICT_S + limits.LEAVE_S + limits.REPLY_S
)  # after an entry that died without a word: the verdict ends its connections, and the worker is asked to let go

TOGETHER_S: Final = 20.0  # from the heal until everybody sees everybody: two rounds of redials and a repair
GOSSIP_S: Final = 10.0  # for one word, below a repair's GOSSIP_REPAIR_S because links stand again by then
REVOKED_S: Final = 60.0
CONVERGED_S: Final = TOGETHER_S + 10.0  # placement, after everybody sees everybody
STARTED_S: Final = 5.0  # a new session, beside what its first rows take to compute

PROGRESS_S: Final = (
    limits.REPLY_S + limits.FIRST_STEP_S + 2 * limits.IDLE_S + limits.DIAL_S
)  # 35 s: a stage that is opened in vain, one whose first step never ends, and a row lost on the way and fed again

LAG_S: Final = 0.25  # what the detector calls late
DRAINED_S: Final = 20.0  # after the last session, until what served it is gone


def health_age_s(members: int) -> float:
    """How old what is known of somebody's health may be: the pause between two digests varies by a tenth."""
    return 1.1 * pause_s(members) + GOSSIP_S
