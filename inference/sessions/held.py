"""A shard as a session needs it: in the worker already, or loaded while the entry waits.

The rule of the file: what is loading says so. The entry hears of every step forward, so that it neither takes the stage for dead
nor waits for one that is stuck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from mesh.nursery import peer_nursery
from mesh.rpc import Channel, deadline
from protocols import limits
from protocols.errors import Disconnected, Malformed, TimedOut, Unavailable
from protocols.ids import ModelDigest, PeerId
from protocols.placement import LayerRange
from protocols.seams import ShardId
from protocols.session import CloseStage, OpenStage, Progress, SessionMessage
from protocols.tensor import DType


@dataclass(frozen=True, slots=True)
class HeldShard:
    """A shard that this node's worker holds. `width`: hidden size; `is_exact`: replayed rows may be joined."""

    shard: ShardId
    width: int
    dtype: DType
    is_exact: bool


class HeldShards(Protocol):
    def held(self, model: ModelDigest, layers: LayerRange) -> HeldShard | None:
        """The shard for exactly that range, if the worker has it now."""

    def can_load(self, model: ModelDigest, layers: LayerRange, entry: PeerId) -> bool:
        """Whether it could be loaded for a session of that entry."""

    async def load(self, model: ModelDigest, layers: LayerRange) -> None:
        """Held afterwards. Raises `Unavailable` with the reason."""

    def load_work(self) -> int:
        """Rises while anything is loaded: what waits for the worker is not stuck then."""


async def loaded_shard(
    channel: Channel[SessionMessage], opened: OpenStage, shards: HeldShards, work: Callable[[], int]
) -> HeldShard | str:
    """The shard, or why there is none. Raises `Unavailable` if the entry is gone."""
    held = shards.held(opened.model, opened.range)
    if held is not None:
        return held
    try:
        async with peer_nursery() as nursery:
            nursery.start_soon(_tell_progress, channel, opened.epoch, work)
            nursery.start_soon(_watch_entry, channel)
            await shards.load(opened.model, opened.range)
            nursery.cancel_scope.cancel()
    except (Disconnected, TimedOut):
        raise  # of the entry; of the load it would be plain
    except Unavailable as error:
        return str(error)
    return shards.held(opened.model, opened.range) or "it was released meanwhile"


async def _tell_progress(channel: Channel[SessionMessage], epoch: int, work: Callable[[], int]) -> None:
    while True:
        # Whole, also when the load ends meanwhile: the stage is going to speak on this channel.
        with trio.CancelScope(shield=True), deadline(limits.REPLY_S, "the entry takes no messages"):
            await channel.send(Progress(epoch, 0, work(), True))
        await trio.sleep(limits.PROGRESS_S)


async def _watch_entry(channel: Channel[SessionMessage]) -> None:
    """Raises `Disconnected` when the entry needs the stage no more: before that is open it has nothing else to say."""
    message = await channel.receive()
    if isinstance(message, CloseStage):
        raise Disconnected("the entry closed the stage")
    raise Malformed(f"a stage that is loading was sent a {type(message).__name__}", channel.peer)
