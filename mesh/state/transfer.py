"""Weights from others: a model's manifest, its small files, and the tensors that are wanted of it.

A fetch draws from several holders at once, each blob from one of them. What a holder leaves unfinished another goes on with,
also in the next run of this node. Every blob is checked against the digest that it was asked for by (`wanted` has the rules).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

import structlog
import trio

from mesh.nursery import peer_nursery
from mesh.rpc import Channel, deadline, dial
from mesh.state.files import Offload
from mesh.state.incoming import Incoming
from mesh.state.store import WeightStore
from mesh.state.wanted import Want, Wanted
from protocols import limits, streams
from protocols.errors import Dishonest, Malformed, NoRoute, Oversized, RemoteFault, Unavailable
from protocols.ids import ModelDigest, NetworkId, PeerId
from protocols.manifest import FileEntry, Manifest, TensorEntry, parse_manifest
from protocols.seams import Network
from protocols.weights import WEIGHTS_CODEC, Coming, FetchBlob, FetchManifest, Missing, WeightsMessage

log = structlog.get_logger("mesh.weights")

Progress = Callable[[int, int], None]


class _Fetch:
    """What is fetched of one model, shared by the tasks that draw it from several holders."""

    def __init__(
        self, model: ModelDigest, absent: Sequence[FileEntry | TensorEntry], on_progress: Progress
    ) -> None:
        self.model = model
        self.entries = {Want(entry.name, entry.sha256, entry.size_bytes): entry for entry in absent}
        self.wanted = Wanted(self.entries, on_progress)
        self.fault: RemoteFault | Unavailable | None = None
        self._change = trio.Event()

    async def next_for(self, holder: PeerId) -> Want | None:
        """None when it has nothing more to give, also of what others may yet leave unfinished."""
        while True:
            want = self.wanted.take(holder)
            if want is not None or not self.wanted.may_come_back():
                return want
            await self._change.wait()

    def give_back(self, want: Want, holder: PeerId) -> None:
        """Whatever has become of it; who waits for what others leave looks again."""
        self.wanted.stopped(want, holder)
        self._change.set()
        self._change = trio.Event()


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
        absent = [entry for entry in manifest.files if not self._store.has_file(entry)]
        await self._fetch_blobs(model, holders, absent, lambda done, total: None)
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
        await self._fetch_blobs(model, holders, absent, on_progress)

    async def _fetch_blobs(
        self,
        model: ModelDigest,
        holders: Sequence[PeerId],
        absent: Sequence[FileEntry | TensorEntry],
        on_progress: Progress,
    ) -> None:
        if not absent:
            return
        fetch = _Fetch(model, absent, on_progress)
        turns = trio.CapacityLimiter(limits.WEIGHT_HOLDERS_AT_ONCE)
        async with peer_nursery() as nursery:
            for peer in dict.fromkeys(holders):
                nursery.start_soon(self._draw, peer, fetch, turns)
        if not fetch.wanted.is_complete:
            raise NoRoute(
                f"no holder gives {fetch.wanted.first_missing.name} of model {model[:8]}: "
                f"{fetch.fault or 'those asked do not have it'}"
            ) from fetch.fault

    async def _draw(self, peer: PeerId, fetch: _Fetch, turns: trio.CapacityLimiter) -> None:
        """All that this holder gives of what is wanted."""
        async with turns:
            try:
                while (want := await fetch.next_for(peer)) is not None:
                    await self._draw_on(peer, fetch, want)
            except (RemoteFault, Unavailable) as error:
                fetch.fault = _blamed(error, peer)

    async def _draw_on(self, peer: PeerId, fetch: _Fetch, want: Want | None) -> None:
        """One stream for as long as there is something to ask for; while there is not, a holder would close it."""
        try:
            async with self._dial(peer) as channel:
                while want is not None:
                    await self._receive(channel, fetch, want)
                    fetch.give_back(want, peer)
                    want = fetch.wanted.take(peer)
        finally:
            if want is not None:
                fetch.give_back(want, peer)

    async def _receive(self, channel: Channel[WeightsMessage], fetch: _Fetch, want: Want) -> None:
        wanted, peer = fetch.wanted, channel.peer
        with await self._offload(partial(self._incoming, fetch.entries[want])) as incoming:
            wanted.resumed(want, incoming.have_bytes)
            coming = await _asked(channel, FetchBlob(fetch.model, want.sha256, incoming.have_bytes))
            if coming is None:
                wanted.stopped(want, peer, is_lacking=True)
                return
            if coming.size_bytes != want.size_bytes - incoming.have_bytes:
                raise Dishonest(f"{want.name} has {want.size_bytes} bytes, and another number is coming")
            async for data in _chunks(channel, coming.size_bytes):
                await self._offload(partial(incoming.write, data))
                wanted.advanced(want, peer, len(data))
            await self._finish(incoming, wanted, want, peer)

    async def _finish(self, incoming: Incoming, wanted: Wanted, want: Want, peer: PeerId) -> None:
        """Raises `Dishonest` if what came is not what was asked for and all of it came from this holder."""
        try:
            await self._offload(incoming.finish)
        except Dishonest:
            if wanted.spoilt(want, peer):
                raise
            return
        wanted.came(want)

    def _incoming(self, entry: FileEntry | TensorEntry) -> Incoming:
        if isinstance(entry, FileEntry):
            return self._store.receive_file(entry)
        return self._store.receive_tensor(entry)

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
