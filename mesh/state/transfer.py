"""Weights from others: a model's manifest, its small files, and the tensors that are wanted of it.

A fetch asks one holder after the other. One that fails, lies or lacks something costs what it sent of that blob and no
more: whatever was verified stays. Every blob is checked against the digest that it was asked for by.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial

import structlog

from mesh.rpc import Channel, deadline, dial
from mesh.state.files import Offload
from mesh.state.store import Incoming, WeightStore
from protocols import limits, streams
from protocols.errors import Dishonest, Malformed, NoRoute, Oversized, RemoteFault, Unavailable
from protocols.ids import ModelDigest, NetworkId, PeerId, TensorDigest
from protocols.manifest import Manifest, TensorEntry, parse_manifest
from protocols.seams import Network
from protocols.weights import WEIGHTS_CODEC, Coming, FetchBlob, FetchManifest, Missing, WeightsMessage

log = structlog.get_logger("mesh.weights")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Want:
    """A blob that is to come, and where it goes."""

    name: str
    sha256: TensorDigest
    size_bytes: int
    receive: Callable[[], Incoming]


class _Left:
    """What is still to come, and how much of all came."""

    def __init__(self, wants: list[_Want], on_progress: Progress) -> None:
        self.wants = list(wants)
        self._on_progress = on_progress
        self._total_bytes = sum(want.size_bytes for want in wants)
        self._verified_bytes = self._partial_bytes = 0

    def began(self) -> None:
        """With the next blob; what came of one before it and was not verified does not count."""
        self._partial_bytes = 0

    def advance(self, count: int) -> None:
        self._partial_bytes += count
        self._on_progress(self._verified_bytes + self._partial_bytes, self._total_bytes)

    def came(self, want: _Want) -> None:
        self.wants.remove(want)
        self._verified_bytes += want.size_bytes
        self._partial_bytes = 0


class WeightFetcher:
    """Brings models into the store."""

    def __init__(self, network: Network, network_id: NetworkId, store: WeightStore, offload: Offload) -> None:
        self._network = network
        self._network_id = network_id
        self._store = store
        self._offload = offload

    async def fetch_description(self, model: ModelDigest, holders: Sequence[PeerId]) -> Manifest:
        """The manifest of a model, with its small files in the store afterwards. Raises `NoRoute` or `LocalFault`."""
        manifest = await self._offload(lambda: self._store.stated(model))
        if manifest is None:
            manifest = await self._fetch_manifest(model, holders)
            await self._offload(lambda: self._store.put_manifest(manifest))
        wants = [
            _Want(entry.name, entry.sha256, entry.size_bytes, partial(self._store.receive_file, entry))
            for entry in manifest.files
            if not self._store.has_file(entry)
        ]
        await self._fetch_blobs(model, holders, wants, lambda done, total: None)
        return manifest

    async def fetch_tensors(
        self, model: ModelDigest, names: Collection[str], holders: Sequence[PeerId], on_progress: Progress
    ) -> None:
        """These tensors are in the store afterwards; `on_progress(done_bytes, total_bytes)` of those that were not.

        Needs `fetch_description` first. Raises `NoRoute` if no holder gives one of them, `LocalFault`.
        """
        manifest = await self.fetch_description(model, holders)
        entries = {entry.name: entry for entry in manifest.tensors}
        unknown = sorted(set(names) - entries.keys())
        if unknown:
            raise Malformed(f"the model has no tensor {unknown[0]}")
        absent = await self._offload(lambda: self._absent(entries[name] for name in names))
        wants = [
            _Want(entry.name, entry.sha256, entry.size_bytes, partial(self._store.receive_tensor, entry))
            for entry in absent
        ]
        await self._fetch_blobs(model, holders, wants, on_progress)

    async def _fetch_blobs(
        self, model: ModelDigest, holders: Sequence[PeerId], wants: list[_Want], on_progress: Progress
    ) -> None:
        left = _Left(wants, on_progress)
        fault: RemoteFault | Unavailable | None = None
        for peer in holders:
            if not left.wants:
                return
            try:
                async with self._dial(peer) as channel:
                    await self._receive_all(channel, model, left)
            except (RemoteFault, Unavailable) as error:
                fault = _blamed(error, peer)
        if left.wants:
            raise NoRoute(
                f"no holder gives {left.wants[0].name} of model {model[:8]}: {fault or 'those asked do not have it'}"
            ) from fault

    async def _receive_all(self, channel: Channel[WeightsMessage], model: ModelDigest, left: _Left) -> None:
        """Takes out of `left` what this holder has."""
        for want in list(left.wants):
            left.began()
            coming = await _asked(channel, FetchBlob(model, want.sha256))
            if coming is None:
                continue
            if coming.size_bytes != want.size_bytes:
                raise Dishonest(f"{want.name} has {want.size_bytes} bytes, not {coming.size_bytes}")
            with await self._offload(want.receive) as incoming:
                async for data in _chunks(channel, want.size_bytes):
                    await self._offload(partial(incoming.write, data))
                    left.advance(len(data))
                await self._offload(incoming.finish)
            left.came(want)

    def _dial(self, peer: PeerId) -> AbstractAsyncContextManager[Channel[WeightsMessage]]:
        return dial(self._network, peer, streams.WEIGHTS, WEIGHTS_CODEC, self._network_id)

    def _absent(self, entries: Iterable[TensorEntry]) -> list[TensorEntry]:
        """Equal tensors under several names come once."""
        once = {(entry.sha256, entry.dtype, entry.shape): entry for entry in entries}
        return [entry for entry in once.values() if not self._store.has_tensor(entry)]

    async def _fetch_manifest(self, model: ModelDigest, holders: Sequence[PeerId]) -> Manifest:
        fault: RemoteFault | Unavailable | None = None
        for peer in holders:
            try:
                async with self._dial(peer) as channel:
                    return await _receive_manifest(channel, model)
            except (RemoteFault, Unavailable) as error:
                fault = _blamed(error, peer)
        raise NoRoute(
            f"no holder gives the manifest of model {model[:8]}: {fault or 'none is known'}"
        ) from fault


async def _receive_manifest(channel: Channel[WeightsMessage], model: ModelDigest) -> Manifest:
    coming = await _asked(channel, FetchManifest(model))
    if coming is None:
        raise NoRoute("it does not have it")
    if coming.size_bytes > limits.MANIFEST_BYTES_MAX:
        raise Oversized(f"a manifest of {coming.size_bytes} bytes")
    return parse_manifest(
        b"".join([bytes(data) async for data in _chunks(channel, coming.size_bytes)]), model
    )


async def _asked(channel: Channel[WeightsMessage], question: FetchManifest | FetchBlob) -> Coming | None:
    """None if the holder does not have it."""
    with deadline(limits.REPLY_S, f"no answer from {channel.peer}"):
        await channel.send(question)
        answer = await channel.receive()
    match answer:
        case Coming():
            return answer
        case Missing():
            return None
        case _:
            raise Malformed(f"{type(answer).__name__} is not an answer", channel.peer)


async def _chunks(channel: Channel[WeightsMessage], size_bytes: int) -> AsyncIterator[bytearray]:
    for start in range(0, size_bytes, limits.WEIGHT_CHUNK_BYTES):
        count = min(limits.WEIGHT_CHUNK_BYTES, size_bytes - start)
        with deadline(limits.WEIGHT_CHUNK_S, f"no chunk from {channel.peer}"):
            data = await channel.reader.read_exactly(count)
        yield data


def _blamed(error: RemoteFault | Unavailable, peer: PeerId) -> RemoteFault | Unavailable:
    if isinstance(error, RemoteFault) and error.peer is None:
        error.peer = peer
    log.warning("holder_failed", peer=peer, kind=type(error).__name__, reason=str(error))
    return error
