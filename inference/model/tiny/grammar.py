"""A small English: nouns, verbs, agreement, past tense, and stories of seven sentences.

Rule of the file: pure, and what is generated here can be read back here. `is_story` accepts exactly the stories that
`tell` can tell:

    story     On Monday S. On Tuesday S. … On Sunday S. The end.
    S         the NOUN MOVED [WHERE]  |  the NOUN MET a NOUN
    WHERE     PREPOSITION the PLACE

The weekdays count the sentences, so a story ends by itself, and not before 177 characters: seven times
`On Monday the cat ran.`, the longer names of other days, the spaces and the closing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import Random
from typing import Final

PLURALS: Final = {
    **{
        noun: noun + "s"
        for noun in (
            "cat",
            "dog",
            "bird",
            "king",
            "girl",
            "farmer",
            "singer",
            "doctor",
            "rabbit",
            "horse",
            "lion",
            "duck",
        )
    },
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
}
MOVED: Final = {
    "walk": "walked",
    "jump": "jumped",
    "sing": "sang",
    "run": "ran",
    "sleep": "slept",
    "swim": "swam",
    "play": "played",
    "fall": "fell",
    "eat": "ate",
    "dance": "danced",
}
MET: Final = {
    "see": "saw",
    "find": "found",
    "hear": "heard",
    "help": "helped",
    "push": "pushed",
    "meet": "met",
}
PASTS: Final = {**MOVED, **MET}
PREPOSITIONS: Final = ("near", "by", "behind")
PLACES: Final = ("hall", "yard", "pond", "barn", "kitchen", "garden", "market", "tower")
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
CLOSING: Final = "The end."


def present(verb: str, plural: bool) -> str:
    """The present tense of the third person: `they push`, `she pushes`."""
    if plural:
        return verb
    return verb + ("es" if verb.endswith("sh") else "s")


def tell(rng: Random, hero: str) -> str:
    """A story whose subject is `hero` on every day."""
    sentences = [f"On {day} the {hero} {_happening(rng)}." for day in DAYS]
    return " ".join([*sentences, CLOSING])


def is_story(text: str) -> bool:
    """Whether the whole text is one story of this grammar, whoever its heroes are."""
    return _STORY.fullmatch(text) is not None


def is_story_about(hero: str, text: str) -> bool:
    """Whether the text is a story, and its subject is `hero` on every day."""
    return is_story(text) and set(_SUBJECT.findall(text)) == {hero}


def _happening(rng: Random) -> str:
    if rng.random() < 0.4:
        return f"{rng.choice(list(MET.values()))} a {rng.choice(list(PLURALS))}"
    moved = rng.choice(list(MOVED.values()))
    if rng.random() < 0.7:
        return f"{moved} {rng.choice(PREPOSITIONS)} the {rng.choice(PLACES)}"
    return moved


def _any_of(words: Iterable[str]) -> str:
    return "(?:" + "|".join(words) + ")"


def _story_pattern() -> re.Pattern[str]:
    moved = f"{_any_of(MOVED.values())}(?: {_any_of(PREPOSITIONS)} the {_any_of(PLACES)})?"
    met = f"{_any_of(MET.values())} a {_any_of(PLURALS)}"
    said = f"the {_any_of(PLURALS)} (?:{moved}|{met})"
    return re.compile(" ".join([*(rf"On {day} {said}\." for day in DAYS), re.escape(CLOSING)]))


_STORY: Final = _story_pattern()
_SUBJECT: Final = re.compile(rf"day the ({_any_of(PLURALS)}) ")
