"""A mesh that comes up as its script says, and goes on whoever of it is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import trio
from msgspec import structs

from node import api
from protocols.errors import WeftError
from simulations.cluster.cabling import as_link, link_between
from simulations.network.links import Link
from simulations.scenarios.script import LinkSpec, NodeSpec, Request
from tests.simulations.cluster.played import Stage, asking, play, script


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """As they were."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_mesh_goes_on_without_its_founder() -> None:
    async def act(stage: Stage) -> None:
        await stage["n0"].crash()
        await trio.sleep(10)
        added = await stage.cluster.add(NodeSpec("n3"))
        assert added.is_up
        assert added is stage["n3"]
        assert await stage.cluster.offer()
        assert stage.noted("n1").count("the model is served") == 1
        await stage.until(lambda: bool(stage.clients.all) and stage.client.status is not None)

    stage = play(script(3, asking("n2", at_s=30.0)), act)
    assert stage.client.status == "finished"
    assert stage.client.is_exact


def test_the_model_is_offered_to_those_that_the_script_says() -> None:
    async def act(stage: Stage) -> None:
        holders = {name for name, node in stage.cluster.nodes.items() if node.worker.free_bytes() < 1 << 30}
        assert holders == {"n1", "n3"}

    play(structs.replace(script(4), offer_on=("n1", "n3")), act)


def test_an_offer_that_cannot_be_served_raises_why_and_one_of_a_lost_node_does_not_hang() -> None:
    async def act(stage: Stage) -> None:
        for node in stage.cluster.nodes.values():
            node.spec = NodeSpec(node.name, memory_mb=8)
            await node.crash(disk="lost")
        assert not await stage.cluster.offer()
        node = stage["n1"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.cluster.restart, node)
            await trio.sleep(30)
            assert not node.is_up  # nobody is there to invite it
            await node.crash()

    play(script(), act)


def test_an_offer_ends_with_the_node_that_makes_it() -> None:
    async def act(stage: Stage) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_soon, stage)
            assert not await stage.cluster.offer(stage["n1"])

    async def crash_soon(stage: Stage) -> None:
        await trio.sleep(0.001)
        await stage["n1"].crash()

    play(script(), act)


def test_what_an_offer_is_refused_with_is_raised() -> None:
    async def act(stage: Stage) -> None:
        stage.cluster.model.offered = lambda: "/nowhere"  # type: ignore[method-assign]
        with pytest.raises(WeftError):
            await stage.cluster.offer()

    play(script(), act)


def test_links_are_laid_as_the_script_says_for_every_identity() -> None:
    links = (
        LinkSpec(latency_ms=5),
        LinkSpec("n1", "*", latency_ms=20),
        LinkSpec("n2", "n1", latency_ms=40, loss=0.1),
    )

    async def act(stage: Stage) -> None:
        await stage["n1"].crash(disk="lost")
        assert await stage.cluster.restart(stage["n1"])
        peers = [stage[name].peer for name in ("n0", "n1", "n2")]
        between = stage.cluster.internet.links.between
        ways = {(a, b): between(peers[a], peers[b]) for a in range(3) for b in range(3) if a != b}  # type: ignore[arg-type]
        assert {way: link.latency_s for way, link in ways.items()} == {
            (0, 1): 0.02, (1, 0): 0.02, (0, 2): 0.005, (2, 0): 0.005, (1, 2): 0.04, (2, 1): 0.04,
        }  # fmt: skip
        assert ways[1, 2].loss == 0.1

    play(script(3, links=links), act)


def test_the_last_link_that_fits_counts_in_either_direction() -> None:
    one, two = NodeSpec("one", "east"), NodeSpec("two", "west")
    near, far, own = LinkSpec(), LinkSpec("zone:west", "zone:east"), LinkSpec("one", "one")
    assert link_between((), one, two) is None
    assert link_between((near, far, own), one, two) is far
    assert link_between((near, far), two, one) is far
    assert link_between((far, near), one, two) is near
    assert link_between((own, far), one, NodeSpec("three", "east")) is None


def test_units_of_links_are_those_of_the_network() -> None:
    assert as_link(LinkSpec()) == Link(0.001, 0.0, math.inf, 0.0)
    assert as_link(LinkSpec(latency_ms=50, jitter_ms=5, bandwidth_mbit=8, loss=0.1)) == Link(
        0.05, 0.005, 1e6, 0.1
    )


def test_the_same_script_gives_the_same_run() -> None:
    async def act(stage: Stage) -> None:
        await trio.sleep(1)
        await stage.crashed("n1")

    digests = {play(script(3, asking("n0")), act).cluster.trace.digest for _ in range(2)}
    assert len(digests) == 1


@pytest.mark.usefixtures("torch_threads")
def test_the_real_engine_says_over_two_nodes_what_it_says_in_one_piece() -> None:
    async def act(stage: Stage) -> None:
        await stage.until(lambda: bool(stage.clients.all) and all(c.status for c in stage.clients.all))

    stage = play(
        script(2, asking("n1", tokens=24), asking("n0", tokens=24, temperature=1.0, seed=3), engine="torch"),
        act,
    )
    for client in stage.clients.all:
        assert client.status == "finished"
        assert client.is_exact
    assert len(stage.clients.all[0].tokens) == 24


@pytest.mark.usefixtures("torch_threads")
def test_the_real_engine_takes_over_rows_of_an_earlier_prompt_and_loses_none_with_a_node() -> None:
    prompt = "Sort these numbers: 5 3 9 1 7. " * 6

    async def act(stage: Stage) -> None:
        await stage.until(lambda: len(stage.clients.all) == 2 and bool(stage.clients.all[1].tokens))
        (session,) = stage["n0"].daemon.entry.running.values()  # type: ignore[union-attr]
        assert {place.base for place in session.places} == {128}
        lost = next(place.peer for place in session.places if place.peer != stage["n0"].peer)
        await next(node for node in stage.cluster.nodes.values() if node.peer == lost).crash()
        await stage.until(lambda: all(client.status for client in stage.clients.all))

    requests = (
        Request(0.5, "n0", prompt, 3),
        Request(5.0, "n0", f"{prompt} And these: 1 8 2 5?", 60, temperature=1.0, seed=4),
    )
    stage = play(script(3, *requests, engine="torch"), act)
    assert [(client.status, client.is_exact) for client in stage.clients.all] == [("finished", True)] * 2
    assert any(isinstance(event, api.Rerouted) for _, event in stage.clients.all[1].events)
