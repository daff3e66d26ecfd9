"""One machine and made-up neighbours: what it takes, what it refuses, and what that costs."""

from __future__ import annotations

import pytest

from mesh.gossip.events import (
    Alarm,
    Candidates,
    Close,
    Deliver,
    Lost,
    Open,
    Opened,
    Output,
    Publish,
    Received,
    Send,
)
from mesh.gossip.machine import Machine
from protocols import limits
from protocols.errors import Dishonest, LocalFault
from protocols.gossip import (
    HOPS_REPAIRED,
    Digest,
    Full,
    Graft,
    Have,
    Heard,
    Item,
    Join,
    Prune,
    Push,
    Topic,
    Want,
    Welcome,
    decode_bundle,
    id_of,
)  # fmt: skip
from simulations.network.internet import peer_id
from tests.mesh.gossip.meshes import is_sealed, machine, push_of

OWN, NEAR, FAR, AUTHOR = (peer_id(number) for number in range(1, 5))
WALL = 1_800_000_000_000
HEALTH, RECORD = int(Topic.HEALTH), int(Topic.RECORD)


class Node:
    """A machine with its clocks, which has `NEAR` and `FAR` for neighbours."""

    def __init__(self, made: Machine | None = None) -> None:
        self.machine = made or machine(OWN)
        self.now = 0.0
        self.wrong_ms = 0
        for peer in (NEAR, FAR):
            self.hear(Join(urgent=False), peer)

    @property
    def wall_ms(self) -> int:
        return WALL + int(self.now * 1000) + self.wrong_ms

    def do(self, event: object) -> list[Output]:
        return self.machine.handle(event, self.now, self.wall_ms)  # type: ignore[arg-type]

    def hear(self, message: object, peer: object = NEAR) -> list[Output]:
        return self.do(Received(peer, message))  # type: ignore[arg-type]

    def say(
        self, key: str, body: bytes = b"x", ttl_s: float = 60, topic: Topic = Topic.HEALTH
    ) -> list[Output]:
        return self.do(Publish(topic, key, body, ttl_s))

    def wait(self, for_s: float) -> list[Output]:
        """Rings whenever it wants to."""
        outputs: list[Output] = []
        until = self.now + for_s
        while self.machine.deadline <= until:
            self.now = max(self.now, self.machine.deadline)
            outputs += self.do(Alarm())
        self.now = until
        return outputs

    def items(self) -> dict[str, bytes]:
        return {heard.key: heard.body for heard in self.machine.items(Topic.HEALTH, self.wall_ms)}


def word(
    sequence: int = WALL, key: str = "k", body: bytes = b"x", ttl_s: int = 60, made_ms: int = WALL
) -> Push:
    return push_of(AUTHOR, sequence, Item(HEALTH, key, body, ttl_s), made_ms=made_ms)


def heard(outputs: list[Output]) -> list[Heard]:
    return [output.heard for output in outputs if isinstance(output, Deliver)]


def sent(outputs: list[Output], kind: type) -> list[Send]:
    return [output for output in outputs if isinstance(output, Send) and isinstance(output.message, kind)]


# What is said here ------------------------------------------------------------------------------------------------------


def test_what_is_said_together_goes_out_as_one_signed_bundle() -> None:
    node = Node()
    assert not sent(node.say("a") + node.say("b") + node.say("a", b"newer"), Push)
    (send,) = sent(node.wait(0.05), Push)
    assert set(send.peers) == {NEAR, FAR}
    assert isinstance(send.message, Push)
    assert is_sealed(OWN, send.message.body, send.message.signature)
    bundle = decode_bundle(send.message.body)
    assert {item.key: item.body for item in bundle.items} == {"a": b"newer", "b": b"x"}
    assert node.items() == {"a": b"newer", "b": b"x"}


def test_no_more_than_one_bundle_in_50_ms_unless_they_are_full() -> None:
    node = Node()
    outputs = []
    for number in range(100):
        outputs += node.say(f"{number % 20}")
        outputs += node.wait(0.01)
    assert len(sent(outputs, Push)) in range(18, 22)
    full = [output for number in range(2 * limits.GOSSIP_ITEMS_MAX + 1) for output in node.say(str(number))]
    assert len(sent(full, Push)) == 2


def test_sequences_rise_when_the_clock_is_put_back() -> None:
    node = Node()
    sequences = []
    for wall_ms in (WALL, WALL - 3_600_000, WALL - 3_600_000, WALL + 5):
        node.now += 1
        node.machine.handle(Publish(Topic.HEALTH, "k", b"x", 60), node.now, wall_ms)
        node.now += 1
        sequences += [one.sequence for one in heard(node.machine.handle(Alarm(), node.now, wall_ms))]
    assert sequences == sorted(set(sequences))
    assert len(sequences) == 4


def test_a_node_that_lost_its_sequence_hears_it_and_speaks_above_it() -> None:
    node = Node()
    node.say("k", b"of this life")
    node.say("other", b"stays")
    node.wait(1)
    ahead = WALL + 300_000
    old = push_of(OWN, ahead, Item(HEALTH, "k", b"of a former life", 60), made_ms=ahead, hops=HOPS_REPAIRED)
    assert [one.body for one in heard(node.hear(old))] == [b"of a former life"]
    (send,) = sent(node.wait(1), Push)
    assert isinstance(send.message, Push)
    bundle = decode_bundle(send.message.body)
    assert bundle.sequence > ahead
    assert [item.key for item in bundle.items] == ["k"]
    assert node.items() == {"k": b"of this life", "other": b"stays"}


def test_a_node_does_not_insist_for_ever_against_another_with_its_key() -> None:
    node = Node()
    node.say("k", b"mine", 3600)
    node.wait(1)
    said = 0
    for _ in range(200):
        above = node.wall_ms + 100_000
        node.hear(push_of(OWN, above, Item(HEALTH, "k", b"mine as well", 3600), made_ms=node.wall_ms))
        said += len(sent(node.wait(0.1), Push))
    assert 8 <= said <= 8 + 20 / 10 + 1
    assert node.machine.counts["contested"] >= 180
    node.wait(60)
    node.say("k", b"new", 3600)
    node.wait(1)
    assert node.items() == {"k": b"new"}, "what is said anew is said"


def test_words_of_a_former_life_come_back_as_own() -> None:
    node = Node()
    node.hear(push_of(OWN, WALL - 5, Item(HEALTH, "k", b"before", 60), hops=HOPS_REPAIRED))
    assert node.items() == {"k": b"before"}
    assert not sent(node.wait(1), Push)


def test_old_bundles_of_own_are_bundled_anew_before_they_crowd_out_each_other() -> None:
    node = Node()
    filler = bytes(30_000)
    for number in range(40):
        node.say("filler", filler)
        node.say(f"small {number}")
        node.wait(0.1)
    node.wait(1)
    assert len(node.items()) == 41


def test_more_words_than_an_author_may_have_are_refused_where_they_are_said() -> None:
    node = Node()
    with pytest.raises(LocalFault):
        for number in range(2 * limits.GOSSIP_AUTHOR_ITEMS_MAX):
            node.say(str(number))
            node.now += 0.01
            node.do(Alarm())
    node.say("0", b"an old key still has room")


# What comes in ----------------------------------------------------------------------------------------------------------


def test_news_goes_on_to_the_others_as_it_is_and_one_hop_further() -> None:
    node, push = Node(), word()
    outputs = node.hear(push)
    assert [one.body for one in heard(outputs)] == [b"x"]
    assert sent(outputs, Push) == [Send((FAR,), Push(2, push.body, push.signature))]


def test_a_second_copy_is_pruned_and_the_link_announces_from_then_on() -> None:
    node = Node()
    node.hear(word())
    assert sent(node.hear(word(), FAR), Prune) == [Send((FAR,), Prune(AUTHOR))]
    following = word(WALL + 1)
    assert not sent(node.hear(following), Push)
    (send,) = sent(node.wait(0.2), Have)
    assert send.peers == (FAR,)
    assert isinstance(send.message, Have)
    assert id_of(following.body) in send.message.ids


def test_what_is_announced_and_does_not_come_is_asked_for_from_one_after_the_other() -> None:
    node, push = Node(), word()
    have = Have(id_of(push.body), b"\x02")
    node.hear(have, NEAR)
    node.hear(have, FAR)
    asked = sent(node.wait(10 * limits.GOSSIP_GRAFT_S), Graft)
    assert [send.peers for send in asked] == [(NEAR,), (FAR,)]


def test_what_comes_in_time_is_not_asked_for() -> None:
    node, push = Node(), word()
    node.hear(Have(id_of(push.body), b"\x02"), FAR)
    node.hear(push, NEAR)
    assert not sent(node.wait(1), Graft)


def test_a_graft_brings_the_bundle_and_those_that_follow() -> None:
    node, push = Node(), word()
    node.hear(push)
    node.hear(Prune(AUTHOR), FAR)
    assert sent(node.hear(Graft(id_of(push.body), is_here=False), FAR), Push)
    assert sent(node.hear(word(WALL + 1)), Push)[0].peers == (FAR,)


def test_a_much_shorter_way_takes_the_place_of_a_long_one() -> None:
    node = Node()
    push = push_of(AUTHOR, WALL, Item(HEALTH, "k", b"x", 60), hops=7)
    node.hear(push)
    outputs = node.hear(Have(id_of(push.body), b"\x02"), FAR)
    assert not sent(outputs, Graft), "FAR is a branch already"
    node.hear(Prune(AUTHOR), FAR)
    outputs = node.hear(Have(id_of(push.body), b"\x02"), FAR)
    assert sent(outputs, Graft) == [Send((FAR,), Graft(id_of(push.body), is_here=True))]
    assert sent(outputs, Prune) == [Send((NEAR,), Prune(AUTHOR))]


@pytest.mark.parametrize(
    ("kind", "push"),
    [
        ("replayed", word(WALL - 1, body=b"older")),
        ("replayed", word(WALL - 1, body=b"", ttl_s=86_400)),
        ("future", word(WALL + 700_000, made_ms=WALL + 700_000)),
        ("expired", word(WALL + 1, "other", made_ms=WALL - 61_000)),
        ("forged", Push(1, word(WALL + 1).body, bytes(64))),
        ("forged", Push(1, push_of(FAR, WALL, Item(HEALTH, "k", b"x", 60)).body, word().signature)),
        ("replayed", push_of(AUTHOR, WALL + 1, Item(99, "k", b"a topic of later", 60))),
    ],
)
def test_what_must_not_count_changes_nothing_and_is_counted(kind: str, push: Push) -> None:
    node = Node()
    node.hear(word())
    before = node.items()
    outputs = node.hear(push)
    assert not heard(outputs)
    assert not sent(outputs, Push)
    assert node.items() == before
    assert node.machine.counts[kind] == 1
    assert node.machine.neighbours == (NEAR, FAR)


@pytest.mark.parametrize("wrong_s", [-3600, 3600])
def test_what_was_said_by_a_wrong_clock_is_dated_anew_when_it_is_set(wrong_s: int) -> None:
    node = Node()
    node.wrong_ms = 1000 * wrong_s
    node.wait(1)
    node.say("k", b"said", ttl_s=600, topic=Topic.CLAIMS)
    node.say("dated", b"within", ttl_s=600)
    node.wait(60)
    node.wrong_ms = 0
    outputs = [*node.do(Alarm()), *node.wait(1)]
    (again,) = [decode_bundle(each.message.body) for each in sent(outputs, Push)]  # type: ignore[union-attr]
    assert abs(again.made_ms - node.wall_ms) < 2000
    assert [(item.key, item.body, item.ttl_s) for item in again.items] == [("k", b"said", 540)]
    assert len(node.machine.items(Topic.CLAIMS, node.wall_ms)) == 1


def test_what_a_wrong_clock_took_for_expired_is_wanted_again_when_it_is_set() -> None:
    node = Node()
    push = word(made_ms=WALL)
    assert heard(node.hear(push))
    node.wrong_ms = 3_600_000
    node.wait(2 * limits.GOSSIP_REPAIR_S)
    assert not node.machine.size[1]
    node.wrong_ms = 0
    node.do(Alarm())
    assert heard(node.hear(push))


def test_what_expired_by_a_wrong_clock_out_of_a_bundle_that_stands_is_heard_again_when_it_is_set() -> None:
    node = Node()
    short, long = Item(HEALTH, "short", b"x", 600), Item(HEALTH, "long", b"x", 86_400)
    assert len(heard(node.hear(push_of(AUTHOR, WALL, short, long, made_ms=WALL)))) == 2
    size = node.machine._table.authors[AUTHOR].size_bytes
    node.wrong_ms = 3_600_000
    node.wait(2 * limits.GOSSIP_REPAIR_S)
    assert node.items() == {"long": b"x"}
    node.wrong_ms = 0
    assert [each.key for each in heard(node.do(Alarm()))] == ["short"]
    assert node.items() == {"short": b"x", "long": b"x"}
    assert node.machine._table.authors[AUTHOR].size_bytes == size


@pytest.mark.parametrize("wrong_s", [-3600, 3600])
def test_what_a_wrong_clock_refused_is_taken_when_it_is_set(wrong_s: int) -> None:
    node = Node()
    node.wrong_ms = 1000 * wrong_s
    node.wait(1)
    push = word(made_ms=WALL)
    assert not heard(node.hear(push))
    node.wrong_ms = 0
    node.wait(1)
    assert heard(node.hear(push))


def test_what_two_wrong_clocks_agreed_upon_is_forgotten_when_this_one_is_set() -> None:
    node = Node()
    node.wrong_ms = 3_600_000
    node.wait(1)
    assert heard(node.hear(word(WALL + 3_600_000, made_ms=WALL + 3_600_000)))
    node.wrong_ms = 0
    node.do(Alarm())
    assert node.items() == {}
    assert heard(node.hear(word(WALL, made_ms=WALL)))  # its author has started anew, by a clock that is right


def test_a_clock_that_drifts_or_is_slewed_changes_nothing() -> None:
    node = Node()
    node.say("k")
    node.wait(1)
    for _ in range(100):
        node.wrong_ms += 100
        assert not sent(node.wait(1), Push)
    assert node.machine.counts["clock_set"] == 0


def test_a_clock_ten_minutes_ahead_is_borne_with() -> None:
    node = Node()
    assert heard(node.hear(word(WALL + 590_000, made_ms=WALL + 590_000)))


@pytest.mark.parametrize(("ahead_s", "times"), [(limits.HEALTH_TTL_S, 0), (limits.HEALTH_TTL_S + 1, 1)])
def test_who_is_so_far_ahead_that_it_takes_own_health_for_expired_is_counted(
    ahead_s: float, times: int
) -> None:
    node = Node()
    ahead_ms = int(1000 * ahead_s)
    assert heard(node.hear(word(WALL + ahead_ms, made_ms=WALL + ahead_ms)))
    assert node.machine.counts["ahead"] == times
    forged = word(WALL + ahead_ms + 9_000, made_ms=WALL + ahead_ms + 9_000)
    node.hear(Push(1, forged.body, bytes(64)))
    assert node.machine.counts["ahead"] == times


def test_a_replayed_flood_costs_no_signature_checks() -> None:
    checked = []

    def is_signed(author: object, body: bytes, signature: bytes) -> bool:
        checked.append(author)
        return True

    node = Node(machine(OWN, is_signed=is_signed))
    node.hear(word(WALL + 100))
    for number in range(90):
        node.hear(word(WALL + number))
    assert len(checked) == 1
    assert node.machine.counts["replayed"] == 90


def test_a_flood_of_forged_bundles_is_cut_off_after_a_few_checks() -> None:
    checked = []

    def is_signed(author: object, body: bytes, signature: bytes) -> bool:
        checked.append(author)
        return False

    node = Node(machine(OWN, is_signed=is_signed))
    outputs = [output for number in range(10_000) for output in node.hear(word(WALL + number))]
    assert len(checked) <= limits.GOSSIP_FORGED_PER_MIN + 1
    assert outputs.count(Close(NEAR)) == 1
    assert node.machine.neighbours == (FAR,)
    node.now += 1  # what a flood has used up of its rate
    assert node.hear(Join(urgent=True)) == [Send((NEAR,), Full()), Close(NEAR)]
    node.now += limits.GOSSIP_CUT_OFF_S + 1
    assert sent(node.hear(Join(urgent=True)), Welcome)


def test_coming_back_does_not_fill_a_peers_rates() -> None:
    node = Node(machine(OWN, is_signed=lambda _author, _body, _signature: False))
    for number in range(limits.GOSSIP_FORGED_PER_MIN):
        node.hear(word(WALL + number))
    node.do(Lost(NEAR))
    node.hear(Join(urgent=True))
    assert Close(NEAR) in node.hear(word(WALL + 1000))


def test_a_neighbour_gets_no_more_looked_at_than_its_rate() -> None:
    node = Node()
    for _ in range(2 * limits.GOSSIP_PEER_BURST):
        node.hear(Prune(AUTHOR))
    assert node.machine.counts["limited"] == limits.GOSSIP_PEER_BURST + 1  # its Join was the first message
    node.hear(Have(bytes(16 * 1000), bytes(1000)), FAR)
    assert heard(node.hear(word(), FAR))


def test_an_author_gets_no_more_spread_than_its_rate() -> None:
    node = Node()
    pushes = [word(WALL + number) for number in range(limits.GOSSIP_AUTHOR_BURST + 50)]
    assert sum(bool(heard(node.hear(push))) for push in pushes) == limits.GOSSIP_AUTHOR_BURST
    assert node.machine.counts["limited"] == 50


def test_invented_authors_get_no_room() -> None:
    def refuse(_heard: Heard) -> None:
        raise Dishonest("no certificate")

    node = Node(machine(OWN, is_member=lambda peer: peer == AUTHOR, validators={Topic.RECORD: refuse}))
    for number in range(50_000):
        node.now += 0.01
        invented = peer_id(100 + number)
        topic = RECORD if number % 2 else HEALTH
        assert not heard(node.hear(push_of(invented, node.wall_ms, Item(topic, "", b"x", 60))))
    assert node.machine.size == (0, 0)
    counts = node.machine.counts
    assert counts["stranger"] == 25_000
    assert counts["refused"] + counts["limited"] == 25_000
    assert counts["refused"] <= limits.MEMBERS_MAX + 1 + 500 * limits.GOSSIP_STRANGERS_PER_S, "a chain costs"


def test_even_believed_authors_are_no_more_than_members_can_be() -> None:
    node = Node(machine(OWN, is_member=lambda _: False))
    for number in range(limits.MEMBERS_MAX + 100):
        node.now += 0.01
        node.hear(push_of(peer_id(100 + number), WALL, Item(RECORD, "", b"x", 600)))
    assert node.machine.size == (limits.MEMBERS_MAX, limits.MEMBERS_MAX)
    assert node.machine.counts["full"] == 100


def test_whoever_is_no_member_yet_is_heard_with_a_record_that_holds() -> None:
    members: set[object] = set()
    node = Node(
        machine(OWN, is_member=lambda peer: peer in members, validators={Topic.RECORD: lambda _: None})
    )
    both = push_of(AUTHOR, WALL, Item(HEALTH, "k", b"x", 60), Item(RECORD, "", b"me", 60))
    assert not heard(node.hear(word()))
    assert len(heard(node.hear(both))) == 2


def test_who_asks_for_several_bundles_gets_those_with_records_first() -> None:
    node = Node()
    record = push_of(AUTHOR, WALL + 1, Item(RECORD, "", b"me", 60))
    words = [word(WALL + 2 + number, f"k{number}") for number in range(8)]
    for push in (*words, record):
        node.hear(push, FAR)
    ids = sorted(id_of(push.body) for push in (*words, record))
    for asked in (ids, ids[::-1]):
        pushed = sent(node.hear(Want(b"".join(asked))), Push)
        assert len(pushed) == 9
        assert pushed[0].message.body == record.body  # type: ignore[union-attr]


def test_who_is_no_member_any_more_is_forgotten() -> None:
    members: set[object] = {AUTHOR}
    node = Node(machine(OWN, is_member=lambda peer: peer in members))
    node.hear(word(ttl_s=600))
    members.clear()
    node.wait(2 * limits.GOSSIP_REPAIR_S)
    assert node.machine.size == (0, 0)


def test_a_word_that_is_not_believed_is_neither_kept_nor_told_beside_one_that_is() -> None:
    def refuse(told: Heard) -> None:
        if told.body == b"lie":
            raise Dishonest("it is a lie")

    node = Node(machine(OWN, validators={Topic.HEALTH: refuse}))
    mixed = push_of(AUTHOR, WALL, Item(HEALTH, "k", b"lie", 60), Item(HEALTH, "other", b"true", 60))
    assert [one.body for one in heard(node.hear(mixed))] == [b"true"]
    lie = word(WALL + 1, body=b"lie")
    assert not sent(node.hear(lie), Push)
    assert node.items() == {"other": b"true"}
    assert not sent(node.hear(Have(id_of(lie.body), b"\1")) + node.wait(1), Graft), (
        "it is not asked for again"
    )


def test_two_bundles_of_one_sequence_are_counted_and_end_the_same_everywhere() -> None:
    one, two = Node(), Node()
    faces = (word(body=b"to one"), word(body=b"to the other"))
    for push in faces:
        one.hear(push)
    for push in reversed(faces):
        two.hear(push)
    assert one.items() == two.items()
    assert one.machine.counts["equivocation"] == two.machine.counts["equivocation"] == 1


@pytest.mark.parametrize(
    "message",
    [
        Push(1, b"no bundle", bytes(64)),
        Push(1, word().body[:-1], bytes(64)),
        Have(bytes(15), b"\1"),
        Have(bytes(16), b""),
        Graft(bytes(17), is_here=False),
        Want(bytes(17)),
        Digest(bytes(9)),
        push_of(AUTHOR, WALL, Item(HEALTH, "k", b"x", 60), Item(HEALTH, "k", b"y", 60)),
    ],
)
def test_what_nobody_would_pass_on_costs_the_link(message: object) -> None:
    node = Node()
    assert Close(NEAR) in node.hear(message)
    assert node.machine.counts["cut_off"] == 1


def test_who_is_no_neighbour_is_not_heard() -> None:
    node = Node()
    assert node.hear(word(), AUTHOR) == []
    assert not node.items()


# Neighbours -------------------------------------------------------------------------------------------------------------


def test_enough_candidates_are_asked_and_a_lost_neighbour_is_replaced_at_once() -> None:
    node = Node()
    peers = tuple(peer_id(number) for number in range(100, 140))
    asked = [output.peer for output in node.do(Candidates(peers)) if isinstance(output, Open)]
    assert len(asked) == limits.GOSSIP_ACTIVE - 2
    for peer in asked:
        assert sent(node.do(Opened(peer)), Join)
        assert sent(node.hear(Welcome(), peer), Digest)
    assert len(node.machine.neighbours) == limits.GOSSIP_ACTIVE
    (instead,) = node.do(Lost(asked[0]))
    assert isinstance(instead, Open)
    assert instead.peer not in asked


def test_who_has_no_room_or_does_not_answer_is_passed_over_for_a_while() -> None:
    node = Node()
    peer = AUTHOR
    assert node.do(Candidates((peer,))) == [Open(peer)]
    node.do(Opened(peer))
    assert node.hear(Full(), peer) == [Close(peer)]
    assert not [output for output in node.wait(limits.GOSSIP_AVOID_S / 2) if isinstance(output, Open)]
    assert Open(peer) in node.wait(limits.GOSSIP_AVOID_S)
    outputs = node.wait(limits.GOSSIP_LINK_S + 1)
    assert Close(peer) in outputs


def test_an_urgent_newcomer_finds_room_where_others_do_not() -> None:
    node = Node()
    peers = [peer_id(number) for number in range(100, 100 + limits.GOSSIP_ACTIVE_MAX)]
    answers = [node.hear(Join(urgent=False), peer) for peer in peers]
    assert [bool(sent(answer, Full)) for answer in answers] == [False] * (len(peers) - 2) + [True] * 2
    outputs = node.hear(Join(urgent=True), AUTHOR)
    assert sent(outputs, Welcome)
    assert len([output for output in outputs if isinstance(output, Close)]) == 1
    assert len(node.machine.neighbours) == limits.GOSSIP_ACTIVE_MAX
    assert AUTHOR in node.machine.neighbours


def test_who_is_welcomed_after_others_came_in_takes_the_place_of_one_of_them() -> None:
    node = Node()
    asked, *_ = [
        output.peer
        for output in node.do(Candidates(tuple(peer_id(number) for number in range(50, 60))))
        if isinstance(output, Open)
    ]
    node.do(Opened(asked))
    for number in range(100, 98 + limits.GOSSIP_ACTIVE_MAX):
        node.hear(Join(urgent=False), peer_id(number))
    assert len(node.machine.neighbours) == limits.GOSSIP_ACTIVE_MAX
    outputs = node.hear(Welcome(), asked)
    assert asked in node.machine.neighbours
    assert len(node.machine.neighbours) == limits.GOSSIP_ACTIVE_MAX
    assert [type(output) for output in outputs if isinstance(output, Close)] == [Close]


def test_an_idle_node_rings_a_few_times_a_minute() -> None:
    node = Node()
    node.do(Candidates(tuple(peer_id(number) for number in range(100, 112))))
    for number in range(100, 112):
        node.hear(Join(urgent=False), peer_id(number))
    node.wait(60)
    rings = 0
    for _ in range(100):
        if node.machine.deadline > 120:
            break
        rings += 1
        node.now = node.machine.deadline
        node.do(Alarm())
    assert rings <= 24
