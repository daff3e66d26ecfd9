"""Claims over gossip, between whole members on the virtual network: heard soon, and no longer than they are true."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
import trio

from inference.placement.claims import ClaimTable
from inference.placement.gossiping import (
    CLAIM_WORD_CODEC,
    NOTE_CODEC,
    ClaimWord,
    GossipBoard,
    check_claim,
    check_note,
    key_of,
)
from mesh.members.driver import Members
from protocols import limits
from protocols.errors import Malformed
from protocols.gossip import Heard, Topic
from protocols.ids import ModelDigest, PeerId
from protocols.placement import Claim, Claims, LayerRange, ModelNote
from simulations.network.internet import VirtualWorld, peer_id
from tests.mesh.members.rig import HOUR_S, Home, settle
from tests.virtual_time import ON_VIRTUAL_TIME

MODEL, OTHER = ModelDigest("ab" * 32), ModelDigest("cd" * 32)
NOTE = ModelNote(MODEL, "tiny", 8)


def claim(holder: PeerId, start: int = 0, end: int = 4, model: ModelDigest = MODEL) -> Claim:
    return Claim(holder, model, LayerRange(start, end), False, "bf16", "exact", "x", 1.0, 1)


@dataclass
class Holder:
    """A member with its board and table."""

    home: Home
    members: Members
    board: GossipBoard
    table: ClaimTable = field(default_factory=ClaimTable)

    def publish(self, *claims: Claim, models: tuple[ModelNote, ...] = (NOTE,)) -> None:
        self.board.publish(Claims(claims, models))

    def sees(self, model: ModelDigest = MODEL) -> list[tuple[PeerId, str]]:
        return [(each.holder, str(each.range)) for each in self.table.claims(model)]


@asynccontextmanager
async def holding(home: Home, invite: str | None = None) -> AsyncIterator[Holder]:
    async with home.up(invite) as members, trio.open_nursery() as nursery:
        holder = Holder(home, members, GossipBoard(members, home.peer))
        holder.board.listen(holder.table.tell, holder.table.down)
        await nursery.start(lambda *, task_status: holder.board.run(task_status=task_status))
        yield holder
        nursery.cancel_scope.cancel()


@pytest.fixture
def homes() -> list[Home]:
    world = VirtualWorld(latency_s=0.005)
    return [Home(world, number) for number in range(1, 4)]


@ON_VIRTUAL_TIME
async def test_what_a_node_holds_is_known_to_all_and_gone_with_its_withdrawal(homes: list[Home]) -> None:
    async with holding(homes[0]) as one, holding(homes[1], one.members.invite(1, HOUR_S)) as two:
        await settle(1.0)
        one.publish(claim(homes[0].peer), claim(homes[0].peer, 4, 8))
        await settle(0.2)
        assert two.sees() == [(homes[0].peer, "0-3"), (homes[0].peer, "4-7")]
        assert two.table.models() == (NOTE,)
        one.publish(claim(homes[0].peer, 4, 8))
        await settle(0.2)
        assert two.sees() == [(homes[0].peer, "4-7")]
        one.publish(models=())
        await settle(0.2)
        assert two.sees() == []
        assert two.table.models() == ()


@ON_VIRTUAL_TIME
async def test_a_newcomer_hears_of_everybody_from_its_inviter_within_a_tenth_of_a_second(
    homes: list[Home],
) -> None:
    one, two, three = homes
    async with holding(one) as first, holding(two, first.members.invite(1, HOUR_S)) as second:
        await settle(1.0)
        second.publish(claim(two.peer))
        await settle(20.0)
        async with holding(three, first.members.invite(1, HOUR_S)) as third:
            await settle(0.1)
            assert third.sees() == [(two.peer, "0-3")]


@ON_VIRTUAL_TIME
async def test_claims_of_a_dead_holder_are_out_and_its_next_run_starts_from_nothing(
    homes: list[Home],
) -> None:
    one, two = homes[:2]
    async with holding(one) as first:
        async with holding(two, first.members.invite(1, HOUR_S)) as second:
            await settle(1.0)
            second.publish(claim(two.peer), claim(two.peer, 4, 8))
            await settle(1.0)
            assert len(first.sees()) == 2
        await settle(0.1)
        assert first.sees() == []
        async with holding(two) as second:
            await settle(3.0)
            assert first.sees() == [], "it has loaded nothing yet, whatever it held before"
            second.publish(claim(two.peer))
            await settle(1.0)
            assert first.sees() == [(two.peer, "0-3")]


@ON_VIRTUAL_TIME
async def test_a_holder_that_was_out_of_touch_counts_again_without_a_word(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with holding(one) as first, holding(two, first.members.invite(1, HOUR_S)) as second:
        await settle(1.0)
        second.publish(claim(two.peer))
        await settle(1.0)
        await one.network.disconnect(two.peer)
        await trio.testing.wait_all_tasks_blocked()
        assert first.sees() == []
        await settle(20.0)
        assert first.sees() == [(two.peer, "0-3")]


def heard(topic: Topic, key: str, body: bytes, author: PeerId) -> Heard:
    return Heard(author, topic, key, body, 0, 1)


def test_a_claim_in_anothers_name_or_place_is_not_believed() -> None:
    ann, ben = PeerId("12D3KooW" + "a" * 44), PeerId("12D3KooW" + "b" * 44)
    word = CLAIM_WORD_CODEC.encode(ClaimWord(bytes(8), claim(ann)))
    check_claim(heard(Topic.CLAIMS, key_of(claim(ann)), word, ann))
    for key, author in ((key_of(claim(ann)), ben), (key_of(claim(ann, 4, 8)), ann), ("", ann)):
        with pytest.raises(Malformed):
            check_claim(heard(Topic.CLAIMS, key, word, author))
    with pytest.raises(Malformed):
        check_claim(heard(Topic.CLAIMS, key_of(claim(ann)), b"\xc1", ann))


def test_a_model_under_the_key_of_another_is_not_believed() -> None:
    ann, body = PeerId("12D3KooW" + "a" * 44), NOTE_CODEC.encode(NOTE)
    check_note(heard(Topic.MODELS, MODEL, body, ann))
    with pytest.raises(Malformed):
        check_note(heard(Topic.MODELS, OTHER, body, ann))


def test_the_bytes_of_a_claim_are_what_they_were() -> None:
    ann = PeerId("12D3KooW" + "a" * 44)
    word = CLAIM_WORD_CODEC.encode(ClaimWord(b"\x01" * 8, claim(ann)))
    assert msgspec.msgpack.decode(word) == [
        b"\x01" * 8,
        ["claim", ann, MODEL, [0, 4], False, "bf16", "exact", "x", 1.0, 1, 0, "hot"],
    ]


@ON_VIRTUAL_TIME
async def test_what_members_of_the_past_have_said_does_not_pile_up(
    homes: list[Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEMBERS_MAX", 3)
    async with holding(homes[0]) as one, holding(homes[1], one.members.invite(1, HOUR_S)) as two:
        two.publish(claim(homes[1].peer))
        await settle(1.0)
        for number in range(20):
            one.board._of(peer_id(number), one.board._words)
        assert len(one.board._words) <= 3
        assert homes[1].peer in one.board._words
