"""What changes logits before a token is drawn: bias, penalties, and what a grammar forbids; in this order.

Sources: repetition penalty as `RepetitionPenaltyLogitsProcessor` of transformers has it (Keskar et al., 2019), frequency and
presence penalty and logit bias as OpenAI documents them.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.engine.sampling.tally import Tally
from protocols.errors import Malformed
from protocols.session import Sampling

Logits = NDArray[np.float32]
_FINITE: Final = (np.finfo(np.float32).min, np.finfo(np.float32).max)


class Constraint(Protocol):
    """What may come next in an answer that has to fit a grammar."""

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        """For each token whether it may; at least one. Raises `Malformed` if the tokens so far fit no more."""


def adjusted(
    row: Logits, sampling: Sampling, tally: Tally | None = None, constraint: Constraint | None = None
) -> Logits:
    """The row itself if nothing changes it, else a copy; what is forbidden is at minus infinity. Raises `Malformed`."""
    if not (sampling.logit_bias or sampling.penalises or constraint):
        return row
    row = row.copy()
    for each in sampling.logit_bias:
        if each.token >= len(row):
            raise Malformed(f"a bias for token {each.token} of {len(row)}")
        row[each.token] += np.float32(each.bias)
    if sampling.penalises:
        assert tally is not None
        _penalise(row, sampling, tally)
    if constraint is not None:
        row[~constraint.allowed(len(row))] = -np.inf
    return row


def _penalise(row: Logits, sampling: Sampling, tally: Tally) -> None:
    if sampling.repetition_penalty != 1:
        seen, penalty = tally.seen(), np.float32(sampling.repetition_penalty)
        logits = row[seen]
        with np.errstate(over="ignore"):
            logits = np.where(logits < 0, logits * penalty, logits / penalty)
        row[seen] = np.clip(logits, *_FINITE)
    if sampling.frequency_penalty or sampling.presence_penalty:
        generated, counts = tally.generated()
        frequency, presence = np.float32(sampling.frequency_penalty), np.float32(sampling.presence_penalty)
        row[generated] -= counts.astype(np.float32) * frequency + presence
