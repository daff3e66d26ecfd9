"""Weights for others: one channel after the other is served from the sources that there are at that moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from mesh.rpc import Channel, deadline
from mesh.state.blobs import Blob, BlobSource
from mesh.state.files import Offload
from protocols import limits
from protocols.errors import Disconnected, Malformed
from protocols.weights import Coming, FetchBlob, FetchManifest, Missing, WeightsMessage


class WeightServer:
    """Serves one WEIGHTS channel after the other from the sources that there are at that moment."""

    def __init__(self, sources: Callable[[], Iterable[BlobSource]], offload: Offload) -> None:
        self._sources = sources
        self._offload = offload

    async def serve(self, channel: Channel[WeightsMessage]) -> None:
        """Returns when the peer has closed its side. Raises `Malformed`, `TimedOut` or `LocalFault`."""
        while True:
            try:
                with deadline(limits.WEIGHTS_IDLE_S, f"{channel.peer} asked for nothing more"):
                    request = await channel.receive()
            except Disconnected:
                return
            await self._answer(channel, request)

    async def _answer(self, channel: Channel[WeightsMessage], request: WeightsMessage) -> None:
        match request:
            case FetchManifest(model):
                await self._send(channel, await self._find(lambda source: source.manifest(model)), 0)
            case FetchBlob(model, sha256, offset):
                await self._send(channel, await self._find(lambda source: source.blob(model, sha256)), offset)
            case _:
                raise Malformed(f"{type(request).__name__} is not a question", channel.peer)

    async def _find(self, look: Callable[[BlobSource], Blob | None]) -> Blob | None:
        sources = tuple(self._sources())
        return await self._offload(
            lambda: next((found for source in sources if (found := look(source)) is not None), None)
        )

    async def _send(self, channel: Channel[WeightsMessage], blob: Blob | None, offset: int) -> None:
        if blob is None or offset > blob.size_bytes:
            with deadline(limits.REPLY_S, f"{channel.peer} does not take an answer"):
                await channel.send(Missing())
            return
        with deadline(limits.REPLY_S, f"{channel.peer} does not take an answer"):
            await channel.send(Coming(blob.size_bytes - offset))
        for start in range(offset, blob.size_bytes, limits.WEIGHT_CHUNK_BYTES):
            data = await self._offload(partial(blob.read, start, limits.WEIGHT_CHUNK_BYTES))
            with deadline(limits.WEIGHT_CHUNK_S, f"{channel.peer} does not take its chunk"):
                await channel.send_raw(data)
