"""The way into torch's fbgemm, which packs weights once for processors of the x86 family."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fbgemm_packing() -> Iterator[None]:
    """Within it torch packs for fbgemm, and says nothing of the day on which it means to take that away: where it has, the kernels
    are not there and are not chosen."""
    before = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*quantize.*", category=UserWarning)
        torch.backends.quantized.engine = "fbgemm"
        try:
            yield
        finally:
            torch.backends.quantized.engine = before
