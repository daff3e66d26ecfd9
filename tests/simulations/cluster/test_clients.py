"""Clients know what they should be told, and hear nothing more once their connection has ended."""

from __future__ import annotations

import gc
import weakref

import trio

from node import api
from simulations.cluster.clients import Client
from simulations.cluster.model import Answer
from simulations.cluster.node import SimulatedNode
from simulations.scenarios.script import Request
from tests.simulations.cluster.played import Stage, asking, play, script


def middle(stage: Stage) -> SimulatedNode:
    """The node of the second stage of the only client's route."""
    started = next(event for _, event in stage.client.events if isinstance(event, api.Started))
    assert len(started.route) >= 3
    return stage[started.route[1].name]


async def under_way(stage: Stage, tokens: int = 10) -> None:
    await stage.until(lambda: bool(stage.clients.all) and len(stage.client.tokens) >= tokens)


def test_texts_are_exact_and_memory_is_free_again() -> None:
    async def act(stage: Stage) -> None:
        await stage.until(lambda: len(stage.clients.all) == 3 and all(c.status for c in stage.clients.all))
        await trio.sleep(2)
        assert [node.worker.kv_bytes for node in stage.cluster.nodes.values()] == [0, 0, 0]

    requests = (asking("n0"), asking("n1", temperature=1.0, seed=5), asking("n2", tokens=1))
    stage = play(script(3, *requests), act)
    for client, request in zip(stage.clients.all, requests, strict=True):
        assert (client.status, client.endings, client.is_exact) == ("finished", 1, True)
        assert len(client.tokens) == request.tokens
        positions = [token.position for _, token in client.tokens]
        assert positions == list(range(len("hello there"), len("hello there") + request.tokens))
        assert [at_s for at_s, _ in client.events] == sorted(at_s for at_s, _ in client.events)


def test_the_text_is_exact_although_a_node_in_the_middle_crashes() -> None:
    async def act(stage: Stage) -> None:
        await under_way(stage)
        await middle(stage).crash()

    stage = play(script(4, asking("n0", tokens=80)), act)
    assert stage.client.status == "finished"
    assert stage.client.is_exact
    assert any(isinstance(event, api.Rerouted) for _, event in stage.client.events)


def test_the_text_is_exact_although_rows_of_an_earlier_prompt_are_lost_with_a_node() -> None:
    prompt = "the old mill by the river " * 12

    async def act(stage: Stage) -> None:
        await stage.until(lambda: bool(stage.clients.all) and stage.clients.all[0].status is not None)
        assert all(node.worker.memory().prefix_bytes for node in stage.cluster.nodes.values())
        assert [node.worker.kv_bytes for node in stage.cluster.nodes.values()] == [0] * 4
        await stage.until(lambda: len(stage.clients.all) == 2 and len(stage.clients.all[1].tokens) >= 10)
        started = next(event for _, event in stage.clients.all[1].events if isinstance(event, api.Started))
        (session,) = stage["n0"].daemon.entry.running.values()  # type: ignore[union-attr]
        assert {place.base for place in session.places} == {256}
        await stage[started.route[1].name].crash()

    requests = (
        Request(0.5, "n0", prompt, 5),
        Request(20.0, "n0", f"{prompt} and a house", 80, temperature=1.0, seed=3),
    )
    stage = play(script(4, *requests), act)
    assert [(client.status, client.is_exact) for client in stage.clients.all] == [("finished", True)] * 2
    assert any(isinstance(event, api.Rerouted) for _, event in stage.clients.all[1].events)


def test_a_client_of_a_crashed_node_is_lost_at_once_and_hears_nothing_more() -> None:
    async def act(stage: Stage) -> None:
        await under_way(stage)
        await stage["n1"].crash()
        crashed_at_s, heard = trio.current_time(), len(stage.client.events)
        await trio.sleep(30)
        assert (stage.client.status, stage.client.ended_s) == ("lost", crashed_at_s)
        assert len(stage.client.events) == heard
        assert stage.client.endings == 1
        assert stage.client.is_exact

    play(script(3, asking("n1")), act)


def test_a_client_of_a_node_that_is_down_is_lost() -> None:
    async def act(stage: Stage) -> None:
        await stage["n1"].crash()
        await trio.sleep(2)
        assert (stage.client.status, stage.client.events) == ("lost", [])

    play(script(3, asking("n1", at_s=1.0)), act)


def test_a_client_of_a_silent_node_waits_where_it_is_seen() -> None:
    async def act(stage: Stage) -> None:
        await under_way(stage)
        stage["n1"].pause()
        await trio.sleep(60)
        assert (stage.client.status, stage.client.ended_s) == (None, None)
        await stage["n1"].crash()

    assert play(script(3, asking("n1")), act).client.status == "lost"


def test_a_leaving_node_lets_its_clients_finish() -> None:
    async def act(stage: Stage) -> None:
        await under_way(stage)
        await stage["n1"].leave()
        assert stage.client.status == "finished"

    assert play(script(3, asking("n1")), act).client.is_exact


def test_a_client_that_asks_a_node_which_is_being_stopped_is_lost() -> None:
    async def act(stage: Stage) -> None:
        await under_way(stage)
        await stage["n1"].leave()
        first, second = stage.clients.all
        assert first.status == "finished"
        assert second.status == "lost"
        assert "going down" in second.detail

    play(script(3, asking("n1", tokens=100), asking("n1", at_s=2.0)), act)


def test_a_client_that_leaves_has_its_end_and_frees_what_it_held() -> None:
    async def act(stage: Stage) -> None:
        await stage.until(lambda: bool(stage.clients.all) and stage.client.status is not None)
        await trio.sleep(2)
        assert [node.worker.kv_bytes for node in stage.cluster.nodes.values()] == [0, 0, 0]

    stage = play(script(3, asking("n1", cancel_after=7)), act)
    assert (stage.client.status, len(stage.client.tokens)) == ("cancelled", 7)


def test_a_client_is_told_why_it_failed() -> None:
    async def act(stage: Stage) -> None:
        await under_way(stage)
        for name in ("n0", "n2"):
            await stage[name].crash()
        await stage.until(lambda: stage.client.status is not None)

    stage = play(
        script(3, asking("n1", tokens=2000), memory_mb=8), act
    )  # too little for what the others held
    assert (stage.client.status, stage.client.endings) == ("failed", 1)
    assert stage.client.detail
    assert stage.client.is_exact


def test_a_client_that_has_had_its_end_keeps_no_process_that_is_gone() -> None:
    daemons = []

    async def act(stage: Stage) -> None:
        await stage.until(lambda: bool(stage.clients.all) and stage.client.status is not None)
        daemons.append(weakref.ref(stage["n1"].daemon))
        await stage.crashed("n1")
        await trio.sleep(30)
        gc.collect()
        assert daemons[0]() is None

    play(script(3, asking("n1")), act)


# What it compares with -----------------------------------------------------------------------------------------------


def told(*tokens: int, expected: tuple[int, ...] = (5, 6, 7), wanted: int = 3) -> Client:
    client = Client(0, asking("n0", tokens=wanted), Answer(iter(expected)))
    for position, token in enumerate(tokens):
        client.tokens.append((0.0, api.Token(position, token, "")))
    return client


def test_an_answer_is_exact_as_far_as_it_goes_and_whole_if_it_is_finished() -> None:
    assert told().is_exact
    assert told(5, 6).is_exact
    assert not told(5, 5).is_exact
    assert not told(5, 6, 7, 8, expected=(5, 6, 7, 8)).is_exact
    for tokens, is_exact in (((5, 6, 7), True), ((5, 6), False), ((5, 6, 8), False)):
        client = told(*tokens)
        client.status = "finished"
        assert client.is_exact is is_exact


def test_an_answer_is_computed_no_further_than_asked() -> None:
    drawn = []

    def tokens():  # type: ignore[no-untyped-def]
        for token in range(10):
            drawn.append(token)
            yield token

    answer = Answer(tokens())
    assert answer.first(3) == [0, 1, 2]
    assert answer.first(2) == [0, 1]
    assert drawn == [0, 1, 2]
    assert answer.first(99) == list(range(10))
