"""What this machine has to give."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SHARE = 2  # weft is a guest: it takes one part in so many of what is free


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spare_memory_bytes() -> int:
    """What shards and caches may take unless the operator says otherwise."""
    return _available_bytes() // SHARE


@dataclass(frozen=True, slots=True)
class Readings:
    """`load` is the busy share of the processors in the last minute; over 1 where more waits for them than there are."""

    memory_free_bytes: int = 0
    memory_total_bytes: int = 0
    cores: int = 0
    load: float = 0.0


def read_machine() -> Readings:
    return Readings(_available_bytes(), _memory_bytes(), cores(), os.getloadavg()[0] / cores())


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _available_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return _memory_bytes() // SHARE
