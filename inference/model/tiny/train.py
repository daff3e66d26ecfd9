"""Trains weft-tiny: `python -m inference.model.tiny.train`, or measures it with `--evaluate`.

Rule of the file: a run is a function of its `Plan`. Questions come from one seeded `Random`, the weights from one seed
of torch, and nothing reads the clock but the progress lines; on one kind of machine the same plan gives the same bytes.

Each step learns from rows of separate questions of the four domains, and from one chat that fills the context, mostly
with patterns and stories. Only what the assistant says counts towards the loss.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from inference.model.tiny import MODEL_DIR, tasks
from inference.model.tiny.decoder import Decoder, Shape
from inference.model.tiny.folder import END, SYSTEM, VOCABULARY, encode, load_folder, save_folder
from inference.model.tiny.measure import Figure, held_out_figure, question, story_figure
from inference.model.tiny.muon import Muon

# Draws per domain: the grammar is learned long before the rest.
DOMAIN_WEIGHTS: Final = {"math": 3, "coding": 3, "reasoning": 4, "language": 2}
GREETINGS: Final = ("You are a helpful assistant.", "You are weft-tiny.", "Be brief.", "Answer in one line.")
IGNORED: Final = -100  # the target that cross_entropy leaves out
PROGRESS_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides the outcome of a run."""

    steps: int = 2600
    seed: int = 0
    rate: float = 0.002
    matrix_rate: float = 0.01
    warm_up_steps: int = 50
    # To look a name up among several is learned in a hundred steps alone and hardly ever in the crowd; once there, it
    # stays, and the rest is learned on top of it.
    lookup_steps: int = 250
    short_rows: int = 14
    short_width: int = 96
    long_rows: int = 1
    long_weight: float = 0.5
    # Temperature 1 should tell stories that parse: the trained distribution is raised to this power, which leaves every
    # greedy answer as it is and takes the small change of probability from what the grammar forbids.
    sharpening: float = 2.0
    shape: Shape = field(default_factory=lambda: Shape(vocabulary=len(VOCABULARY)))


@dataclass(frozen=True, slots=True)
class Row:
    """Items behind one another as ids; per id what it should predict next, and the number of its item."""

    ids: list[int]
    targets: list[int]
    items: list[int]


def pack(width: int, draw: Callable[[], tasks.Item], before: list[int]) -> Row:
    """A row cut at `width`: what stands before the first question, then questions and answers as drawn."""
    ids, said, items = [*before], [False] * len(before), [0] * len(before)
    number = 0
    while len(ids) <= width:
        item = draw()
        asked, answered = question(item.prompt), [*encode(item.answer), END]
        ids += asked + answered
        said += [False] * len(asked) + [True] * len(answered)
        items += [number] * (len(asked) + len(answered))
        number += 1
    targets = [token if spoken else IGNORED for token, spoken in zip(ids, said, strict=True)]
    return Row(ids[:width], targets[1 : width + 1], items[:width])


def lookup_row(rng: Random, width: int) -> Row:
    """Nothing but who is where."""
    return pack(width, lambda: tasks.trained(tasks.where, rng), _system(rng))


def short_row(rng: Random, width: int) -> Row:
    """Questions of the four domains; they share a row, but the decoder shows each only to itself."""
    return pack(width, lambda: tasks.trained(_domain(rng), rng), _system(rng))


def conversation(rng: Random, width: int) -> Row:
    """One chat of many turns: patterns and stories, and now and then a question of a domain between them."""
    return pack(width, lambda: tasks.trained(_turn(rng), rng), _system(rng))


def _system(rng: Random) -> list[int]:
    return [SYSTEM, *encode(rng.choice(GREETINGS)), END] if rng.random() < 0.1 else []


def _domain(rng: Random) -> tasks.Generator:
    return tasks.DOMAINS[rng.choices([*DOMAIN_WEIGHTS], [*DOMAIN_WEIGHTS.values()])[0]]


def _turn(rng: Random) -> tasks.Generator:
    return rng.choice([*tasks.LONG.values()]) if rng.random() < 0.6 else _domain(rng)


def _loss(decoder: Decoder, rows: list[Row], *, apart: bool) -> Tensor:
    items = torch.tensor([row.items for row in rows]) if apart else None
    logits, _ = decoder(torch.tensor([row.ids for row in rows]), items=items)
    targets = torch.tensor([row.targets for row in rows])
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def _lookup_loss(decoder: Decoder, plan: Plan, rng: Random) -> Tensor:
    return _loss(decoder, [lookup_row(rng, plan.short_width) for _ in range(plan.short_rows)], apart=True)


def _mixed_loss(decoder: Decoder, plan: Plan, rng: Random) -> Tensor:
    short = [short_row(rng, plan.short_width) for _ in range(plan.short_rows)]
    long = [conversation(rng, plan.shape.context) for _ in range(plan.long_rows)]
    return _loss(decoder, short, apart=True) + plan.long_weight * _loss(decoder, long, apart=False)


class Optimiser:
    """Muon for the matrices of the layers, AdamW for embedding and norms, one schedule for both."""

    def __init__(self, decoder: Decoder, plan: Plan) -> None:
        weights = dict(decoder.named_parameters())
        matrices = [w for name, w in weights.items() if w.dim() == 2 and "embed_tokens" not in name]
        rest = [w for name, w in weights.items() if w.dim() == 1 or "embed_tokens" in name]
        self._plan = plan
        self._weights: list[nn.Parameter] = [*weights.values()]
        self._muon = Muon(matrices)
        self._adam = torch.optim.AdamW(rest, lr=plan.rate, betas=(0.9, 0.95), weight_decay=0.0)

    def step(self, number: int) -> None:
        share = self._share(number)
        nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._muon.step(self._plan.matrix_rate * share)
        for group in self._adam.param_groups:
            group["lr"] = self._plan.rate * share
        self._adam.step()
        for weight in self._weights:
            weight.grad = None

    def _share(self, number: int) -> float:
        warm = min(1.0, (number + 1) / self._plan.warm_up_steps)
        return warm * 0.5 * (1 + math.cos(math.pi * number / self._plan.steps))


def train(plan: Plan, report: Callable[[int, float, Decoder], None]) -> Decoder:
    """The trained decoder, sharpened; `report` hears of every step and its loss."""
    torch.manual_seed(plan.seed)
    rng = Random(f"train/{plan.seed}")  # noqa: S311 - questions, not secrets
    decoder = Decoder(plan.shape)
    optimiser = Optimiser(decoder, plan)
    for number in range(plan.steps):
        loss = (
            _lookup_loss(decoder, plan, rng)
            if number < plan.lookup_steps
            else _mixed_loss(decoder, plan, rng)
        )
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step(number)
        report(number, loss.item(), decoder)
    with torch.no_grad():
        decoder.model.norm.weight.mul_(plan.sharpening)
    return decoder.eval()


class Progress:
    """Prints a line now and then: step, seconds, mean loss, accuracy so far."""

    def __init__(self, every: int) -> None:
        self._every, self._started_s, self._sum = every, time.monotonic(), 0.0

    def __call__(self, number: int, loss: float, decoder: Decoder) -> None:
        self._sum += loss
        if (number + 1) % self._every:
            return
        figures = " ".join(
            f"{kind} {held_out_figure(decoder, kind, 64, PROGRESS_SEED).accuracy:.2f}"
            for kind in tasks.DOMAINS
        )
        elapsed_s = time.monotonic() - self._started_s
        print(
            f"step {number + 1}  {elapsed_s:.0f} s  loss {self._sum / self._every:.3f}  {figures}", flush=True
        )
        self._sum = 0.0


def evaluate(folder: Path, n: int) -> list[Figure]:
    """The figures of the model card, from the weights as they are stored."""
    decoder = load_folder(folder)
    figures = [held_out_figure(decoder, kind, n) for kind in (*tasks.DOMAINS, "pattern")]
    return [*figures, story_figure(decoder, n)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m inference.model.tiny.train", description=__doc__)
    parser.add_argument("--folder", type=Path, default=MODEL_DIR, help="where the model lies or is written")
    parser.add_argument("--evaluate", action="store_true", help="measure what is there instead of training")
    parser.add_argument("--items", type=int, default=400, help="held-out questions per domain")
    parser.add_argument("--steps", type=int, default=Plan().steps)
    parser.add_argument("--seed", type=int, default=Plan().seed)
    parser.add_argument("--threads", type=int, default=1, help="more than one hardly helps at this size")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if not arguments.evaluate:
        decoder = train(Plan(steps=arguments.steps, seed=arguments.seed), Progress(every=200))
        save_folder(decoder, arguments.folder)
    for figure in evaluate(arguments.folder, arguments.items):
        print(f"{figure.kind:10} {figure.right}/{figure.asked} = {figure.accuracy:.4f}")
        for prompt, text in figure.missed[:3]:
            print(f"{'':10} missed: {prompt!r} -> {text!r}")


if __name__ == "__main__":
    main()
