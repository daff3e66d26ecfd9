"""The incarnation on disk: never lower than anything that was said before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.liveness.incarnation import FILE, Incarnation
from protocols import limits
from protocols.liveness import INCARNATION_MAX
from simulations.machine.disk import MemoryDisk


@given(st.lists(st.lists(st.integers(0, 3000), max_size=5), min_size=1, max_size=8))
def test_every_run_begins_above_all_that_was_covered_before(runs: list[list[int]]) -> None:
    disk, highest = MemoryDisk(), 0
    for raises in runs:
        incarnation = Incarnation(disk)
        assert incarnation.first > highest
        highest = incarnation.first
        for raise_ in raises:
            highest += raise_
            incarnation.cover(highest)


def test_a_block_is_one_write() -> None:
    disk = MemoryDisk()
    incarnation = Incarnation(disk)
    written = disk.files[FILE]
    incarnation.cover(incarnation.first + limits.INCARNATION_BLOCK)
    assert disk.files[FILE] == written
    incarnation.cover(incarnation.first + limits.INCARNATION_BLOCK + 1)
    assert disk.files[FILE] != written


def test_a_full_disk_is_no_obstacle_and_written_again_when_it_is_not() -> None:
    disk = MemoryDisk()
    disk.is_full = True
    incarnation = Incarnation(disk)
    assert incarnation.first == 1
    incarnation.cover(7)
    disk.is_full = False
    incarnation.cover(8)
    assert Incarnation(disk).first > 8


@pytest.mark.parametrize("damage", [b"", b"{", b'{"upto": "x"}', b'{"upto": -5}'])
def test_a_damaged_file_is_begun_anew(damage: bytes) -> None:
    disk = MemoryDisk()
    disk.write(FILE, damage)
    assert Incarnation(disk).first == 1
    assert Incarnation(disk).first > 1


def test_even_at_the_end_of_the_numbers_there_is_one() -> None:
    disk = MemoryDisk()
    disk.write(FILE, b'{"upto": 99999999999999999}')
    assert Incarnation(disk).first == INCARNATION_MAX
