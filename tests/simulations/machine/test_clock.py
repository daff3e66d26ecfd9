"""Time and chance that can be repeated."""

from __future__ import annotations

import pytest
import trio

from simulations.machine.clock import EPOCH_S, SeededRandomness, VirtualClock
from tests.virtual_time import ON_VIRTUAL_TIME


@ON_VIRTUAL_TIME
async def test_both_clocks_pass_together_and_skew_moves_the_wall_alone() -> None:
    clock, skewed = VirtualClock(), VirtualClock(skew_s=-90.0)
    before = clock.monotonic(), clock.wall()
    await trio.sleep(3600.0)
    assert clock.monotonic() - before[0] == pytest.approx(3600.0)
    assert clock.wall() - before[1] == pytest.approx(3600.0)
    assert clock.wall() == EPOCH_S + clock.monotonic()
    assert skewed.wall() == pytest.approx(clock.wall() - 90.0)


@ON_VIRTUAL_TIME
async def test_a_wall_clock_drifts_from_where_it_is_and_jumps_by_what_it_is_told() -> None:
    clock = VirtualClock(skew_s=2.0)

    def wrong_s() -> float:
        return clock.wall() - EPOCH_S - trio.current_time()

    await trio.sleep(1000.0)
    clock.drift(200)  # not as if it had drifted ever since it was made
    assert wrong_s() == pytest.approx(2.0)
    await trio.sleep(1000.0)
    assert wrong_s() == pytest.approx(2.2)
    clock.jump(-5.0)
    assert wrong_s() == pytest.approx(-2.8)
    clock.drift(-500)
    await trio.sleep(1000.0)
    assert wrong_s() == pytest.approx(-3.3)
    clock.drift(0)
    await trio.sleep(1000.0)
    assert wrong_s() == pytest.approx(-3.3)


@ON_VIRTUAL_TIME
async def test_the_monotonic_clock_neither_drifts_nor_jumps() -> None:
    clock = VirtualClock()
    clock.drift(500)
    clock.jump(3600.0)
    await trio.sleep(10.0)
    assert clock.monotonic() == trio.current_time() == pytest.approx(10.0)


def test_equal_seeds_draw_equal_bytes_and_others_do_not() -> None:
    draws = [[SeededRandomness(seed).token_bytes(count) for count in (0, 1, 16, 100)] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert list(map(len, draws[0])) == [0, 1, 16, 100]
    randomness = SeededRandomness(1)
    assert randomness.token_bytes(16) != randomness.token_bytes(16)
