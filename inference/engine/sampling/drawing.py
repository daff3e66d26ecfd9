"""What the draws of one session depend on besides its logits: its parameters, and the tokens so far where those matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference.engine.sampling.adjusting import Constraint
from inference.engine.sampling.grammar import GrammarTokens
from inference.engine.sampling.sampling import Draw
from inference.engine.sampling.tally import Tally
from protocols.seams import CacheSpec
from protocols.session import Sampling


@dataclass(frozen=True, slots=True)
class Drawing:
    """At the stage that ends the model."""

    sampling: Sampling
    tally: Tally | None = None
    constraint: Constraint | None = None

    @property
    def reads_tokens(self) -> bool:
        return self.tally is not None

    def note(self, position: int, tokens: Sequence[int]) -> None:
        """Rows `position` and on are these tokens; there is nothing behind them."""
        if self.tally is not None:
            self.tally.write(position, tokens)

    def at(self, position: int) -> Draw:
        return Draw(self.sampling, position, self.tally, self.constraint)


def make_drawing(spec: CacheSpec, grammar_tokens: GrammarTokens) -> Drawing:
    """Raises `Malformed` for a grammar that can't be followed here."""
    sampling = spec.sampling
    assert sampling is not None
    if not (sampling.penalises or sampling.grammar):
        return Drawing(sampling)
    tally = Tally(spec.prompt_rows)
    if not sampling.grammar:
        return Drawing(sampling, tally)
    constraint = grammar_tokens.constraint(sampling.grammar, spec.prompt_rows, spec.stop_ids, tally)
    return Drawing(sampling, tally, constraint)
