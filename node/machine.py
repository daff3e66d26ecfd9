"""What this machine has to give, or the control group in which this process runs, where that allows less.

Of a group's use, inactive pages of files count as free: the kernel takes them back before it kills anything. What the kernel
calls available on the machine leaves out swap, and so does this. See proc_meminfo(5), and the kernel's cgroup-v1/memory and
cgroup-v2 documents.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SHARE = 2  # weft is a guest: it takes one part in so many of what is free
_ROOT: Final = Path("/")


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spare_memory_bytes() -> int:
    """What shards and caches may take unless the operator says otherwise."""
    return read_memory().available_bytes // SHARE


@dataclass(frozen=True, slots=True)
class Readings:
    """`load` is the busy share of the processors in the last minute; over 1 where more waits for them than there are."""

    memory_free_bytes: int = 0
    memory_total_bytes: int = 0
    cores: int = 0
    load: float = 0.0


def read_machine() -> Readings:
    memory = read_memory()
    return Readings(memory.available_bytes, memory.total_bytes, cores(), os.getloadavg()[0] / cores())


@dataclass(frozen=True, slots=True)
class Memory:
    """`is_group`: of the control group; of the machine otherwise."""

    available_bytes: int
    total_bytes: int
    is_group: bool = False


def read_memory(root: Path = _ROOT) -> Memory:
    """The tightest bound on this process. `root` is where proc and sys lie."""
    found = _machine_memory(root)
    for folder, names in _groups(root):
        try:
            limit_bytes = int((folder / names.limit).read_text("ascii"))
            used_bytes = int((folder / names.usage).read_text("ascii")) - _inactive_bytes(folder, names)
        except (OSError, ValueError):
            continue  # no such group in this file system, or no limit: "max"
        free_bytes = max(0, limit_bytes - used_bytes)
        if free_bytes < found.available_bytes:
            found = Memory(free_bytes, limit_bytes, is_group=True)
    return found


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of a process and its children: all memory that is not swapped out, and of that what is shared with no file."""

    resident_bytes: int = 0
    private_bytes: int = 0
    processes: int = 1


def read_footprint(pid: int, root: Path = _ROOT) -> Footprint:
    """Zeros if it has ended, or where there is no /proc."""
    found = [_footprint(each, root) for each in (pid, *_children(pid, root))]
    resident_bytes = sum(each.resident_bytes for each in found)
    return Footprint(resident_bytes, sum(each.private_bytes for each in found), len(found))


def _children(pid: int, root: Path) -> list[int]:
    try:
        return [int(each) for each in (root / f"proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except OSError:
        return []  # it has ended, or the kernel does not tell


def _footprint(pid: int, root: Path) -> Footprint:
    try:
        fields = _fields(root / f"proc/{pid}/status")
    except OSError:
        return Footprint()
    private_bytes = fields.get("RssAnon", 0) + fields.get("RssShmem", 0)
    return Footprint(fields.get("VmRSS", 0), private_bytes)


@dataclass(frozen=True, slots=True)
class _Names:
    """The files of a memory controller; `inactive` is a line of memory.stat."""

    mount: str
    limit: str
    usage: str
    inactive: str


_V2: Final = _Names("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
_V1: Final = _Names(
    "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
)


def _groups(root: Path) -> Iterator[tuple[Path, _Names]]:
    """This process's group and those above it, whose limits hold as well; in a container perhaps only its mount's root."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        names = _V1 if controllers else _V2
        mount = root / names.mount
        folder = mount / path.lstrip("/")
        yield from ((each, names) for each in (folder, *folder.parents) if each.is_relative_to(mount))


def _inactive_bytes(folder: Path, names: _Names) -> int:
    for line in (folder / "memory.stat").read_text("ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == names.inactive:
            return int(value)
    return 0


def _fields(path: Path) -> dict[str, int]:
    """Lines such as "RssAnon:   12 kB", in bytes."""
    found = {}
    for line in path.read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.split()[0]) << 10
    return found


def _machine_memory(root: Path) -> Memory:
    total_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        fields = _fields(root / "proc/meminfo")
    except OSError:
        return Memory(total_bytes // SHARE, total_bytes)  # another system, that tells less
    total_bytes = fields.get("MemTotal", total_bytes)
    return Memory(fields.get("MemAvailable", total_bytes // SHARE), total_bytes)
