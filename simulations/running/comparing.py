"""Is a run the same when it is run again? If not, the first event in which two runs of one script differ.

The second run has a process of its own, in which strings hash otherwise: an order that comes from a set of names, from
addresses of objects or from what an earlier run left in memory is then another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

import msgspec

from protocols.errors import LocalFault
from simulations.running.run import run_script
from simulations.scenarios.script import Script
from simulations.trace import Trace

BEFORE: Final = 20
"""Events shown that led to the one that differs."""

OTHER_HASH_SEEDS: Final = ("1", "2")
"""One of them is not that of this process."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Event number `index` was `one` in the first run and `two` in the second, None where that run had ended already."""

    index: int
    before: tuple[str, ...]
    one: str | None
    two: str | None

    def __str__(self) -> str:
        ended = "(no more events)"
        return "\n".join(
            (
                *(f"    {event}" for event in self.before),
                f"1st {self.one if self.one is not None else ended}",
                f"2nd {self.two if self.two is not None else ended}",
            )
        )


def first_difference(one: Sequence[bytes], two: Sequence[bytes]) -> Difference | None:
    """Of two streams of events."""
    for index, (first, second) in enumerate(zip_longest(one, two)):
        if first != second:
            before = tuple(_legible(event) for event in one[max(0, index - BEFORE) : index])
            one_event, two_event = (None if event is None else _legible(event) for event in (first, second))
            return Difference(index, before, one_event, two_event)
    return None


def stream_of(script: Script) -> list[bytes]:
    """Everything that counts for the digest of a run, in order, and how it ended."""
    events: list[bytes] = []
    outcome = run_script(script, trace=Trace(stream=events.append))
    if outcome.interrupted:
        raise KeyboardInterrupt
    events.append(f"the end: {outcome.digest}, {len(outcome.violations)} violations".encode())
    return events


def stream_elsewhere(script: Script) -> list[bytes]:
    """The same in a process of its own, where strings hash otherwise. Raises `LocalFault` if that fails."""
    hash_seed = next(seed for seed in OTHER_HASH_SEEDS if seed != os.environ.get("PYTHONHASHSEED"))
    ran = subprocess.run(  # noqa: S603 (this very program)
        [sys.executable, "-m", __name__],
        input=msgspec.msgpack.encode(script),
        capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        check=False,
    )
    if ran.returncode:
        raise LocalFault(f"the second run failed: {ran.stderr.decode(errors='replace')[-2000:]}")
    return msgspec.msgpack.decode(ran.stdout, type=list[bytes])


def _legible(event: bytes) -> str:
    return event.decode("utf-8", "backslashreplace")


def _run_for_the_other() -> None:
    """What the other process does: a script comes in, the stream of its events goes out."""
    script = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Script)
    sys.stdout.buffer.write(msgspec.msgpack.encode(stream_of(script)))


if __name__ == "__main__":
    _run_for_the_other()
