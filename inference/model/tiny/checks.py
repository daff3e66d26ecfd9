"""Judges an answer of weft-tiny from the question alone.

Rule of the file: nothing here knows how a question was made. Each judge reads the words of the prompt and checks the
property that a right answer has (sorted and the same digits, balanced brackets, the place that was told, …), so that the
generators of `tasks` and these judges can be held against each other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from inference.model.tiny import grammar

_PARTNERS: Final = {")": "(", "]": "[", "}": "{", ">": "<"}


def is_right(prompt: str, text: str) -> bool:
    """Whether `text` answers `prompt` rightly; ValueError for a question of no known kind."""
    for shape, judge in _JUDGES:
        if question := shape.fullmatch(prompt):
            return judge(question, text)
    raise ValueError(f"weft-tiny has no such question: {prompt!r}")


def _sums(question: re.Match[str], text: str) -> bool:
    pairs = [pair.split("+") for pair in question[1].split(", ")]
    return text == ", ".join(str(int(left) + int(right)) for left, right in pairs)


def _sorted(question: re.Match[str], text: str) -> bool:
    asked, given = question[1].split(" "), text.split(" ")
    same = all(asked.count(digit) == given.count(digit) for digit in {*asked, *given})
    return same and all(low <= high for low, high in pairwise(given))


def _balanced(question: re.Match[str], text: str) -> bool:
    still_open: list[str] = []
    for bracket in question[1] + text:
        if bracket in _PARTNERS.values():
            still_open.append(bracket)
        elif not still_open or still_open.pop() != _PARTNERS.get(bracket):
            return False
    # An answer may only close: opening and closing one more pair would balance too.
    return not still_open and all(bracket in _PARTNERS for bracket in text)


def _listed(question: re.Match[str], text: str) -> bool:
    values: list[int] = ast.literal_eval(question[2])
    right: dict[str, object] = {
        "reverse": values[::-1],
        "head": values[0],
        "last": values[-1],
        "len": len(values),
    }
    return text == str(right[question[1]]).replace(" ", "")


def _copied(question: re.Match[str], text: str) -> bool:
    return text == question[1]


def _ordered(question: re.Match[str], text: str) -> bool:
    earlier, later = {question[1], question[3]}, {question[2], question[4]}
    return [{name} for name in text.split(", ")] == [earlier - later, earlier & later, later - earlier]


def _found(question: re.Match[str], text: str) -> bool:
    return text in question[1] and re.fullmatch(rf"{question[2]} is in the \w+\.", text) is not None


def _inflected(question: re.Match[str], text: str) -> bool:
    day, subject, verb = question.groups()
    if day == "Yesterday":
        return text == f"The {subject} {grammar.PASTS[verb]}."
    return text == f"The {subject} {grammar.present(verb, plural=subject not in grammar.PLURALS)}."


def _continued(question: re.Match[str], text: str) -> bool:
    rounds = [said.split(" ") for said in text.removesuffix(".").split(". ")]
    counted = [[str(number), question[2]] for number in range(1, int(question[1]) + 1)]
    return text.endswith(".") and rounds == counted


def _told(question: re.Match[str], text: str) -> bool:
    return grammar.is_story_about(question[1], text)


_Judge = Callable[[re.Match[str], str], bool]
_JUDGES: Final[list[tuple[re.Pattern[str], _Judge]]] = [
    (re.compile(shape), judge)
    for shape, judge in (
        (r"Add: (\d\+\d(?:, \d\+\d)*)", _sums),
        (r"Sort: (\d(?: \d)*)", _sorted),
        (r"Close: ([][(){}<>]+)", _balanced),
        (r"(reverse|head|last|len)\((\[\d(?:,\d)*\])\)", _listed),
        (r"Copy: (\w+)", _copied),
        (r"(\w+) is before (\w+)\. (\w+) is before (\w+)\. In what order\?", _ordered),
        (r"((?:\w+ is in the \w+\. )+)Where is (\w+)\?", _found),
        (r"(Today|Yesterday) the (\w+) \w+ the \w+ \((\w+)\)", _inflected),
        (r"Repeat (\d+) times: (\w+)", _continued),
        (r"Tell a story about a (\w+)\.", _told),
    )
]
