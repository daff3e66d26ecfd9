"""What the machine has to give, read from files as Linux writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.machine import Footprint, Memory, read_footprint, read_memory

GIB = 1 << 30
MEMINFO = f"MemTotal: {16 << 20} kB\nMemFree: 1000 kB\nMemAvailable: {12 << 20} kB\nHugePages_Total: 0\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "proc/meminfo", MEMINFO)
    return tmp_path


def second(root: Path, group: str, limit: str, used: int, inactive: int) -> None:
    """A group as version 2 has them."""
    folder = root / "sys/fs/cgroup" / group
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.current", f"{used}\n")
    write(folder / "memory.stat", f"anon 5\ninactive_file {inactive}\nactive_file 7\n")


def test_without_groups_it_is_what_the_kernel_calls_available(root: Path) -> None:
    assert read_memory(root) == Memory(12 * GIB, 16 * GIB)


def test_the_limit_of_a_group_counts_and_what_the_kernel_takes_back_is_free(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/weft.slice/weft.service\n")
    second(root, "weft.slice/weft.service", "max", 3 * GIB, 0)
    assert read_memory(root) == Memory(12 * GIB, 16 * GIB)
    second(root, "weft.slice", str(4 * GIB), 3 * GIB, GIB // 2)
    assert read_memory(root) == Memory(3 * GIB // 2, 4 * GIB, is_group=True)


def test_a_group_that_allows_more_than_there_is_changes_nothing(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/\n")
    second(root, "", str(64 * GIB), 3 * GIB, 0)
    assert read_memory(root) == Memory(12 * GIB, 16 * GIB)


def test_a_group_that_is_past_its_limit_has_nothing_left(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/\n")
    second(root, "", str(GIB), 2 * GIB, 0)
    assert read_memory(root) == Memory(0, GIB, is_group=True)


def test_in_a_container_of_the_first_version_the_mount_itself_is_the_group(root: Path) -> None:
    write(root / "proc/self/cgroup", "9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    folder = root / "sys/fs/cgroup/memory"
    write(folder / "memory.limit_in_bytes", f"{2 * GIB}\n")
    write(folder / "memory.usage_in_bytes", f"{GIB}\n")
    write(folder / "memory.stat", f"inactive_file 1\ntotal_inactive_file {GIB // 4}\n")
    assert read_memory(root) == Memory(5 * GIB // 4, 2 * GIB, is_group=True)


def test_another_system_tells_less(tmp_path: Path) -> None:
    memory = read_memory(tmp_path)
    assert 0 < memory.available_bytes < memory.total_bytes
    assert read_footprint(1, tmp_path) == Footprint()


def test_a_footprint_tells_what_a_process_has_to_itself(root: Path) -> None:
    write(
        root / "proc/7/status",
        "Name:\tpython\nVmRSS:\t 300 kB\nRssAnon:\t 200 kB\nRssFile:\t 90 kB\nRssShmem:\t 10 kB\n",
    )
    assert read_footprint(7, root) == Footprint(300 << 10, 210 << 10)


def test_a_footprint_has_that_of_children_in_it(root: Path) -> None:
    for pid, kib in ((7, 300), (8, 50), (9, 4)):
        write(root / f"proc/{pid}/status", f"VmRSS:\t {kib} kB\nRssAnon:\t {kib - 1} kB\n")
    write(root / "proc/7/task/7/children", "8 9 10 ")  # the last has ended meanwhile
    assert read_footprint(7, root) == Footprint(354 << 10, 351 << 10, 4)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="the machine has no /proc")
def test_this_machine_can_be_read() -> None:
    memory, own = read_memory(), read_footprint(os.getpid())
    assert 0 <= memory.available_bytes <= memory.total_bytes
    assert 0 < own.private_bytes <= own.resident_bytes < memory.total_bytes * 64
