"""Weights between nodes of a virtual world: from whoever has them, verified, and never from a liar."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from mesh.rpc import Channel, accepting, dial
from mesh.state.blobs import Blob, Bytes
from mesh.state.files import inline
from mesh.state.serving import WeightServer
from mesh.state.store import WeightStore
from mesh.state.transfer import WeightFetcher
from protocols import limits, streams
from protocols.errors import Disconnected, Dishonest, LocalFault, Malformed, NoRoute, RemoteFault, WeftError
from protocols.ids import ModelDigest, TensorDigest
from protocols.manifest import FileEntry, Manifest, TensorEntry, make_manifest
from protocols.weights import WEIGHTS_CODEC, Coming, FetchBlob, FetchManifest, Missing, WeightsMessage
from simulations.network.internet import NETWORK_ID, VirtualNetwork, VirtualWorld
from tests.contracts.talk import introduce
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME

LARGE = bytes(range(256)) * (limits.WEIGHT_CHUNK_BYTES // 128) + b"tail"  # two chunks and a bit
SMALL = bytes(8)
CONFIG = b"{}"


def sha256(data: bytes) -> TensorDigest:
    return TensorDigest(hashlib.sha256(data).hexdigest())


CONTENTS = {sha256(data): data for data in (LARGE, SMALL, CONFIG)}
MANIFEST: Manifest = make_manifest(
    [FileEntry("config.json", len(CONFIG), sha256(CONFIG))],
    [
        TensorEntry("large", "F32", (len(LARGE) // 4,), sha256(LARGE)),
        TensorEntry("small", "F32", (2,), sha256(SMALL)),
        TensorEntry("twin", "F32", (2,), sha256(SMALL)),
        TensorEntry("unwanted", "F32", (1,), sha256(b"none")),
    ],
)
MODEL = MANIFEST.digest
WANTED = ("large", "small", "twin")


class Source:
    """Has everything but what `lacks` names; `altered` blobs have other bytes."""

    def __init__(self, lacks: tuple[bytes, ...] = (), altered: dict[bytes, bytes] | None = None) -> None:
        self.lacks = {sha256(data) for data in lacks}
        self.altered = {sha256(data): other for data, other in (altered or {}).items()}
        self.asked: list[TensorDigest] = []

    def manifest(self, model: ModelDigest) -> Blob | None:
        return Bytes(MANIFEST.canonical()) if model == MODEL else None

    def blob(self, model: ModelDigest, wanted: TensorDigest) -> Blob | None:
        self.asked.append(wanted)
        if model != MODEL or wanted in self.lacks:
            return None
        return Bytes(self.altered.get(wanted, CONTENTS[wanted]))


@asynccontextmanager
async def mesh(*networks: VirtualNetwork) -> AsyncIterator[None]:
    """All of them run and know each other; for as long as the deadlines of transfers take."""
    async with AsyncExitStack() as stack:
        for network in networks:
            await stack.enter_async_context(network.run())
        introduce(*networks)
        yield


class Scene:
    """One fetching node, and holders that are added one by one."""

    def __init__(self, world: VirtualWorld, store: WeightStore) -> None:
        self.world = world
        self.store = store
        self.network = world.network()
        self.fetcher = WeightFetcher(self.network, NETWORK_ID, store, inline)
        self.progress: list[tuple[int, int]] = []

    def holder(self, *sources: Source) -> VirtualNetwork:
        return self.served_by(WeightServer(lambda: sources, inline).serve)

    def served_by(self, serve: Callable[[Channel[WeightsMessage]], object]) -> VirtualNetwork:
        network = self.world.network()
        network.handle(streams.WEIGHTS, accepting(streams.WEIGHTS, WEIGHTS_CODEC, NETWORK_ID, serve))  # type: ignore[arg-type]
        return network

    async def fetch(self, *holders: VirtualNetwork, names: tuple[str, ...] = WANTED) -> None:
        error: WeftError | None = None
        async with mesh(self.network, *holders):
            try:
                await self.fetcher.fetch_tensors(
                    MODEL,
                    names,
                    [holder.peer for holder in holders],
                    lambda done, total: self.progress.append((done, total)),
                )
            except WeftError as raised:
                error = raised  # raised outside the nurseries, which would wrap it
        if error is not None:
            raise error

    def start_again(self) -> None:
        self.network = self.world.network()
        self.fetcher = WeightFetcher(self.network, NETWORK_ID, self.store, inline)

    def is_complete(self) -> bool:
        files = self.store.tensor_files(MODEL, WANTED)
        return all(Path(file.path).exists() for file in files) and self.store.models() == (MODEL,)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(VirtualWorld(), WeightStore(str(tmp_path / "weights")))


async def test_the_wanted_tensors_come_and_no_others(scene: Scene) -> None:
    source = Source()
    await scene.fetch(scene.holder(source))
    assert scene.is_complete()
    assert sorted(source.asked) == sorted(CONTENTS)  # equal tensors once
    total_bytes = len(LARGE) + len(SMALL)
    assert scene.progress[-1] == (total_bytes, total_bytes)
    assert scene.progress == sorted(scene.progress)


async def test_what_is_there_is_not_fetched_again(scene: Scene) -> None:
    await scene.fetch(scene.holder(Source()))
    scene.start_again()
    await scene.fetch()
    assert scene.is_complete()


async def test_a_holder_serves_from_all_its_sources(scene: Scene) -> None:
    await scene.fetch(scene.holder(Source(lacks=(LARGE, CONFIG)), Source(lacks=(SMALL,))))
    assert scene.is_complete()


async def test_a_fetched_model_is_served_on(scene: Scene, tmp_path: Path) -> None:
    await scene.fetch(scene.holder(Source()))
    second = Scene(VirtualWorld(), WeightStore(str(tmp_path / "second")))
    server = WeightServer(lambda: [scene.store], inline)
    await second.fetch(second.served_by(server.serve))
    assert second.is_complete()


async def test_holders_complete_each_other(scene: Scene) -> None:
    await scene.fetch(scene.holder(Source(lacks=(LARGE,))), scene.holder(Source(lacks=(SMALL,))))
    assert scene.is_complete()


async def give_half(channel: Channel[WeightsMessage], half: bytes) -> None:
    """A holder that sends `half` of the large one and breaks off, and all of the others."""
    while True:
        match await channel.receive():
            case FetchBlob(_, sha) if sha == sha256(LARGE):
                await channel.send(Coming(len(LARGE)))
                await channel.send_raw(half)
                return
            case FetchBlob(_, sha):
                await channel.send(Coming(len(CONTENTS[sha])))
                await channel.send_raw(CONTENTS[sha])
            case FetchManifest():
                await channel.send(Coming(len(MANIFEST.canonical())))
                await channel.send_raw(MANIFEST.canonical())


@pytest.mark.parametrize("then", ["silence", "the end"])
async def test_what_one_holder_left_unfinished_another_goes_on_with(scene: Scene, then: str) -> None:
    half = LARGE[: limits.WEIGHT_CHUNK_BYTES]
    offsets: list[int] = []

    async def serve(channel: Channel[WeightsMessage]) -> None:
        """Whichever holder is asked for the large one first leaves it unfinished."""
        while True:
            question = await channel.receive()
            assert isinstance(question, FetchBlob)
            rest = CONTENTS[question.sha256][question.offset :]
            await channel.send(Coming(len(rest)))
            is_large = question.sha256 == sha256(LARGE)
            offsets.extend([question.offset] * is_large)
            if is_large and offsets == [0]:
                await channel.send_raw(half)
                if then == "silence":
                    await trio.sleep_forever()
                return
            await channel.send_raw(rest)

    await scene.fetch(scene.holder(Source()), names=())  # the description
    scene.start_again()
    await scene.fetch(scene.served_by(serve), scene.served_by(serve))
    assert scene.is_complete()
    assert offsets == [0, len(half)]
    assert scene.progress == sorted(scene.progress)


async def test_a_fetch_goes_on_after_a_restart_where_it_was(scene: Scene) -> None:
    half = LARGE[: limits.WEIGHT_CHUNK_BYTES]
    with pytest.raises(NoRoute):
        await scene.fetch(scene.served_by(partial(give_half, half=half)))
    scene.store = WeightStore(scene.store._root)
    scene.start_again()
    scene.progress.clear()
    await scene.fetch(scene.holder(Source()))
    assert scene.is_complete()
    assert scene.progress[0][0] >= len(half)


async def test_a_false_beginning_of_one_holder_does_not_spoil_it_for_the_honest_one(scene: Scene) -> None:
    false = bytes(limits.WEIGHT_CHUNK_BYTES)
    await scene.fetch(scene.served_by(partial(give_half, half=false)), scene.holder(Source()))
    assert scene.is_complete()


async def test_several_holders_give_at_the_same_time(scene: Scene) -> None:
    """Neither answers before both were asked."""
    asked = [trio.Event(), trio.Event()]
    everybody = [Source(), Source()]

    def patient(own: int) -> Callable[[Channel[WeightsMessage]], Awaitable[None]]:
        async def serve(channel: Channel[WeightsMessage]) -> None:
            question = await channel.receive()
            asked[own].set()
            await asked[1 - own].wait()
            assert isinstance(question, FetchBlob)
            await channel.send(Coming(len(CONTENTS[question.sha256])))
            await channel.send_raw(CONTENTS[question.sha256])
            await WeightServer(lambda: everybody, inline).serve(channel)

        return serve

    await scene.fetch(scene.holder(Source()), names=())  # the description
    scene.start_again()
    await scene.fetch(scene.served_by(patient(0)), scene.served_by(patient(1)))
    assert scene.is_complete()


@pytest.mark.parametrize(
    "lie", [LARGE[:-1] + b"x", LARGE[:-4], LARGE + b"more"], ids=["changed", "short", "long"]
)
async def test_a_liar_is_blamed_and_the_next_holder_asked(scene: Scene, lie: bytes) -> None:
    liar, honest = scene.holder(Source(altered={LARGE: lie})), scene.holder(Source())
    await scene.fetch(liar, honest)
    assert scene.is_complete()


async def test_with_liars_alone_the_fetch_fails_and_names_one(scene: Scene) -> None:
    liar = scene.holder(Source(altered={LARGE: LARGE[::-1]}))
    with pytest.raises(NoRoute, match="no holder gives large") as failed:
        await scene.fetch(liar)
    assert isinstance(failed.value.__cause__, Dishonest)
    assert failed.value.__cause__.peer == liar.peer
    assert not any(Path(scene.store._root, "partial").iterdir())


async def test_a_false_manifest_is_refused(scene: Scene) -> None:
    async def serve(channel: Channel[WeightsMessage]) -> None:
        await channel.receive()
        await channel.send(Coming(2))
        await channel.send_raw(b"{}")

    with pytest.raises(NoRoute) as failed:
        await scene.fetch(scene.served_by(serve))
    assert isinstance(failed.value.__cause__, RemoteFault)
    assert scene.store.stated(MODEL) is None
    scene.start_again()
    await scene.fetch(scene.holder(Source()))
    assert scene.is_complete()


async def answer_missing(channel: Channel[WeightsMessage]) -> None:
    await channel.receive()
    await channel.send(Missing())


async def answer_a_question(channel: Channel[WeightsMessage]) -> None:
    await channel.receive()
    await channel.send(FetchManifest(MODEL))


async def answer_too_much(channel: Channel[WeightsMessage]) -> None:
    await channel.receive()
    await channel.send(Coming(limits.MANIFEST_BYTES_MAX + 1))


async def answer_garbage(channel: Channel[WeightsMessage]) -> None:
    await channel.receive()
    await channel.send_raw(b"\0\0\0\x01\xc1")


async def say_nothing(channel: Channel[WeightsMessage]) -> None:
    await channel.receive()
    await trio.sleep_forever()


async def stop_half_way(channel: Channel[WeightsMessage]) -> None:
    await channel.receive()
    await channel.send(Coming(len(MANIFEST.canonical())))
    await channel.send_raw(MANIFEST.canonical()[:10])
    await trio.sleep_forever()


async def break_off(channel: Channel[WeightsMessage]) -> None:
    await channel.receive()
    await channel.stream.reset()


@pytest.mark.parametrize(
    "serve",
    [
        answer_missing,
        answer_a_question,
        answer_too_much,
        answer_garbage,
        say_nothing,
        stop_half_way,
        break_off,
    ],
)
async def test_whatever_a_holder_does_the_next_one_is_asked(
    scene: Scene, serve: Callable[[Channel[WeightsMessage]], object]
) -> None:
    bad = scene.served_by(serve)
    await scene.fetch(bad, scene.holder(Source()))
    assert scene.is_complete()


async def test_without_holders_the_fetch_fails(scene: Scene) -> None:
    with pytest.raises(NoRoute, match="none is known"):
        await scene.fetch()


async def test_a_dead_holder_costs_its_connection_alone(scene: Scene) -> None:
    dead, honest = scene.holder(Source()), scene.holder(Source())
    async with mesh(scene.network, dead, honest):
        scene.world.kill(dead.peer)
        await scene.fetcher.fetch_tensors(MODEL, WANTED, [dead.peer, honest.peer], lambda done, total: None)
    assert scene.is_complete()


async def test_an_unknown_tensor_name_is_refused(scene: Scene) -> None:
    with pytest.raises(Malformed, match="no tensor nose"):
        await scene.fetch(scene.holder(Source()), names=("nose",))


async def test_a_full_disk_is_our_fault_and_no_holders(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(entry: TensorEntry) -> None:
        raise LocalFault("no space left")

    monkeypatch.setattr(scene.store, "receive_tensor", full)
    with pytest.raises(LocalFault):
        await scene.fetch(scene.holder(Source()))


@asynccontextmanager
async def asking(scene: Scene, holder: VirtualNetwork) -> AsyncIterator[Channel[WeightsMessage]]:
    async with (
        mesh(scene.network, holder),
        dial(scene.network, holder.peer, streams.WEIGHTS, WEIGHTS_CODEC, NETWORK_ID) as channel,
    ):
        yield channel


async def test_a_blob_can_be_asked_for_from_an_offset(scene: Scene) -> None:
    async with asking(scene, scene.holder(Source())) as channel:
        await channel.send(FetchBlob(MODEL, sha256(SMALL), 6))
        assert await channel.receive() == Coming(2)
        assert await channel.reader.read_exactly(2) == SMALL[6:]
        await channel.send(FetchBlob(MODEL, sha256(SMALL), 9))
        assert await channel.receive() == Missing()
        await channel.send(FetchManifest(ModelDigest("00" * 32)))
        assert await channel.receive() == Missing()


async def test_the_server_ends_a_stream_that_asks_nothing_or_speaks_out_of_turn(scene: Scene) -> None:
    async with asking(scene, scene.holder(Source())) as channel:
        await channel.send(Coming(3))
        with pytest.raises(Disconnected):
            await channel.receive()
