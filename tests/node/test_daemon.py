"""Whole nodes in one process, on virtual time and a virtual network: only weights and small files are real."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from safetensors.numpy import save_file

from inference.model.config_json import parse_config
from mesh.admission.belonging import decide_network
from mesh.admission.identity import load_identity
from mesh.directory.bootstrap import Hint, parse_entry
from mesh.state.files import inline
from node import api
from node.config import Config, MeshConfig, NodeConfig
from node.daemon import Daemon
from node.library import Library
from node.machine import Footprint, Memory
from node.memory_watch import Measure, Measured
from protocols.errors import NoRoute, NotFound, Unavailable, UserError
from protocols.gossip import Push
from protocols.observations import Outcome
from protocols.placement import LayerRange
from protocols.seams import Seams
from simulations.machine.arithmetic import VOCABULARY, WIDTH
from simulations.machine.clock import SeededRandomness, VirtualClock
from simulations.machine.disk import MemoryDisk
from simulations.machine.worker import VirtualWorker
from simulations.network.internet import VirtualWorld
from tests.inference.model.folders import byte_tokenizer, tiny_config
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME

LAYERS = 6
ASKED = api.GenerateRequest("model", prompt="Who is where?", max_tokens=40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as the virtual worker computes it: of its width, with weights that nobody reads."""
    path = tmp_path / "model"
    path.mkdir()
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
    }
    config = json.dumps(tiny_config(LAYERS) | shape | {"eos_token_id": None})
    (path / "config.json").write_text(config)
    parsed = parse_config(config.encode())
    names = parsed.tensor_names(LayerRange(0, LAYERS))
    save_file(
        {name: np.zeros(parsed.expected_shape(name), np.float32) for name in names},
        path / "model.safetensors",
    )
    byte_tokenizer().save(str(path / "tokenizer.json"))
    return path


class Cluster:
    """Daemons by number, in the order in which they joined."""

    def __init__(self, root: Path, stack: AsyncExitStack) -> None:
        self.world = VirtualWorld()
        self.daemons: list[Daemon] = []
        self.workers: list[VirtualWorker] = []
        self._root = root
        self._stack = stack

    async def add(self, measure: Measure | None = None, **settings: Any) -> None:
        number = len(self.daemons)
        invite = await self.daemons[0].invite(1, 3600) if number else ""
        disk, randomness = MemoryDisk(), SeededRandomness(number)
        clock = VirtualClock()
        identity = load_identity(disk, randomness, clock.wall())
        network_id = decide_network(disk, identity, randomness, clock.wall(), invite or None)
        network = self.world.network(
            identity.peer, network_id, lambda: tuple(key.public for key in identity.statics)
        )
        worker = VirtualWorker(layer_ms=5.0)
        seams = Seams(clock, randomness, network, disk, worker)
        library = Library(network, network_id, disk, self._root / str(number), inline)
        config = Config(node=NodeConfig(f"node{number}"), mesh=MeshConfig(join=invite), **settings)
        daemon = Daemon(config, seams, library, identity, network_id, measure=measure)
        await self._stack.enter_async_context(daemon.run())
        self.daemons.append(daemon)
        self.workers.append(worker)

    def kill(self, name: str) -> None:
        self.world.kill(next(each.status().peer for each in self.daemons if each.status().name == name))

    async def offer(self, folder: Path, *on: str) -> api.Plan:
        async with self.daemons[0].offer(str(folder), on=on) as events:
            plans = [event.plan async for event in events if isinstance(event, api.Offered)]
        return plans[0]


@asynccontextmanager
async def cluster(root: Path, size: int) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        made = Cluster(root, stack)
        for _ in range(size):
            await made.add()
        while any(sum(m.up for m in each.status().members) < size - 1 for each in made.daemons):
            await trio.sleep(0.1)
        yield made


async def nothing(_: api.Started) -> None:
    """Nobody disturbs it."""


async def generate(
    daemon: Daemon, at: int = 0, act: Callable[[api.Started], Awaitable[None]] = nothing
) -> list[api.GenerateEvent]:
    """All events; `act` is called in mid-generation when `at` tokens have come."""
    events: list[api.GenerateEvent] = []
    async with daemon.generate(ASKED) as coming:
        async for event in coming:
            events.append(event)
            if sum(isinstance(each, api.Token) for each in events) == at > 0:
                at = 0
                started = events[0]
                assert isinstance(started, api.Started)
                await act(started)
    return events


def tokens_of(events: list[api.GenerateEvent]) -> list[int]:
    return [event.token for event in events if isinstance(event, api.Token)]


async def test_a_node_shows_the_line_by_which_others_can_find_it(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as made:
        status = made.daemons[0].status()
        (line,) = status.addresses["bootstrap"]
        hint = parse_entry(line)
        assert isinstance(hint, Hint)
        assert (hint.peer, hint.control) == (status.peer, status.addresses["control"])
        assert hint.static == made.daemons[0].members.contact().static


async def test_three_nodes_share_a_model_and_outlive_the_middle_one(tmp_path: Path, folder: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        plan = await made.offer(folder)
        assert {each.holder_name for each in plan.ranges} == {"node0", "node1", "node2"}
        assert all(each.standby for each in plan.ranges)
        unbroken = await generate(made.daemons[0])
        assert tokens_of(await generate(made.daemons[2])) == tokens_of(unbroken)

        async def kill_the_middle(started: api.Started) -> None:
            made.kill(started.route[1].name)

        broken = await generate(made.daemons[0], 10, kill_the_middle)
        assert tokens_of(broken) == tokens_of(unbroken)
        rerouted = [event for event in broken if isinstance(event, api.Rerouted)]
        assert [(each.range, each.lost_name) for each in rerouted] == [
            (plan.ranges[1].range, plan.ranges[1].holder_name)
        ]
        assert isinstance(broken[-1], api.Finished)


async def test_what_a_node_has_refused_is_in_its_status(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as made:
        one, two = made.daemons
        assert one.status().faults.keys() <= {"Disconnected", "gossip replayed"}, "all is well"
        push = Push(1, b"\x00" * 200, bytes(64))
        while one.members.gossip.counts["cut_off"] < 1:
            two.members.gossip._send(two.members.gossip.neighbours, push)
            await trio.sleep(0.1)
        assert one.status().faults["gossip cut off"] == 1


async def test_a_dead_worker_moves_its_range_and_gets_it_back(tmp_path: Path, folder: Path) -> None:
    async with cluster(tmp_path, 2) as made:
        await made.offer(folder)
        unbroken = await generate(made.daemons[0])
        before = made.daemons[1].status().shards

        async def crash(_: api.Started) -> None:
            made.workers[1].crash()

        assert tokens_of(await generate(made.daemons[0], 10, crash)) == tokens_of(unbroken)
        with trio.fail_after(30):
            while {shard.range for shard in made.daemons[1].status().shards} != {
                shard.range for shard in before
            }:
                await trio.sleep(0.1)


async def test_what_nobody_else_holds_any_more_the_entry_serves_itself(tmp_path: Path, folder: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        await made.offer(folder)
        unbroken = tokens_of(await generate(made.daemons[0]))

        async def kill_all_others(_: api.Started) -> None:
            made.kill("node1")
            made.kill("node2")

        events = await generate(made.daemons[0], 10, kill_all_others)
        assert tokens_of(events) == unbroken
        assert {event.to_name for event in events if isinstance(event, api.Rerouted)} == {"node0"}
        assert tokens_of(await generate(made.daemons[0])) == unbroken, "new requests find it there"


async def test_others_are_told_of_free_memory_in_whole_gib_and_not_of_every_change(tmp_path: Path) -> None:
    gib = 1 << 30
    async with cluster(tmp_path, 1) as made:
        worker, told = made.workers[0], []
        for free_mib in (3500, 3100, 4100, 3100, 5000, 5200, 2900, 3100, 2900, 0):
            worker.memory_bytes = free_mib << 20
            told.append(made.daemons[0]._capabilities().worker_bytes // gib)
        assert told == [3, 3, 3, 3, 3, 5, 2, 2, 2, 0]


async def test_a_node_short_of_memory_refuses_requests_with_a_sentence_and_takes_them_again(
    tmp_path: Path, folder: Path
) -> None:
    free_bytes = 8 << 30
    async with AsyncExitStack() as stack:
        made = Cluster(tmp_path, stack)
        await made.add(measure=lambda _: Measured(Memory(free_bytes, 16 << 30), Footprint()))
        await made.offer(folder)
        (daemon,) = made.daemons
        unhurried = tokens_of(await generate(daemon))

        async def starve(_: api.Started) -> None:
            nonlocal free_bytes
            free_bytes = 100 << 20
            await trio.sleep(5)

        assert tokens_of(await generate(daemon, 10, starve)) == unhurried, "what is under way goes on"
        assert daemon.memory().level == "critical"
        assert daemon.status().worker.shortage
        with pytest.raises(Unavailable, match=r"it is short of memory: 100 MiB of 16,384 MiB"):
            await generate(daemon)
        free_bytes = 8 << 30
        await trio.sleep(30)
        assert daemon.memory().level == "normal"
        assert tokens_of(await generate(daemon)) == unhurried
        assert daemon.memory().caches == ()


async def test_a_lost_range_that_fits_nowhere_ends_the_session_with_a_reason(
    tmp_path: Path, folder: Path
) -> None:
    async with cluster(tmp_path, 3) as made:
        await made.offer(folder)
        worker = made.workers[0]
        worker.memory_bytes -= worker.free_bytes() - 7_000  # room for a session, and for no range

        async def kill_all_others(_: api.Started) -> None:
            made.kill("node1")
            made.kill("node2")

        with pytest.raises(
            NoRoute, match=r"no standby is left for layers .*offer the model again with 'weft offer'"
        ):
            await generate(made.daemons[0], 10, kill_all_others)
        assert made.daemons[0].sessions() == ()
        with pytest.raises(NoRoute, match="offer the model again"):
            await generate(made.daemons[0])


async def test_standbys_are_mapped_and_a_withdrawn_model_is_held_by_nobody(
    tmp_path: Path, folder: Path
) -> None:
    async with cluster(tmp_path, 3) as made:
        plan = await made.offer(folder)
        assert {standby.kind for each in plan.ranges for standby in each.standbys} == {"mapped"}
        assert {shard.kind for shard in made.daemons[1].status().shards if shard.standby} == {"mapped"}
        unbroken = tokens_of(await generate(made.daemons[0]))

        async def kill_the_middle(started: api.Started) -> None:
            made.kill("node1" if started.route[1].name != "node2" else "node2")

        events = await generate(made.daemons[0], 10, kill_the_middle)
        assert tokens_of(events) == unbroken
        withdrawn = await made.daemons[0].withdraw("model")
        assert {each.trouble for each in withdrawn.ranges} == {""}
        assert made.daemons[0].status().shards == ()
        assert not made.daemons[0].models()[0].ready
        assert (await made.daemons[0].withdraw("model")).ranges == ()
        with pytest.raises(NotFound, match="No model is called 'nothing'"):
            await made.daemons[0].withdraw("nothing")


async def test_a_drain_lasts_until_the_answer_has_been_given(tmp_path: Path, folder: Path) -> None:
    async with cluster(tmp_path, 3) as made, trio.open_nursery() as nursery:
        await made.offer(folder, "node0", "node1")
        entry = made.daemons[2]  # with no stage of its own to wait for
        unbroken = await generate(entry)
        requests = trio.CancelScope()

        async def drain() -> None:
            await entry.drain()
            requests.cancel()  # as the process does

        async def begin_to_drain(_: api.Started) -> None:
            nursery.start_soon(drain)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Unavailable, match="going down"):
                await generate(entry)

        events: list[api.GenerateEvent] = []
        with trio.fail_after(60), requests:
            events = await generate(entry, 10, begin_to_drain)
        assert tokens_of(events) == tokens_of(unbroken)


async def test_a_session_left_early_leaves_no_stage(tmp_path: Path, folder: Path) -> None:
    async with cluster(tmp_path, 2) as made:
        await made.offer(folder)
        async with made.daemons[1].generate(ASKED) as events:
            async for event in events:
                if isinstance(event, api.Token):
                    break
            assert sum(shard.sessions for each in made.daemons for shard in each.status().shards) == 2
        with trio.fail_after(5):
            while any(shard.sessions for each in made.daemons for shard in each.status().shards):
                await trio.sleep(0.1)


async def test_a_node_knows_who_served_it_and_who_did_not(tmp_path: Path, folder: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        await made.offer(folder)
        entry = made.daemons[0]
        assert {each.score for each in entry.peers()} == {1.0}
        lost = ""

        async def kill_the_middle(started: api.Started) -> None:
            nonlocal lost
            lost = started.route[1].name
            made.kill(lost)

        await generate(entry)
        await generate(entry, 10, kill_the_middle)
        own, *others = entry.peers()
        assert (own.name, own.score, own.served) == ("node0", 1.0, 0.0)
        bad, good = sorted(others, key=lambda each: each.score)
        assert (bad.name, bad.state, bad.failed, bad.wrong) == (lost, "down", 1.0, 0.0)
        assert bad.score < 0.95
        assert good.served == 2.0
        assert any("model" in each for each in good.ranges)
        why = entry.why_peer(lost)
        assert why.peer == bad
        assert why.happenings[0].outcome in {"failed", "disputed"}
        assert [each.outcome for each in why.happenings[1:]] == ["served"]
        assert entry.why_peer(bad.peer[-6:]) == why
        with pytest.raises(NotFound, match="'weft peers' lists them"):
            entry.why_peer("zoe")
        with pytest.raises(UserError, match="fits 3 members"):
            entry.why_peer("")


async def test_who_computed_wrongly_is_out_of_the_next_route(tmp_path: Path, folder: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        await made.offer(folder)
        entry = made.daemons[0]
        started = (await generate(entry))[0]
        assert isinstance(started, api.Started)
        suspect = next(stage.peer for stage in started.route if stage.name != "node0")
        entry.picture.observe(suspect, Outcome.WRONG, "by hand")
        started = (await generate(entry))[0]
        assert isinstance(started, api.Started)
        assert suspect not in {stage.peer for stage in started.route}
