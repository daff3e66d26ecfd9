"""The check for orders of sets sees what it should, and nothing else."""

from __future__ import annotations

import ast
from textwrap import dedent

import pytest

from tests.orders import lines_with_order

PRELUDE = """
class Ring:
    peers: frozenset[str]
    planes: dict[str, set[str]]
    names: tuple[str, ...]

    def __init__(self) -> None:
        self._up: set[str] = set()

    def banned(self) -> frozenset[str]: ...

def choose(peers: Collection[str]) -> None:
    for peer in peers: ...

def known(peers: Sequence[str]) -> None: ...
"""


def found(code: str) -> int:
    """How many lines of a function of that code show the order of a set."""
    body = "def judge(ring: Ring, some: set[str], few: list[str], by_name: dict[str, int]) -> None:\n"
    whole = PRELUDE + body + "".join(f"    {line}\n" for line in dedent(code).strip().splitlines())
    return len(list(lines_with_order({"ring.py": ast.parse(whole)})))


@pytest.mark.parametrize(
    "code",
    [
        "for each in {1, 2}: ...",
        "for each in some: ...",
        "for each in ring.peers: ...",
        "for each in ring.banned(): ...",
        "for each in ring._up - ring.peers: ...",
        "for each in by_name.keys() - few: ...",
        "for each in some if few else few: ...",
        "for each in some or few: ...",
        "for each in ring.planes['n0']: ...",
        "for each in ring.planes.get('n0', ()): ...",
        "for number, each in enumerate(some): ...",
        "for each in some.union(few): ...",
        "more = some | ring.peers\nfor each in more: ...",
        "if more := set(few): return list(more)",
        "list(some)",
        "tuple(set(few))",
        "next(iter(some))",
        "', '.join(some)",
        "[*some, *few]",
        "known(*some)",
        "dict.fromkeys(some)",
        "few.extend(some)",
        "[each for each in some]",
        "{each: 1 for each in some}",
        "list(each for each in some)",
        "some.pop()",
        "one, two = some",
        "yield from some",
        "sorted(some, key=len)",
        "min(some, key=len)",
        "sorted((each for each in some), key=len)",
        "choose(some)",
        "choose(peers=some)",
    ],
)
def test_an_order_of_a_set_is_found(code: str) -> None:
    assert found(code) == 1


@pytest.mark.parametrize(
    "code",
    [
        "for each in sorted(some): ...",
        "for each in few: ...",
        "for each in ring.names: ...",
        "for each in by_name: ...",
        "for each in by_name.keys(): ...",
        "for each in ring.planes: ...",
        "sum(each > 1 for each in some)",
        "any(map(len, some))",
        "max(0, *some)",
        "{each for each in some}",
        "{len(each) for each in ring.peers | some}",
        "sorted(len(each) for each in some)",
        "frozenset([*few]) | some",
        "{*some, *few}",
        "some.discard(1)",
        "few.pop()",
        "by_name.pop('n0')",
        "len(some) and 'n0' in some",
        "(only,) = some",
        "choose(few)",
        "choose(sorted(some))",
        "some = few\nfor each in some: ...",
    ],
)
def test_what_has_an_order_or_needs_none_is_passed_over(code: str) -> None:
    assert found(code) == 0
