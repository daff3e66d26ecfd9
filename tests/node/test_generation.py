"""A request at its entry node: what is refused, what is told, and what is left when somebody goes in the middle."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
import trio
from trio.testing import MockClock

from inference.placement.claims import ClaimTable
from node import api
from node.clock import SystemClock
from node.generation import Generation
from protocols import limits
from protocols.errors import NoRoute, Unavailable, UserError
from protocols.ids import PeerId
from protocols.placement import Claims, ModelNote
from simulations.machine.arithmetic import VOCABULARY
from tests.inference.model.folders import CONTEXT, tiny_config
from tests.inference.sessions.ring import LAYERS, MODEL, Ring, open_ring


class Words:
    """Stands for `inference.model.text.Text`: a word is its number."""

    eos_ids: frozenset[int] = frozenset()

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        return self.encode(messages[-1]["content"])

    def stream(self, prompt: tuple[int, ...]) -> Words:
        return self

    def feed(self, token: int) -> str:
        return f"{token} "

    def finish(self) -> str:
        return ""

    def token_bytes(self, token: int) -> bytes:
        return f"{token} ".encode()


@dataclass
class Models:
    """`has_text` keeps requests waiting for the tokenizer until it is set."""

    has_text: trio.Event = field(default_factory=trio.Event)

    async def text_of(self, model: str, holders: tuple[PeerId, ...]) -> Words:
        await self.has_text.wait()
        return Words()

    async def config_of(self, model: str, from_peers: tuple[PeerId, ...]) -> bytes:
        return json.dumps(tiny_config(LAYERS, VOCABULARY) | {"eos_token_id": VOCABULARY - 1}).encode()


class Counting:
    def token_bytes(self, count: int) -> bytes:
        return bytes(count)


@dataclass
class Rig:
    ring: Ring
    claims: ClaimTable
    models: Models
    generation: Generation

    def tell(self, index: int, numerics_class: str = "virtual", name: str = "words") -> None:
        """Node `index` tells what it holds."""
        node = self.ring.nodes[index]
        claims = tuple(
            msgspec.structs.replace(
                node.claim(layers), standby=layers != self.ring.ranges[index], numerics_class=numerics_class
            )
            for layers in node.holds
        )
        self.claims.tell(node.peer, Claims(claims, (ModelNote(MODEL, name, LAYERS),)))


@asynccontextmanager
async def open_rig(size: int = 3, *, standbys: bool = True) -> AsyncIterator[Rig]:
    async with open_ring(size, standbys=standbys) as ring:
        claims, models = ClaimTable(), Models()
        models.has_text.set()
        generation = Generation(
            ring.entry.peer, ring.entry.entry, claims, models, SystemClock(), Counting(), lambda peer: peer[-4:]
        )  # fmt: skip
        rig = Rig(ring, claims, models, generation)
        for index in range(size):
            rig.tell(index)
        yield rig


def request(prompt: str = "1 2 3", **settings: object) -> api.GenerateRequest:
    return api.GenerateRequest("words", prompt, **settings)  # type: ignore[arg-type]


async def collect(
    rig: Rig,
    wanted: api.GenerateRequest,
    kill_at: int = 0,
    events: list[api.GenerateEvent] | None = None,
) -> list[api.GenerateEvent]:
    """All events; node 1 is killed once there are `kill_at` tokens."""
    events = [] if events is None else events
    async with rig.generation.generate(wanted) as happenings:
        async for event in happenings:
            events.append(event)
            if kill_at and sum(isinstance(each, api.Token) for each in events) == kill_at:
                rig.ring.kill(rig.ring.nodes[1])
                kill_at = 0
    return events


async def test_an_answer_begins_with_its_route_and_ends_with_its_text(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        started, *tokens, finished = await collect(rig, request(max_tokens=5))
        assert isinstance(started, api.Started)
        assert [stage.range for stage in started.route] == ["0-2", "3-5", "6-8"]
        assert [token.position for token in tokens] == [3, 4, 5, 6, 7]
        assert isinstance(finished, api.Finished)
        assert (finished.reason, finished.completion_tokens) == ("length", 5)
        assert finished.text == "".join(token.text for token in tokens)
        assert not rig.generation.running


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens", "expected"), [(127, None, 1), (3, 1, 1), (120, 50, 8)]
)
async def test_the_context_bounds_an_answer(
    autojump_clock: MockClock, prompt_tokens: int, max_tokens: int | None, expected: int
) -> None:
    async with open_rig() as rig:
        events = await collect(rig, request("7 " * prompt_tokens, max_tokens=max_tokens))
        assert events[-1].completion_tokens == expected
        assert events[-1].reason == "length"


@pytest.mark.parametrize(("prompt", "why"), [("7 " * CONTEXT, "128 tokens"), ("", "prompt is empty")])
async def test_a_prompt_that_does_not_fit_is_refused_in_a_sentence(
    autojump_clock: MockClock, prompt: str, why: str
) -> None:
    async with open_rig() as rig:
        with pytest.raises(UserError, match=why):
            await collect(rig, request(prompt))


async def test_a_stop_string_ends_the_session_on_every_hop(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        whole = (await collect(rig, request(max_tokens=20)))[-1].text
        stop = whole.split()[10]
        events = await collect(rig, request(max_tokens=20, stop=(f" {stop} ",)))
        assert events[-1].reason == "stop"
        assert events[-1].text == whole[: whole.index(f" {stop} ")]
        await trio.sleep(2)
        assert rig.ring.is_clean


@pytest.mark.parametrize(("numerics_class", "continued"), [("virtual", False), ("another", True)])
async def test_a_range_that_moves_to_another_arithmetic_says_that_the_answer_is_continued(
    autojump_clock: MockClock, numerics_class: str, *, continued: bool
) -> None:
    async with open_rig() as rig:
        rig.tell(2, numerics_class)
        events = await collect(rig, request(max_tokens=20), kill_at=7)
        (rerouted,) = [event for event in events if isinstance(event, api.Rerouted)]
        assert (rerouted.range, rerouted.lost, rerouted.to) == (
            "3-5",
            rig.ring.nodes[1].peer,
            rig.ring.nodes[2].peer,
        )
        assert rerouted.continued is continued
        assert isinstance(events[events.index(rerouted) + 1], api.Token)
        assert events[-1].completion_tokens == 20


async def test_the_error_of_a_broken_session_comes_plainly_and_after_its_tokens(
    autojump_clock: MockClock,
) -> None:
    events: list[api.GenerateEvent] = []
    async with open_rig(standbys=False) as rig:
        with pytest.raises(NoRoute, match="no standby is left for layers 3-5"):
            await collect(rig, request(max_tokens=40), kill_at=9, events=events)
        assert len(events) >= 10
        assert not rig.generation.running


async def test_a_request_that_was_still_waiting_when_the_node_began_to_drain_is_refused(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig, trio.open_nursery() as nursery:
        rig.models.has_text = trio.Event()

        async def ask() -> None:
            with pytest.raises(Unavailable, match="going down"):
                await collect(rig, request())

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await rig.generation.drain()
        rig.models.has_text.set()


async def test_each_token_that_is_shown_has_its_logprobs_once_over_a_failover(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        events = await collect(rig, request(max_tokens=20, logprobs=2), kill_at=7)
    assert any(isinstance(event, api.Rerouted) for event in events)
    tokens = [event for event in events if isinstance(event, api.Token)]
    told = [each for token in tokens for each in token.logprobs]
    assert [(each.position, each.token) for each in told] == [(each.position, each.token) for each in tokens]
    assert [each.text for each in told] == [token.text for token in tokens]
    assert all(len(each.likeliest) == 2 for each in told)
    assert events[-1].logprobs == ()


async def test_a_stop_string_takes_the_logprobs_of_its_tokens_with_it(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        whole = (await collect(rig, request(max_tokens=20)))[-1].text.split()
        events = await collect(rig, request(max_tokens=20, logprobs=0, stop=(f"{whole[10]} {whole[11]}",)))
    told = [each for event in events if isinstance(event, api.Token) for each in event.logprobs]
    assert "".join(each.text for each in told) == events[-1].text
    assert len(told) == 10


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"logit_bias": {VOCABULARY: 1.0}}, "logit_bias names token 4096"),
        ({"json_schema": '{"type": "nothing"}'}, "JSON schema can't be used: Invalid type"),
        ({"json_schema": "{"}, "JSON schema can't be used"),
        ({"json_schema": " " * 70_000}, "70000 bytes"),
    ],
)
async def test_what_the_model_cannot_be_asked_is_refused_in_a_sentence(
    autojump_clock: MockClock, settings: dict[str, object], why: str
) -> None:
    async with open_rig() as rig:
        with pytest.raises(UserError, match=why):
            await collect(rig, request(**settings))


async def test_nodes_of_an_earlier_release_draw_only_what_they_understand(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        holders = {rig.ring.nodes[at].peer: at for at in range(3)}
        older = {2}
        rig.generation._minor_of = lambda peer: 0 if holders[peer] in older else 1
        plain = await collect(rig, request(max_tokens=3, temperature=1.0, top_k=5))
        newer = await collect(rig, request(max_tokens=3, min_p=0.1))
        older.add(0)
        with pytest.raises(UserError, match="of an earlier release: update it there"):
            await collect(rig, request(max_tokens=3, min_p=0.1))
        last = [events[0].route[-1].peer for events in (plain, newer) if isinstance(events[0], api.Started)]
        assert [holders[peer] for peer in last] == [2, 0]


async def test_a_reader_that_leaves_early_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        async with rig.generation.generate(request()) as happenings:
            async for event in happenings:
                if isinstance(event, api.Token):
                    break
        await trio.sleep(2)
        assert rig.ring.is_clean
        assert not rig.generation.running
        assert not rig.ring.entry.entry.running


@pytest.mark.parametrize("shares", [True, False])
async def test_a_node_whose_prefix_cache_is_off_leaves_nothing_of_its_prompts_anywhere(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, *, shares: bool
) -> None:
    monkeypatch.setattr(limits, "PREFILL_CHUNK_ROWS", 4)
    async with open_rig() as rig:
        rig.generation._shares_prefix = shares
        await collect(rig, request("1 2 3 4 5 6 7 8 9", max_tokens=5))
        assert [node.worker.memory().prefix_bytes > 0 for node in rig.ring.nodes] == [shares] * 3
