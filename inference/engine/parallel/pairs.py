"""Exchange between the processes of one host, by a socketpair for every two of them.

A sum is two short system calls away from the arithmetic: with rows of a few KiB some 40 us where gloo, which has threads of its own to
wake, takes 1 ms on the same busy machine. It has no port that others could reach, and no process needs to be found.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor

from inference.engine.parallel.orders import RankLost
from inference.engine.parallel.slices import Slice
from inference.model.weights import bytes_of
from protocols import limits

CHUNK_BYTES: Final = 64 * limits.KIB  # all ranks send one before they receive one
_BUFFER_BYTES: Final = 16 * CHUNK_BYTES  # two may be under way, and the kernel counts them with what it adds


class Pairs:
    """Implements `ranks.Exchange` for tensors in the host's memory; `ends` by rank, to all others."""

    def __init__(self, own: Slice, ends: Mapping[int, socket.socket], silence_s: float) -> None:
        self._own = own
        self.place: Final = torch.device("cpu")
        self._ends = dict(sorted(ends.items()))
        seconds, part = divmod(silence_s, 1)
        timeval = struct.pack("@ll", int(seconds), int(1e6 * part))
        for end in self._ends.values():
            # The kernel's time-outs: those of Python's sockets ask whether they are ready before every call.
            end.settimeout(None)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)

    def gather(self, part: Tensor) -> Sequence[Tensor]:
        parts = [part if rank == self._own.rank else torch.empty_like(part) for rank in range(self._own.of)]
        data = [bytes_of(each) for each in parts]
        ours = data[self._own.rank]
        with _together():
            for start in range(0, len(ours), CHUNK_BYTES):
                chunk = slice(start, start + CHUNK_BYTES)
                for end in self._ends.values():
                    end.sendall(ours[chunk])
                for rank, end in self._ends.items():
                    _fill(end, data[rank][chunk])
        return parts

    def share(self, rows: Tensor) -> None:
        with _together():
            if not self._own.leads:
                _fill(self._ends[0], bytes_of(rows))
                return
            for end in self._ends.values():
                end.sendall(bytes_of(rows))


def _fill(end: socket.socket, buffer: memoryview) -> None:
    filled = 0
    while filled < len(buffer):
        count = end.recv_into(buffer[filled:], 0, socket.MSG_WAITALL)
        if not count:
            raise EOFError
        filled += count


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise RankLost("a process that shares the layers has ended or hangs") from error
