"""The programs themselves: none dies of a bug, no handler fails of one, and no event loop is late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from protocols import errors
from protocols.errors import RemoteFault, Unavailable, WeftError
from simulations.invariants.bounds import LAG_S
from simulations.invariants.invariant import LOOK_S, Breach, always
from simulations.invariants.mesh import Mesh

EXPECTED: Final = frozenset(
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, WeftError) and issubclass(kind, RemoteFault | Unavailable)
)
"""What peers set off by being away or breaking rules, by the names under which a host counts it."""


@always("P1", "No daemon dies of its own program.")
def nobody_panics(mesh: Mesh) -> Iterator[Breach]:
    for index, panic in enumerate(mesh.cluster.panics):
        yield Breach((panic.node,), f"{panic.error}\n{panic.traceback}".rstrip(), index)


@always("P2", "What a peer sets off fails of nothing but peers and the network: never of a bug.", every_s=1.0)
def handlers_have_no_bugs(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        for name, count in sight.faults.items():
            if name not in EXPECTED and not (sight.disk_was_full and name == "LocalFault"):
                yield Breach((sight.name,), f"{count} handlers failed of {name}", name)


@always(
    "P3", f"No event loop is late by more than {LAG_S} s, but one whose process stood still.", every_s=1.0
)
def loops_are_on_time(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        history = mesh.histories[sight.name]
        for at_s, late_s in sight.late_s:
            # A pause that this observer has seen began and ended up to a look earlier or later.
            excused = history.stood_still(at_s - late_s - 1.0, at_s + LOOK_S) or sight.disk_is_slow
            if late_s > LAG_S and not excused:
                yield Breach((sight.name,), f"it was late by {late_s:.3f} s at {at_s:.3f} s")
