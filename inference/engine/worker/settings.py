"""What a daemon gives a worker process on its way, which hands it on to the processes that it starts. No torch here."""

from __future__ import annotations

from typing import Final

import msgspec

from protocols import limits


class WorkerSettings(msgspec.Struct, frozen=True):
    """All of them, with those that a user leaves as they are.

    threads       of torch, in all processes together
    memory_bytes  for shards and caches in all processes together, where the processor computes
    card_bytes    the same where cards compute; 0: a share of what is free on them
    quantised     the folder where weights that the worker quantises are kept; without one they are made anew at every load
    prefix_share  what of the memory for caches prompts may have that are kept for later sessions
    device        "cpu", "cuda", or "auto" for cards where there are as many as processes
    ranks         in how many processes every layer is computed
    kv            what keys and values are kept in, one of `KV_KINDS`
    """

    threads: int
    memory_bytes: int
    card_bytes: int = 0
    quantised: str = ""
    prefix_share: float = limits.KV_PREFIX_SHARE
    device: str = "cpu"
    ranks: int = 1
    kv: str = "model"

    @property
    def threads_each(self) -> int:
        """Of one process."""
        return max(1, self.threads // self.ranks)


_DECODER: Final = msgspec.json.Decoder(WorkerSettings)


def as_argument(settings: WorkerSettings) -> str:
    """As it stands in a command."""
    return msgspec.json.encode(settings).decode()


def from_argument(argument: str) -> WorkerSettings:
    return _DECODER.decode(argument)
