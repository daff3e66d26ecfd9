"""What a process gives back of the memory that it has freed; each time in a process of its own, as it is set for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inference.engine.memory.allocator import LARGE_BYTES
from protocols import limits

SCRIPT = """
from pathlib import Path
from inference.engine.memory.allocator import LARGE_BYTES, keep_large_apart

def private_bytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))

{call}
bytearray(4 * LARGE_BYTES)  # freed at once, which is the sign that glibc goes by
before = private_bytes()
held = [(bytearray(b"x") * (2 * LARGE_BYTES), bytearray(100_000)) for _ in range(20)]
small = [pin for _, pin in held]
del held
print((private_bytes() - before) // LARGE_BYTES, len(small))
"""


def left_over(call: str) -> int:
    """How many large pieces' worth of 40 that were freed a process still has, with small ones between them."""
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(call=call)], check=True, capture_output=True)
    return int(done.stdout.split()[0])


def test_large_pieces_are_given_back_whatever_lies_between_them() -> None:
    if left_over("") < 20:
        pytest.skip("this C library gives everything back by itself")
    assert left_over("assert keep_large_apart()") <= 4  # the small ones themselves are two


def test_a_chunk_of_weights_is_large() -> None:
    assert limits.WEIGHT_CHUNK_BYTES >= LARGE_BYTES
