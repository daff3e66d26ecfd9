"""What the trees remember of bundles that went by."""

from __future__ import annotations

from mesh.gossip.dissemination import Tree
from protocols import limits
from protocols.gossip import BundleId, Have, Push
from protocols.ids import PeerId

OWN, AUTHOR, LINK = PeerId("m"), PeerId("author"), PeerId("link")
LOWER, HIGHER = PeerId("a"), PeerId("z")


def bundle(number: int) -> BundleId:
    return BundleId(number.to_bytes(16, "big"))


def spread(tree: Tree, number: int, now: float) -> None:
    tree.spread(Push(1, b"body", b"signature"), bundle(number), AUTHOR, LINK, now)


def remembered(tree: Tree, count: int) -> int:
    return sum(tree.is_recent(bundle(number)) for number in range(count))


def test_an_id_is_remembered_for_a_while_however_little_is_said() -> None:
    tree = Tree(OWN)
    for number in range(1000):
        spread(tree, number, now=float(number))
    assert remembered(tree, 1000) == limits.GOSSIP_RECENT_S + 1
    assert tree.is_recent(bundle(999))


def test_no_more_ids_are_remembered_than_there_is_room_for_however_much_is_said() -> None:
    tree, count = Tree(OWN), limits.GOSSIP_RECENT_MAX + 100
    for number in range(count):
        spread(tree, number, now=1.0)
    assert remembered(tree, count) == limits.GOSSIP_RECENT_MAX
    assert not tree.is_recent(bundle(99))


def tree_between(*neighbours: PeerId) -> Tree:
    """That has the links, none of them a branch of the author's, and one bundle that came in four hops."""
    tree = Tree(OWN)
    for peer in (LINK, *neighbours):
        tree.add(peer)
    tree.spread(Push(0, b"body", b"signature"), bundle(0), AUTHOR, LINK, 0.0)
    for peer in neighbours:
        tree.pruned(AUTHOR, peer)
    tree.ring(0.9)
    tree.spread(Push(4, b"body", b"signature"), bundle(1), AUTHOR, LINK, 1.0)
    return tree


def announced(tree: Tree, now: float) -> list[PeerId]:
    return [peer for peers, message in tree.ring(now) if isinstance(message, Have) for peer in peers]


def have(number: int, hops: int) -> Have:
    return Have(bundle(number), bytes([hops]))


FIRST_AT = 1.0 + limits.GOSSIP_ANNOUNCE_S
ECHO_AT = FIRST_AT + limits.GOSSIP_ECHO_S


def test_the_end_with_the_lower_id_announces_first() -> None:
    tree = tree_between(LOWER, HIGHER)
    assert tree.deadline == FIRST_AT
    assert announced(tree, FIRST_AT) == [HIGHER]
    assert announced(tree, ECHO_AT) == [LOWER]
    assert announced(tree, ECHO_AT + 1) == []


def test_what_a_neighbour_has_announced_is_not_announced_back() -> None:
    tree = tree_between(LOWER)
    tree.announced(have(1, hops=4), LOWER, [], FIRST_AT)
    assert announced(tree, ECHO_AT) == []


def test_a_shorter_way_is_announced_to_whoever_has_taken_a_longer_one() -> None:
    tree = tree_between(LOWER)
    tree.announced(have(1, hops=8), LOWER, [], FIRST_AT)
    assert announced(tree, ECHO_AT) == [LOWER]


def test_what_a_lost_neighbour_had_announced_is_announced_to_it_when_it_is_back() -> None:
    tree = tree_between(LOWER)
    tree.announced(have(1, hops=4), LOWER, [], FIRST_AT)
    tree.remove(LOWER)
    tree.add(LOWER)
    assert announced(tree, ECHO_AT) == [LOWER]
