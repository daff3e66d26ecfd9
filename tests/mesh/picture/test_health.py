"""Health digests: what is in them, how big they get, how long they count and what they come to."""

from __future__ import annotations

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mesh.picture.health import (
    LEAST,
    UNKNOWN_SCORE,
    Vitals,
    digest_of,
    is_due,
    is_known,
    pause_s,
    score,
)
from mesh.picture.loop_lag import LoopLag
from protocols import limits
from protocols.errors import Malformed
from protocols.health import HEALTH_CODEC, HealthDigest, LinkHealth, RangeHealth
from protocols.ids import ModelDigest
from protocols.placement import LayerRange
from simulations.network.internet import peer_id

GIB = 1 << 30


def range_health(number: int) -> RangeHealth:
    return RangeHealth(ModelDigest(f"{number:064x}"), LayerRange(100, 120), 1.23456789)


def link_health(number: int) -> LinkHealth:
    return LinkHealth(peer_id(number), 12.3456789, 117_123_456.789)


def vitals(ranges: int = 0, links: int = 0, **changed: float) -> Vitals:
    figures = {
        "loop_lag_ms": 3.0,
        "memory_free_bytes": 40 * GIB,
        "memory_total_bytes": 64 * GIB,
        "load": 0.3,
        "sessions": 2,
        "queue": 0,
    }
    return Vitals(
        **(figures | changed),  # type: ignore[arg-type]
        ranges=[range_health(number) for number in range(ranges)],
        links=[link_health(number) for number in range(links)],
    )


def test_a_usual_digest_fits_into_600_bytes_with_all_that_was_said() -> None:
    digest = digest_of(vitals(ranges=3, links=4), made_ms=1_800_000_000_000)
    assert (len(digest.ranges), len(digest.links)) == (3, 4)
    assert len(HEALTH_CODEC.encode(digest)) <= 600


def test_links_are_left_out_before_ranges_and_the_last_ones_first() -> None:
    digest = digest_of(vitals(ranges=4, links=16), made_ms=1_800_000_000_000)
    assert len(digest.ranges) == 4
    assert [link.peer for link in digest.links] == [peer_id(0), peer_id(1), peer_id(2)]
    assert len(HEALTH_CODEC.encode(digest)) <= limits.HEALTH_BYTES
    assert len(digest_of(vitals(ranges=40, links=3), made_ms=1).ranges) == limits.HEALTH_RANGES_MAX


def test_a_digest_of_the_greatest_size_is_taken_and_one_beyond_is_not() -> None:
    digest = digest_of(vitals(), made_ms=1)
    links = tuple(link_health(number) for number in range(limits.HEALTH_LINKS_MAX))
    greatest = msgspec.structs.replace(
        digest, ranges=tuple(map(range_health, range(limits.HEALTH_RANGES_MAX))), links=links
    )
    assert HEALTH_CODEC.decode(HEALTH_CODEC.encode(greatest)) == greatest
    assert len(HEALTH_CODEC.encode(greatest)) <= 4 * limits.KIB
    beyond = msgspec.structs.replace(greatest, links=(*links, link_health(99)))
    with pytest.raises(Malformed):
        HEALTH_CODEC.decode(HEALTH_CODEC.encode(beyond))


@pytest.mark.parametrize(
    "lie",
    [
        {"load": 1.5},
        {"loop_lag_ms": -1.0},
        {"memory_free_bytes": -1},
        {"loop_lag_ms": float("nan")},
        {"queue": -1},
    ],
)
def test_figures_that_cannot_be_are_refused(lie: dict[str, float]) -> None:
    digest = msgspec.structs.replace(digest_of(vitals(), made_ms=1), **lie)
    with pytest.raises(Malformed):
        HEALTH_CODEC.decode(HEALTH_CODEC.encode(digest))


def test_readings_out_of_bounds_become_a_digest_that_others_take() -> None:
    odd = vitals(load=3.7, loop_lag_ms=-0.1, memory_free_bytes=65 * GIB)
    digest = digest_of(odd, made_ms=5)
    assert (digest.load, digest.loop_lag_ms, digest.memory_free_bytes) == (1.0, 0.0, 64 * GIB)
    assert HEALTH_CODEC.decode(HEALTH_CODEC.encode(digest)) == digest


def test_the_wire_form_of_a_digest_stays_what_it_is() -> None:
    digest = HealthDigest(
        1.5, 1024, 4096, 0.25, 2, 3, (range_health(7),), (LinkHealth(peer_id(1), 0.5, 1000.0),), 99
    )
    prefix = "99cb3ff8000000000000cd0400cd1000cb3fd000000000000002039193d940"
    assert HEALTH_CODEC.encode(digest).hex().startswith(prefix)
    assert HEALTH_CODEC.encode(digest).hex().endswith("cb3fe0000000000000cb408f40000000000063")


def test_what_was_heard_three_intervals_ago_is_unknown() -> None:
    assert is_known(100.0, 100.0 + 3 * limits.HEALTH_S, members=2)
    assert not is_known(100.0, 100.1 + 3 * limits.HEALTH_S, members=2)
    assert score(None) == UNKNOWN_SCORE


@pytest.mark.parametrize("members", [50, 200, 1000])
def test_nobody_hears_more_digests_a_second_than_in_a_mesh_of_fifty(members: int) -> None:
    assert members / pause_s(members) == limits.HEALTH_MEMBERS / limits.HEALTH_S
    assert is_known(0.0, 3 * pause_s(members), members)
    assert pause_s(3) == limits.HEALTH_S


def test_in_a_large_mesh_a_change_is_told_at_once_and_all_else_with_time() -> None:
    told = digest_of(vitals(), made_ms=1)
    busy = digest_of(vitals(load=1.0, queue=16), made_ms=2)
    for silent_s, members, is_told in ((4.5, 50, True), (4.5, 200, False), (19.0, 200, True)):
        assert is_due(told, told, silent_s, members) is is_told
    assert is_due(None, told, 0.0, 200)
    assert is_due(told, busy, 4.5, 200)
    assert is_due(told, digest_of(vitals(ranges=1), made_ms=2), 4.5, 200)


@pytest.mark.parametrize(
    ("changed", "least", "most"),
    [
        ({}, 1.0, 1.0),
        ({"loop_lag_ms": 90.0, "load": 0.75, "queue": 1}, 1.0, 1.0),
        ({"load": 1.0}, 0.85, 0.9),
        ({"loop_lag_ms": 550.0}, 0.75, 0.8),
        ({"loop_lag_ms": 5000.0}, 0.1, 0.3),
        ({"memory_free_bytes": 0}, 0.2, 0.4),
        ({"memory_total_bytes": 0, "memory_free_bytes": 0}, 0.2, 0.4),
        ({"loop_lag_ms": 5000.0, "memory_free_bytes": 0, "load": 1.0, "queue": 100}, 0.0, 0.05),
    ],
)
def test_the_score_falls_with_each_thing_that_is_bad(
    changed: dict[str, float], least: float, most: float
) -> None:
    assert least <= score(digest_of(vitals(**changed), made_ms=1)) <= most


@given(
    st.floats(0, 1e6), st.integers(0, 2**50), st.integers(0, 2**50), st.floats(0, 100), st.integers(0, 10**6)
)
def test_the_score_is_between_zero_and_one_and_never_rises_with_lag(
    lag_ms: float, free: int, total: int, load: float, queue: int
) -> None:
    def scored(lag_ms: float) -> float:
        return score(digest_of(Vitals(lag_ms, free, total, load, 0, queue), made_ms=1))

    assert LEAST * 0.99 <= scored(lag_ms) <= 1.0
    assert scored(lag_ms + 50.0) <= scored(lag_ms)


# The loop's own lateness -----------------------------------------------------------------------------------------------


def test_the_worst_lateness_counts_for_ten_seconds() -> None:
    lag = LoopLag()
    assert lag.lag_ms(0.0) == 0.0
    for when, late_s in ((0.0, 0.010), (1.0, 0.300), (2.0, 0.020), (3.0, 0.050), (4.0, 0.001)):
        lag.note(late_s, when)
    assert lag.lag_ms(11.0) == pytest.approx(300.0)
    assert lag.lag_ms(11.1) == pytest.approx(50.0)
    assert lag.lag_ms(13.5) == pytest.approx(1.0)
    assert lag.lag_ms(15.0) == 0.0


async def test_a_loop_that_is_held_up_notices(autojump_clock: trio.testing.MockClock) -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        await nursery.start(lag.run)
        await trio.sleep(3.2)
        assert lag.lag_ms(trio.current_time()) < 1.0
        autojump_clock.jump(0.8)  # nobody is woken meanwhile, as during a long computation
        await trio.sleep(1.0)
        assert lag.lag_ms(trio.current_time()) == pytest.approx(500.0, abs=1.0)
        nursery.cancel_scope.cancel()
