"""The simulator against reality: eight processes lose a node, and so do eight simulated ones, and both take as long.

A simulated time is exact, and differs from seed to seed by the phase of the detectors' rounds alone. A real one comes on top of
a machine that does other things. So the band over the seeds is widened, upwards, by what the rules themselves allow a node
that is late: `PROBE_S` and `REFUTE_S` are stretched by up to two (0.5 + 1.0 s), and 1 s more for processes that wait for a
processor. Downwards by what a few seeds may miss of a round of `PROBE_INTERVAL_S`.
"""

from __future__ import annotations

from pathlib import Path

from protocols import limits
from tests.e2e.parity.real import real_mesh
from tests.e2e.parity.simulated import simulate
from tests.e2e.parity.trial import ACTS, Act, Band, Figures

SEEDS = range(10)
LATE_S = limits.PROBE_S + limits.REFUTE_S + 1.0
MISSED_S = 0.3 * limits.PROBE_INTERVAL_S  # ten seeds leave out more than this once in 35 times
TICK_S = 0.02  # at which the simulated ones are read, and the virtual round trips

SILENT_S = limits.PROBE_S + limits.INQUIRY_S + limits.REFUTE_S
"""From the first probe that a stopped node does not answer to the verdict."""
KNOWN_S: dict[Act, Band] = {
    "kill": Band(limits.REFUTE_REFUSED_S, limits.REFUTE_REFUSED_S),  # its port refuses at once
    "stop": Band(SILENT_S, limits.PROBE_INTERVAL_S + SILENT_S),
}


def bands(figures: list[Figures]) -> dict[str, Band]:
    return {
        "the first to know": Band.over([each.first_s for each in figures]),
        "the last to know": Band.over([each.all_s for each in figures]),
        "the pause of the answer": Band.over([each.pause_s for each in figures]),
    }


def test_real_processes_take_as_long_as_simulated_ones_when_one_is_lost(
    tmp_path: Path, checkpoint: Path
) -> None:
    with real_mesh(tmp_path / "mesh", checkpoint) as mesh:
        real = {act: mesh.play(act) for act in ACTS}
    simulated = [simulate(seed, mesh.layer_ms) for seed in SEEDS]
    for act in ACTS:
        for figures in simulated:
            assert KNOWN_S[act].widened(0.0, TICK_S).holds(figures[act].first_s)
            assert KNOWN_S[act].widened(0.0, TICK_S).holds(figures[act].all_s)
        measured = bands([real[act]])
        for what, band in bands([each[act] for each in simulated]).items():
            value_s = measured[what].least_s
            print(f"{act}, {what}: simulated {band}, real {value_s:.3f} s")
            assert band.widened(MISSED_S, LATE_S).holds(value_s), (
                f"{act}, {what}: {value_s:.3f} s, simulated {band}"
            )
