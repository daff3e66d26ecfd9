"""Scripts at level `world`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from protocols.errors import UserError
from simulations.running.outcome import Outcome
from simulations.scenarios import faults as f
from simulations.scenarios.drawing import draw
from simulations.scenarios.faults import Fault
from simulations.scenarios.scenario import load
from simulations.scenarios.script import Expectations, LinkSpec, NodeSpec, Request, Script
from simulations.world.running import BEGINS_S, run_world

NAMES = [f"n{number}" for number in range(9)]
FAULTS: tuple[Fault, ...] = (
    f.Crash(2, node="n1", silent=True, restart_s=5),
    f.Crash(3, node="n2", restart_s=1.5, disk="lost"),
    f.Leave(4, node="n3", restart_s=4),
    f.Pause(5, node="n4", for_s=4),
    f.Stall(1, node="n5", for_s=15, stall_s=0.7, every_s=2),
    f.Partition(10, groups=(("n6", "n7"), ("n0", "n8")), for_s=4, one_way=True),
    f.SlowLink(3, node="n7", for_s=8, latency_ms=80, jitter_ms=20, loss=0.1),
    f.Reset(6, node="n0", other="n8"),
    f.ClockJump(7, node="n8", by_s=5.0, drift_ppm=100),
)


def script(*faults: Fault, seed: int = 3, duration_s: float = 20) -> Script:
    nodes = tuple(
        NodeSpec(name, layer_ms=3 + place, memory_mb=600 + place) for place, name in enumerate(NAMES)
    )
    links = (LinkSpec(latency_ms=4, jitter_ms=26, loss=0.01),)
    return Script("test", seed, duration_s, nodes, links=links, faults=faults)


def test_a_script_with_every_fault_of_a_world_runs_without_a_violation_and_is_told() -> None:
    looks = []
    outcome = run_world(
        script(*FAULTS, duration_s=45), on_look=lambda world: looks.append(world.now_s) or True
    )
    assert outcome.is_good
    assert outcome.virtual_s == BEGINS_S + 45
    assert outcome.events > 10_000
    assert [mark.at_s for mark in outcome.marks] == [BEGINS_S + fault.at_s for fault in FAULTS]
    assert {death.node for death in outcome.detections} >= {"n1", "n2"}
    assert all(death.down_at_s is not None for death in outcome.detections)
    assert len(looks) == 550


def test_a_run_ends_when_the_one_who_looks_has_seen_enough() -> None:
    assert run_world(script(), on_look=lambda world: world.now_s < 2).virtual_s == 2


def test_expectations_are_held_against_what_was_seen() -> None:
    hasty = msgspec.structs.replace(
        script(f.Crash(1, node="n1", silent=True)), expect=Expectations(detection_max_s=0.1)
    )
    assert run_world(hasty).missed[0].startswith("detection_max_s: n1 was called dead after")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (f.WorkerCrash(1, node="n1"), "The world level has no worker_crash faults"),
        (f.DiskFull(1, node="n1", for_s=3), "The world level has no disk_full faults"),
        (f.Crash(1, node="nobody"), "A fault names the node 'nobody'"),
    ],
)
def test_what_a_world_has_not_is_refused_in_one_line(fault: Fault, words: str) -> None:
    with pytest.raises(UserError, match=words):
        run_world(script(fault))


def test_requests_are_refused() -> None:
    asked = msgspec.structs.replace(script(), requests=(Request(1, "n0", "hello", 3),))
    with pytest.raises(UserError, match="no requests"):
        run_world(asked)


RUN = "from tests.simulations.world.test_running import *; print(run_world(script(*FAULTS, seed={}, duration_s=8)).digest)"


def test_one_seed_gives_one_digest_whatever_the_hashes() -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", RUN.format(seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, hash_seed in ((3, "0"), (3, "1"), (3, "2"), (4, "2"))
    ]
    assert len(digests[0].strip()) == 32
    assert digests[0] == digests[1] == digests[2] != digests[3]


@pytest.mark.parametrize(("name", "nodes"), [("world-1000", 20), ("world-churn", 12)])
def test_the_scenarios_of_this_level_run_at_a_smaller_size(name: str, nodes: int) -> None:
    scenario = load(name)
    assert scenario.level == "world"
    outcome: Outcome = run_world(draw(scenario, 1, nodes))
    assert outcome.violations == ()
    assert outcome.missed == ()
