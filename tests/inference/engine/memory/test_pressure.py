"""What a node does when memory gets short: a table of readings, then anything at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.memory.pressure import (
    CALM_S,
    MARGIN,
    PINCHED_ROWS,
    SHED_S,
    Accept,
    Action,
    DropPrefixes,
    Level,
    LimitRows,
    Pressure,
    Reading,
    Refuse,
    ShedRange,
    high_mark_bytes,
    room_bytes,
)
from protocols.limits import MIB

TOTAL = 16384 * MIB
MARK = high_mark_bytes(TOTAL)
PLENTY = Reading(available=8 * MARK, total=TOTAL, promised=0, worker=100 * MIB, allowed=1000 * MIB)
SHORT = replace(PLENTY, available=MARK - 1)
DIRE = replace(PLENTY, available=MARK // 2 - 1)


def kinds(actions: list[Action]) -> list[type]:
    return [type(action) for action in actions]


@pytest.mark.parametrize(
    ("reading", "level"),
    [
        (PLENTY, Level.NORMAL),
        (replace(PLENTY, available=MARK), Level.NORMAL),
        (SHORT, Level.HIGH),
        (replace(PLENTY, promised=7 * MARK), Level.NORMAL),
        (replace(PLENTY, promised=7 * MARK + 1), Level.HIGH),
        (replace(PLENTY, promised=100 * MARK), Level.HIGH),  # what is not written yet kills nobody yet
        (replace(PLENTY, worker=1000 * MIB), Level.NORMAL),
        (replace(PLENTY, worker=1000 * MIB + 1), Level.HIGH),
        (replace(PLENTY, available=MARK // 2), Level.HIGH),
        (DIRE, Level.CRITICAL),
        (replace(PLENTY, available=0), Level.CRITICAL),
    ],
)
def test_the_level_follows_from_what_is_there_and_not_spoken_for(reading: Reading, level: Level) -> None:
    pressure = Pressure()
    pressure.handle(reading, 0.0)
    assert pressure.level is level
    assert bool(pressure.reason) == bool(level)


@pytest.mark.parametrize(("total_mib", "mark_mib"), [(256, 128), (1024, 128), (16384, 1024), (1 << 20, 4096)])
def test_the_mark_is_a_share_of_the_memory_within_bounds(total_mib: int, mark_mib: int) -> None:
    assert high_mark_bytes(total_mib * MIB) == mark_mib * MIB


def test_a_shortage_refuses_sessions_once_and_its_end_takes_them_again_after_a_calm_while() -> None:
    pressure = Pressure()
    (refused,) = pressure.handle(SHORT, 0.0)
    assert isinstance(refused, Refuse)
    assert refused.reason == "it is short of memory: 1,024 MiB of 16,384 MiB are neither used nor promised"
    assert pressure.handle(SHORT, 1.0) == []
    assert pressure.handle(PLENTY, 2.0) == []
    assert pressure.handle(PLENTY, 2.0 + CALM_S - 0.1) == []
    assert pressure.handle(PLENTY, 2.0 + CALM_S) == [Accept()]
    assert pressure.level is Level.NORMAL


def test_what_would_not_last_does_not_count_as_calm() -> None:
    pressure = Pressure()
    pressure.handle(SHORT, 0.0)
    barely = replace(PLENTY, available=int(MARGIN * MARK) - 1)
    assert [pressure.handle(barely, float(at)) for at in range(1, 60)] == [[]] * 59
    pressure.handle(PLENTY, 60.0)
    pressure.handle(barely, 65.0)  # the while begins anew
    assert pressure.handle(PLENTY, 66.0 + CALM_S - 0.1) == []
    assert pressure.level is Level.HIGH


def test_before_memory_runs_out_turns_shrink_and_ranges_go_one_at_a_time() -> None:
    pressure = Pressure()
    first = pressure.handle(DIRE, 0.0)
    assert kinds(first) == [Refuse, LimitRows, ShedRange]
    assert first[1] == LimitRows(PINCHED_ROWS)
    assert pressure.handle(DIRE, SHED_S - 0.1) == []
    assert pressure.handle(DIRE, SHED_S) == [LimitRows(PINCHED_ROWS), ShedRange()]


def test_it_comes_back_one_level_at_a_time() -> None:
    pressure = Pressure()
    pressure.handle(DIRE, 0.0)
    assert pressure.handle(PLENTY, 1.0) == []
    assert pressure.handle(PLENTY, 1.0 + CALM_S) == [LimitRows(None)]
    assert pressure.level is Level.HIGH
    assert pressure.handle(PLENTY, 1.0 + 2 * CALM_S) == [Accept()]


def test_a_worker_past_what_it_may_have_is_named_as_the_reason() -> None:
    pressure = Pressure()
    (refused,) = pressure.handle(replace(PLENTY, worker=1100 * MIB), 0.0)
    assert refused == Refuse("its worker has taken 1,100 MiB, and may take 1,000 MiB")


def test_what_may_still_be_promised_leaves_the_level_normal() -> None:
    room = room_bytes(PLENTY.available, TOTAL)
    pressure = Pressure()
    pressure.handle(SHORT, 0.0)
    promised = replace(PLENTY, promised=room)
    pressure.handle(promised, 1.0)
    pressure.handle(promised, 1.0 + CALM_S)
    assert pressure.level is Level.NORMAL


readings = st.builds(
    Reading,
    available=st.integers(0, TOTAL),
    total=st.sampled_from([256 * MIB, TOTAL, 1 << 40]),
    promised=st.integers(0, 2 * TOTAL),
    worker=st.integers(0, 2000 * MIB),
    allowed=st.just(1000 * MIB),
)


@given(st.lists(st.tuples(readings, st.floats(0.1, 2 * CALM_S)), max_size=40))
def test_whatever_is_read_sessions_are_refused_and_taken_in_turns(
    steps: list[tuple[Reading, float]],
) -> None:
    pressure, now, refuses, rows = Pressure(), 0.0, False, 0
    went_down_s = rose_s = shed_s = -1e9
    for reading, passed_s in steps:
        now += passed_s
        before = pressure.level
        actions = pressure.handle(reading, now)
        fresh = Pressure()
        fresh.handle(reading, now)
        assert pressure.level >= fresh.level  # up at once
        assert pressure.level >= before - 1
        if pressure.level > before:
            rose_s = now
        elif pressure.level < before:
            assert now - max(rose_s, went_down_s) >= CALM_S  # and down slowly
            went_down_s = now
        for action in actions:
            match action:
                case Refuse() | Accept():
                    assert refuses is isinstance(action, Accept)
                    refuses = not refuses
                case LimitRows(limit):
                    rows = limit or 0
                case ShedRange():
                    assert now - shed_s >= SHED_S or before is not Level.CRITICAL
                    shed_s = now
        assert refuses == bool(pressure.level) == bool(pressure.reason)
        assert (rows == PINCHED_ROWS) == (pressure.level is Level.CRITICAL)


@pytest.mark.parametrize("reading", [SHORT, DIRE])
def test_prompts_that_are_kept_for_later_go_first_and_again_while_there_are_any(reading: Reading) -> None:
    pressure, keeping = Pressure(), replace(reading, kept=5 * MIB)
    assert DropPrefixes not in kinds(pressure.handle(replace(PLENTY, kept=5 * MIB), 0.0))
    assert kinds(pressure.handle(keeping, 1.0))[:2] == [Refuse, DropPrefixes]
    assert DropPrefixes not in kinds(pressure.handle(reading, 2.0))
    assert kinds(pressure.handle(keeping, 3.0)) == [DropPrefixes]
