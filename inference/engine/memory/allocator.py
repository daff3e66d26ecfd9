"""Where large pieces of memory lie: apart from the heap, so that they are the system's again as soon as they are freed.

glibc takes what is freed as a sign that as much will be wanted again, and has pieces of up to 32 MiB in its heap from then on, where
they come back to the system only if nothing lies behind them. Tensors read one after the other, and chunks of files that are hashed
or sent, so cost a node about a third of its weights on top. See mallopt(3), M_MMAP_THRESHOLD.
"""

from __future__ import annotations

import ctypes
from typing import Final

from protocols import limits

LARGE_BYTES: Final = 1 * limits.MIB  # a chunk of weights; a row of activations is far smaller
_M_MMAP_THRESHOLD: Final = -3


def keep_large_apart() -> bool:
    """In this process from now on; False, and nothing is changed, where the C library is another than glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES) == 1
