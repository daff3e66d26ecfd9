"""Exchange by torch.distributed, whatever the tensors lie in: gloo between processors, nccl between accelerators.

Gloo listens on the loopback interface, where else it would take the one that the host's name leads to. The processes find each
other by a file, so that no port has to be agreed on.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from inference.engine.parallel.orders import RankLost
from inference.engine.parallel.slices import Slice

_HOST: Final = torch.device("cpu")


class Distributed:
    """Implements `ranks.Exchange`."""

    def __init__(
        self, own: Slice, backend: str, meeting: str, silence_s: float, place: torch.device = _HOST
    ) -> None:
        """Returns when all have joined; `meeting` is a file that does not exist yet, the same for all. Raises `RankLost`."""
        self._own = own
        self.place: Final = place
        is_card = place.type == "cuda"
        if is_card:
            torch.cuda.set_device(place)  # what NCCL takes it to be for this process
        for _, name in socket.if_nameindex():
            if name.startswith("lo"):
                os.environ["GLOO_SOCKET_IFNAME"] = name
        with _together():
            dist.init_process_group(
                backend,
                init_method=f"file://{meeting}",
                rank=own.rank,
                world_size=own.of,
                timeout=timedelta(seconds=silence_s),
                device_id=place if is_card else None,
            )
            dist.barrier()  # until then somebody may still read the file

    def gather(self, part: Tensor) -> Sequence[Tensor]:
        parts = [torch.empty_like(part) for _ in range(self._own.of)]
        with _together():
            dist.all_gather(parts, part)
        return parts

    def share(self, rows: Tensor) -> None:
        with _together():
            dist.broadcast(rows.view(torch.uint8), 0)


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankLost("a process that shares the layers has ended or hangs") from error
