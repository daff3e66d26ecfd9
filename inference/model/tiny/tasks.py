"""What weft-tiny can do: four domains and two long outputs, as questions with exact answers.

Rule of the file: pure Python, and every draw comes from the `Random` that is passed in. A generator makes an item from
the answer's side; `checks.is_right` judges a text from the prompt alone, so that one keeps the other honest.

    math       Add: 3+5, 9+9 -> 8, 18                    Sort: 5 2 9 -> 2 5 9
    coding     Close: ([{} -> ])                         reverse([3,1,7]) -> [7,1,3]; head, last, len
    reasoning  Copy: qkzmd -> qkzmd                      Ann is before Bob. Cid is before Ann. In what order? -> Cid, Ann, Bob
               Ann is in the hall. Bob is in the pond. Where is Ann? -> Ann is in the hall.
    language   Today the dogs near the pond (sing) -> The dogs sing.; Yesterday … -> The dogs sang.
    pattern    Repeat 16 times: qkzmd -> 1 qkzmd. 2 qkzmd. … 16 qkzmd.
    story      Tell a story about a cat. -> any story of `grammar`

An item is held out by the hash of its prompt: the trainer passes over those, the evaluation draws only them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from inference.model.tiny import grammar
from inference.model.tiny.checks import is_right

HELD_OUT_SHARE: Final = 8  # one prompt in so many is never trained on
DRAWS_PER_ITEM: Final = (
    100  # a dozen would do on average; a domain drawn this often without a new question is spent
)
PATTERN_ROUNDS: Final = 16  # an answer of 150 characters or more: long, and inside the context
DIGITS: Final = "0123456789"
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
BRACKETS: Final = {"(": ")", "[": "]", "{": "}", "<": ">"}
NAMES: Final = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon")


@dataclass(frozen=True, slots=True)
class Item:
    """One question and the answer that counts as right."""

    prompt: str
    answer: str


Generator = Callable[[Random], Item]


@dataclass(frozen=True, slots=True)
class Demo:
    """A prompt whose answer is long, ends by itself, and can be judged."""

    prompt: str
    check: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Demos:
    """`greedy` has one right answer; `sampled` has many, for temperature 1."""

    greedy: Demo
    sampled: Demo


def demo_prompts() -> Demos:
    """The two questions of `weft demo`; the greedy one is held out, so its answer was never trained on."""
    pattern, story = "Repeat 16 times: weave", "Tell a story about a rabbit."
    return Demos(
        greedy=Demo(pattern, lambda text: is_right(pattern, text)),
        sampled=Demo(story, lambda text: is_right(story, text)),
    )


# Generators.


def add(rng: Random) -> Item:
    pairs = [(rng.randint(0, 9), rng.randint(0, 9)) for _ in range(rng.randint(1, 2))]
    asked = ", ".join(f"{a}+{b}" for a, b in pairs)
    return Item(f"Add: {asked}", ", ".join(str(a + b) for a, b in pairs))


def sort(rng: Random) -> Item:
    digits = rng.choices(DIGITS, k=rng.randint(3, 4))
    return Item(f"Sort: {' '.join(digits)}", " ".join(sorted(digits)))


def close(rng: Random) -> Item:
    written, still_open = "", ""
    for _ in range(rng.randint(2, 5)):
        if still_open and rng.random() < 0.35:
            written, still_open = written + BRACKETS[still_open[-1]], still_open[:-1]
        else:
            bracket = rng.choice(list(BRACKETS))
            written, still_open = written + bracket, still_open + bracket
    if not still_open:
        written, still_open = written + "(", "("
    return Item(f"Close: {written}", "".join(BRACKETS[bracket] for bracket in reversed(still_open)))


def lists(rng: Random) -> Item:
    values = rng.choices(DIGITS, k=rng.randint(2, 4))
    answers = {
        "reverse": f"[{','.join(reversed(values))}]",
        "head": values[0],
        "last": values[-1],
        "len": str(len(values)),
    }
    function = rng.choice(["reverse", *answers])  # the hardest one twice as often
    return Item(f"{function}([{','.join(values)}])", answers[function])


def copy(rng: Random) -> Item:
    letters = "".join(rng.choices(LETTERS, k=rng.randint(3, 6)))
    return Item(f"Copy: {letters}", letters)


def order(rng: Random) -> Item:
    first, middle, last = rng.sample(NAMES, 3)
    facts = [f"{first} is before {middle}.", f"{middle} is before {last}."]
    rng.shuffle(facts)
    return Item(f"{' '.join(facts)} In what order?", f"{first}, {middle}, {last}")


def where(rng: Random) -> Item:
    people, places = rng.sample(NAMES, 2), rng.sample(grammar.PLACES, 2)
    facts = [f"{person} is in the {place}." for person, place in zip(people, places, strict=True)]
    asked = rng.randrange(2)
    return Item(f"{' '.join(facts)} Where is {people[asked]}?", facts[asked])


def language(rng: Random) -> Item:
    subject, verb, plural = rng.choice([*grammar.PLURALS]), rng.choice([*grammar.PASTS]), rng.random() < 0.5
    shown = grammar.PLURALS[subject] if plural else subject
    day, inflected = rng.choice(
        [("Today", grammar.present(verb, plural)), ("Yesterday", grammar.PASTS[verb])],
    )
    nearby = f"{rng.choice(grammar.PREPOSITIONS)} the {rng.choice(grammar.PLACES)}"
    return Item(f"{day} the {shown} {nearby} ({verb})", f"The {shown} {inflected}.")


def pattern(rng: Random) -> Item:
    letters = "".join(rng.choices(LETTERS, k=rng.randint(5, 6)))
    rounds = (f"{number} {letters}." for number in range(1, PATTERN_ROUNDS + 1))
    return Item(f"Repeat {PATTERN_ROUNDS} times: {letters}", " ".join(rounds))


def story(rng: Random) -> Item:
    hero = rng.choice(list(grammar.PLURALS))
    return Item(f"Tell a story about a {hero}.", grammar.tell(rng, hero))


def _either(*generators: Generator) -> Generator:
    return lambda rng: rng.choice(generators)(rng)


DOMAINS: Final[dict[str, Generator]] = {
    "math": _either(add, sort),
    "coding": _either(close, lists),
    "reasoning": _either(copy, order, where),
    "language": language,
}
LONG: Final[dict[str, Generator]] = {"pattern": pattern, "story": story}


# Held-out items.


def is_held_out(prompt: str) -> bool:
    """Whether the trainer must leave this prompt out; the same on every machine."""
    return hashlib.sha256(prompt.encode()).digest()[0] % HELD_OUT_SHARE == 0


def held_out(domain: str, n: int, seed: int) -> list[Item]:
    """`n` different items of a domain, or of `pattern`, that no training run has seen; ValueError if it hasn't so many."""
    # A story's prompt names one of few heroes and its answer is free, so there is nothing of it to hold out.
    assert domain != "story"
    generator = {**DOMAINS, **LONG}[domain]
    rng = Random(f"held out/{domain}/{seed}")  # noqa: S311 - questions, not secrets
    items: dict[str, Item] = {}
    for _ in range(DRAWS_PER_ITEM * n):
        item = generator(rng)
        if is_held_out(item.prompt):
            items[item.prompt] = item
        if len(items) == n:
            return list(items.values())
    raise ValueError(f"{domain} has fewer than {n} held-out questions")


def trained(generator: Generator, rng: Random) -> Item:
    """One item that training may use."""
    while True:
        item = generator(rng)
        if generator is story or not is_held_out(item.prompt):
            return item
