"""What nodes think of each other: every piece of evidence once, none about oneself, and no ill word of the honest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mesh.picture.reputation import WEIGHTS
from protocols.observations import BAD_MAX, GOOD_MAX, Facet, Outcome, Tally
from simulations.invariants.invariant import Breach, always
from simulations.invariants.mesh import Mesh
from simulations.scenarios.faults import Lie

LOOK_S: Final = 2.0
ROUNDING: Final = 1e-6


@always(
    "S9",
    "What counts for and against a peer is the sum of what it was seen to do, each thing once.",
    every_s=LOOK_S,
)
def evidence_adds_up(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        for peer, record in sight.records.items():
            for facet in Facet:
                good, bad = _sums(record.tally, facet)
                held = record.facets[facet]
                # Good is capped, so that it can be less than the sum; as it fades, it can't be more.
                if held.good > min(GOOD_MAX, good) + ROUNDING or held.bad > min(BAD_MAX, bad) + ROUNDING:
                    detail = (
                        f"{held.good:.2f} for and {held.bad:.2f} against {mesh.name_of(peer)} in {facet.name}"
                    )
                    yield Breach((sight.name,), f"{detail}, of {good:.2f} and {bad:.2f}", peer)


@always("S9", "Nothing that happened is noted twice.", every_s=LOOK_S)
def happenings_are_noted_once(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        for peer, record in sight.records.items():
            if not mesh.is_news(("happenings", sight.name, peer), len(record.happenings), record.counted_s):
                continue
            noted = [(each.wall_s, each.outcome, each.detail) for each in record.happenings]
            if len(set(noted)) < len(noted):
                yield Breach((sight.name, mesh.name_of(peer)), "the same thing is noted twice")


@always(
    "S9", "Nobody keeps a record of itself, nor takes a report that a peer gives of itself.", every_s=LOOK_S
)
def nobody_judges_itself(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        if sight.peer in sight.records:
            yield Breach((sight.name,), "it keeps a record of itself")
        for subject, reports in sight.reports.items():
            if subject in reports or sight.peer in reports:
                yield Breach((sight.name,), f"a report of {mesh.name_of(subject)} on itself, or its own")


@always("S10", "Where nobody lies, nobody is seen to have computed wrongly.", every_s=LOOK_S)
def the_honest_are_not_distrusted(mesh: Mesh) -> Iterator[Breach]:
    if any(isinstance(fault, Lie) for fault in mesh.script.faults):
        return
    for sight in mesh.sights.values():
        for peer, record in sight.records.items():
            if record.tally.wrong:
                wrong = next(each for each in record.happenings if each.outcome is Outcome.WRONG)
                yield Breach((sight.name, mesh.name_of(peer)), wrong.detail)


def _sums(tally: Tally, facet: Facet) -> tuple[float, float]:
    good = bad = 0.0
    for outcome, weights in WEIGHTS.items():
        if facet in weights:
            count = getattr(tally, outcome.name.lower())
            good += count * weights[facet].good
            bad += count * weights[facet].bad
    return good, bad
