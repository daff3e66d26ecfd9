from __future__ import annotations

from collections import Counter

import pytest

from simulations.chance import chance
from simulations.scenarios.drawing import draw
from simulations.scenarios.faults import Crash
from simulations.scenarios.scenario import load
from simulations.scenarios.script import Script
from simulations.scenarios.swarm import KINDS, draw_profile

SEEDS = range(200)


@pytest.fixture(scope="module")
def swarm() -> list[Script]:
    scenario = load("swarm")
    return [draw(scenario, seed) for seed in SEEDS]


def test_meshes_of_every_size_are_drawn(swarm: list[Script]) -> None:
    assert {len(script.nodes) for script in swarm} == set(range(3, 10))


def test_every_kind_of_fault_is_drawn_and_never_all_at_once(swarm: list[Script]) -> None:
    seen = Counter(fault.__struct_config__.tag for script in swarm for fault in script.faults)
    assert seen.keys() == {
        "clock_jump", "crash", "disk_full", "disk_slow", "leave", "offer", "partition", "pause", "reset", "slow_link", "stall",
        "upgrade", "worker_crash", "worker_hang", "worker_slow",
    }  # fmt: skip
    profiles = [draw_profile(load("swarm"), chance(seed, "swarm", "profile")) for seed in SEEDS]
    assert {kind for profile in profiles for kind in profile.kinds} == KINDS.keys()
    assert {len(profile.kinds) for profile in profiles} == {1, 2, 3, 4, 5}


def test_the_core_is_whole_and_never_lacks_the_model(swarm: list[Script]) -> None:
    cores = [script.core for script in swarm]
    assert () in cores
    assert all("n0" in core and len(core) >= 2 for core in cores if core)
    assert any(0 < len(script.core) < len(script.nodes) - 1 for script in swarm)


def test_nothing_befalls_anybody_after_it_has_settled_and_people_go_on_asking(swarm: list[Script]) -> None:
    for script in swarm:
        settled_at_s = script.settled_at_s
        assert settled_at_s is not None
        assert all(fault.at_s < settled_at_s for fault in script.faults)
        assert any(request.at_s > settled_at_s for request in script.requests)


def test_most_disks_survive(swarm: list[Script]) -> None:
    is_lost = False
    for script in swarm:
        lost = [fault.node for fault in script.faults if isinstance(fault, Crash) and fault.disk == "lost"]
        assert len(lost) == len(set(lost)) <= (len(script.nodes) - 1) // 2
        assert "n0" not in lost
        is_lost |= bool(lost)
    assert is_lost


def test_a_mesh_may_crash_as_a_whole(swarm: list[Script]) -> None:
    def is_wiped_out(script: Script) -> bool:
        crashes = [fault for fault in script.faults if isinstance(fault, Crash)]
        return any(
            {crash.node for crash in crashes if first.at_s <= crash.at_s <= first.at_s + 1}
            >= {node.name for node in script.nodes}
            for first in crashes
        )

    assert any(map(is_wiped_out, swarm))


def test_a_swarm_can_be_had_of_one_size() -> None:
    assert {len(draw(load("swarm"), seed, nodes=4).nodes) for seed in range(10)} == {4}


def test_time_that_is_asked_for_is_filled() -> None:
    script = draw(load("swarm"), 3, minutes=4)
    assert (script.duration_s, script.settled_at_s) == (240, 195)
    assert max(fault.at_s for fault in script.faults) > 120
