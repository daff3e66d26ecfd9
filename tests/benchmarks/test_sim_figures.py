"""What the benchmark of the simulations makes of its measurements, without simulating anything."""

from __future__ import annotations

import pytest

from simulations.scenarios.faults import Crash
from tests.benchmarks import __main__ as bench
from tests.benchmarks import sim
from tests.benchmarks.sim_digests import is_equal
from tests.benchmarks.sim_memory import MEASURED_MIN, NODES, WARM_UP_MIN, script, slope
from tests.benchmarks.sim_speed import Stopwatch


def test_every_part_can_be_asked_for_by_its_name() -> None:
    assert {f"sim:{name}" for name in sim.PARTS} | {"sim"} <= {*bench.BENCHMARKS}
    assert [*sim.PARTS] == ["speed", "determinism", "mutants", "violations", "memory"]


def test_a_slope_is_that_of_the_line_through_the_points() -> None:
    assert slope([(0, 5.0), (1, 5.0), (2, 5.0)]) == 0
    assert slope([(30, 1.0), (40, 3.0), (50, 5.0)]) == pytest.approx(0.2)
    assert slope([(0, 0.0), (1, 4.0), (2, 2.0)]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("digests", "expected"),
    [(["a"] * 6, True), (["a"] * 5 + ["b"], False), (["a"] * 5, False), ([], False)],
)
def test_a_seed_counts_as_equal_if_every_run_of_it_is_there_and_the_same(
    digests: list[str], expected: bool
) -> None:
    assert is_equal(digests) is expected


def test_planted_bugs_are_told_as_their_table_tells_them() -> None:
    told = {"figure": "mutants_found_share", "value": 0.96, "planted": 25, "found": 24, "seeds_max": 500}
    figure = sim.figure_of_mutants(told)
    assert (figure.name, figure.value, figure.runs) == ("mutants_found_share", 0.96, 25)
    assert figure.spread == {"found": 24, "seeds_max": 500}


def test_every_node_has_restarted_and_asked_before_memory_counts() -> None:
    made = script(WARM_UP_MIN + MEASURED_MIN)
    warm = [fault for fault in made.faults if fault.at_s < WARM_UP_MIN * 60]
    asked = [request for request in made.requests if request.at_s < WARM_UP_MIN * 60]
    assert {fault.node for fault in warm if isinstance(fault, Crash)} == {node.name for node in made.nodes}
    assert {request.entry for request in asked} == {f"n{number}" for number in range(NODES)}
    assert len(made.faults) - len(warm) == 12


def test_a_stopwatch_counts_whole_windows_and_nothing_across_a_pause() -> None:
    watch = Stopwatch(10.0)
    for at_s in (0.0, 4.0, 8.0):
        watch.tick(at_s)
    watch.pause()
    for at_s in (9.0, 18.0, 19.0, 24.0, 29.5):
        watch.tick(at_s)
    assert len(watch.walls) == len(watch.cpus) == 2
    assert watch.figure("speed").runs == 2
