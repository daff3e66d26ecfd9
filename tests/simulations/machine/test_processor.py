"""A job ends although its end lies so near a millisecond that the clock takes it for that."""

from __future__ import annotations

import trio

from simulations.determinism import NOISE, TICKS_PER_S, run_deterministically
from simulations.machine.processor import Processor

LOOKS_MAX = 100


class CountingProcessor(Processor):
    looks = 0

    def settle(self) -> None:
        self.looks += 1
        assert self.looks < LOOKS_MAX, "it looks again and again at one instant"
        super().settle()


def test_a_job_whose_end_is_within_the_noise_of_a_millisecond_ends() -> None:
    async def compute() -> float:
        processor = CountingProcessor()
        await processor.until(processor.post("a step", 0.010 + NOISE / 2 / TICKS_PER_S, lambda: None))
        return trio.current_time()

    assert 0.010 <= run_deterministically(compute, seed=1) <= 0.011
