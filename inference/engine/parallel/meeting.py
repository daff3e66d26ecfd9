"""How the ranks of a worker reach each other, and what they may take of where they compute."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import torch
from msgspec.structs import replace

from inference.engine.device import Device
from inference.engine.parallel.distributed import Distributed
from inference.engine.parallel.pairs import Pairs
from inference.engine.parallel.ranks import Exchange
from inference.engine.parallel.slices import Slice
from inference.engine.worker.settings import WorkerSettings


def make_exchange(
    own: Slice,
    pairs: Mapping[int, socket.socket],
    device: Device,
    silence_s: float,
    backend: str,
    meeting: str,
) -> Exchange:
    """By the backend of torch.distributed that is named, which for cards is NCCL if none is, or by the sockets. `meeting` is a file
    that does not exist yet, the same for all. Raises `RankLost`."""
    backend = backend or ("nccl" if device.kind == "cuda" else "")
    if backend:
        return Distributed(own, backend, meeting, silence_s, device.place)
    return Pairs(own, pairs, silence_s)


def with_room(settings: WorkerSettings, device: Device, exchange: Exchange) -> WorkerSettings:
    """With the memory that all ranks have together where they compute: every rank comes to the same. Raises `RankLost`."""
    if not device.is_accelerator:
        return settings
    free = torch.tensor([device.free_bytes], device=exchange.place)
    least_bytes = min(
        int(each) for each in exchange.gather(free)
    )  # slices are equal, and so is what each of them may take
    return replace(settings, memory_bytes=settings.card_bytes or settings.ranks * least_bytes)
