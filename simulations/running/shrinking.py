"""The smallest script that still fails: fewer faults, then fewer nodes, fewer requests, shorter times.

Lists shrink by delta debugging (A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE
28(2), 2002): halves first, then ever smaller pieces and what is left without each, until no single piece can go. Whether a
script still fails is asked of a function, so that the same rules are tested without a run. The list of faults is kept as it
was drawn: a new draw would change everything else.

The rule of the file: pure but for the oracle, and the same steps for the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from msgspec.structs import replace

from simulations.running.naming import without
from simulations.scenarios.faults import Fault
from simulations.scenarios.script import Script

RUNS_MAX: Final = 200
DURATION_MIN_S: Final = 1.0
FAULT_MIN_S: Final = 0.1
_LENGTHS: Final = ("for_s", "restart_s")
_SHARES: Final = (0.5, 0.75, 0.9)

Item = TypeVar("Item")
Oracle = Callable[[Script], bool]
OnTry = Callable[[int, Script], None]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """`is_minimal` is False if the bound on runs was reached before nothing more could go."""

    script: Script
    runs: int
    is_minimal: bool


class _Spent(Exception):
    """The bound on runs is reached."""


def shrink(script: Script, fails: Oracle, runs_max: int = RUNS_MAX, on_try: OnTry | None = None) -> Shrunk:
    """`fails` holds for `script` and for what comes back; it is asked at most `runs_max` times, never twice the same.

    `on_try` hears how many runs there were and the smallest script so far, before each.
    """
    trying = _Trying(script, fails, runs_max, on_try or (lambda runs, smallest: None))
    try:
        while _pass(trying):
            pass
    except _Spent:
        return Shrunk(trying.smallest, trying.runs, is_minimal=False)
    return Shrunk(trying.smallest, trying.runs, is_minimal=True)


def ddmin(items: tuple[Item, ...], fails: Callable[[tuple[Item, ...]], bool]) -> tuple[Item, ...]:
    """A part of `items`, in their order, for which `fails` holds as it does for all, and without any one of it no more."""
    if not items or fails(()):
        return ()
    pieces = 2
    while len(items) > 1:
        for left in _candidates(items, pieces):
            if fails(left):
                pieces = 2 if len(left) <= -(-len(items) // pieces) else max(pieces - 1, 2)
                items = left
                break
        else:
            if pieces >= len(items):
                break
            pieces = min(2 * pieces, len(items))
    return items


def _candidates(items: tuple[Item, ...], pieces: int) -> Iterator[tuple[Item, ...]]:
    size = -(-len(items) // pieces)
    starts = range(0, len(items), size)
    for start in starts:
        yield items[start : start + size]
    if len(starts) > 2:  # with two, what is left without one is the other
        for start in starts:
            yield items[:start] + items[start + size :]


class _Trying:
    """`smallest` is the smallest script so far that fails."""

    def __init__(self, script: Script, fails: Oracle, runs_max: int, on_try: OnTry) -> None:
        self.smallest = script
        self.runs = 0
        self._fails = fails
        self._runs_max = runs_max
        self._on_try = on_try
        self._known = {script: True}

    def __call__(self, script: Script) -> bool:
        if script not in self._known:
            if self.runs >= self._runs_max:
                raise _Spent
            self._on_try(self.runs, self.smallest)
            self.runs += 1
            self._known[script] = self._fails(script)
        if self._known[script]:
            self.smallest = script
        return self._known[script]


def _pass(trying: _Trying) -> bool:
    """Whether anything could go."""
    before = trying.smallest
    script = before
    ddmin(script.faults, lambda faults: trying(replace(script, faults=faults)))
    _drop_nodes(trying)
    left = trying.smallest
    ddmin(left.requests, lambda requests: trying(replace(left, requests=requests)))
    ddmin(left.links, lambda links: trying(replace(trying.smallest, links=links)))
    _shorten(trying)
    return trying.smallest != before


def _drop_nodes(trying: _Trying) -> None:
    """A script has at least one node."""
    script = trying.smallest

    def fails(kept: tuple[str, ...]) -> bool:
        gone = [node.name for node in script.nodes if node.name not in kept]
        return bool(kept) and trying(without(script, gone))

    ddmin(tuple(node.name for node in script.nodes), fails)


def _shorten(trying: _Trying) -> None:
    """Cut what takes time for as long as it still fails: the run, then every fault, then every request."""
    while any(trying(_cut(trying.smallest, share)) for share in _SHARES if _is_long(trying.smallest)):
        pass
    for index in range(len(trying.smallest.faults)):
        for length in _LENGTHS:
            while (left := _with_shorter_fault(trying.smallest, index, length)) is not None and trying(left):
                pass
    for index in range(len(trying.smallest.requests)):
        while (left := _with_shorter_request(trying.smallest, index)) is not None and trying(left):
            pass


def _is_long(script: Script) -> bool:
    return script.duration_s > DURATION_MIN_S


def _cut(script: Script, share: float) -> Script:
    duration_s = max(round(script.duration_s * share, 3), DURATION_MIN_S)
    settles = script.settled_at_s is not None and script.settled_at_s < duration_s
    return replace(script, duration_s=duration_s, settled_at_s=script.settled_at_s if settles else None)


def _with_shorter_fault(script: Script, index: int, length: str) -> Script | None:
    fault: Fault = script.faults[index]
    seconds = getattr(fault, length, None)
    if seconds is None or seconds <= FAULT_MIN_S:
        return None
    shorter: Fault = replace(fault, **{length: max(round(seconds / 2, 3), FAULT_MIN_S)})
    return replace(script, faults=(*script.faults[:index], shorter, *script.faults[index + 1 :]))


def _with_shorter_request(script: Script, index: int) -> Script | None:
    request = script.requests[index]
    if request.tokens <= 1:
        return None
    shorter = replace(request, tokens=request.tokens // 2)
    return replace(script, requests=(*script.requests[:index], shorter, *script.requests[index + 1 :]))
