"""What a trained weft-tiny gets right: greedy answers to held-out questions, and stories drawn at temperature 1.

Rule of the file: answers are generated token by token, as a mesh would, never read off a teacher-forced pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.model.tiny import grammar, tasks
from inference.model.tiny.checks import is_right
from inference.model.tiny.decoder import Decoder
from inference.model.tiny.folder import ASSISTANT, END, USER, decode, encode

ROWS_MAX = 64  # prompts of one length that are answered side by side
SHORT_TOKENS_MAX = 24  # twice the longest answer of the four domains, so that babble ends early
EVALUATION_SEED = 2  # the trainer's own progress figures use another


@dataclass(frozen=True, slots=True)
class Figure:
    """How many of a kind were right, and the questions that were not."""

    kind: str
    asked: int
    right: int
    missed: tuple[tuple[str, str], ...]

    @property
    def accuracy(self) -> float:
        return self.right / self.asked


def question(prompt: str) -> list[int]:
    """The ids that the chat template gives for one user message and the opening of the answer."""
    return [USER, *encode(prompt), END, ASSISTANT]


@torch.inference_mode()
def answers(
    decoder: Decoder,
    prompts: Sequence[str],
    tokens_max: int,
    generator: torch.Generator | None = None,
) -> list[str]:
    """One answer per prompt: greedy, or drawn at temperature 1 where a generator is given."""
    texts = [""] * len(prompts)
    asked = [question(prompt) for prompt in prompts]
    for places in _groups_of_one_length(asked):
        ids = torch.tensor([asked[place] for place in places])
        for place, row in zip(places, _continue(decoder, ids, generator, tokens_max), strict=True):
            texts[place] = decode(row[: row.index(END)] if END in row else row)
    return texts


def held_out_figure(decoder: Decoder, kind: str, n: int, seed: int = EVALUATION_SEED) -> Figure:
    """Greedy exact match on questions that training has not seen."""
    return _figure(decoder, kind, [item.prompt for item in tasks.held_out(kind, n, seed)])


def story_figure(decoder: Decoder, n: int, seed: int = EVALUATION_SEED) -> Figure:
    """The share of stories at temperature 1 whose every sentence the grammar accepts, hero included."""
    heroes = [*grammar.PLURALS]
    prompts = [f"Tell a story about a {heroes[index % len(heroes)]}." for index in range(n)]
    return _figure(decoder, "story", prompts, torch.Generator().manual_seed(seed))


def _figure(
    decoder: Decoder, kind: str, prompts: list[str], generator: torch.Generator | None = None
) -> Figure:
    tokens_max = SHORT_TOKENS_MAX if kind in tasks.DOMAINS else decoder.shape.context
    given = list(zip(prompts, answers(decoder, prompts, tokens_max, generator), strict=True))
    missed = tuple(pair for pair in given if not is_right(*pair))
    return Figure(kind, len(given), len(given) - len(missed), missed)


def _groups_of_one_length(asked: Sequence[list[int]]) -> Iterator[list[int]]:
    # Without padding no row can see another's filler, and a row's answer does not depend on its neighbours.
    lengths: defaultdict[int, list[int]] = defaultdict(list)
    for place, ids in enumerate(asked):
        lengths[len(ids)].append(place)
    for places in lengths.values():
        for start in range(0, len(places), ROWS_MAX):
            yield places[start : start + ROWS_MAX]


def _continue(
    decoder: Decoder, ids: Tensor, generator: torch.Generator | None, tokens_max: int
) -> list[list[int]]:
    given: list[Tensor] = []
    ended = torch.zeros(len(ids), dtype=torch.bool)
    logits, cache = decoder(ids)
    for _ in range(min(tokens_max, decoder.shape.context - ids.shape[1])):
        given.append(_choose(logits[:, -1].float(), generator))  # [batch]
        ended |= given[-1] == END
        if ended.all():
            break
        logits, cache = decoder(given[-1][:, None], cache)
    rows: list[list[int]] = torch.stack(given, dim=1).tolist()
    return rows


def _choose(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return logits.argmax(-1)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
