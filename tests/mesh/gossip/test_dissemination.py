"""What the trees remember of bundles that went by."""

from __future__ import annotations

from mesh.gossip.dissemination import Tree
from protocols import limits
from protocols.gossip import BundleId, Push
from protocols.ids import PeerId

AUTHOR, LINK = PeerId("author"), PeerId("link")


def bundle(number: int) -> BundleId:
    return BundleId(number.to_bytes(16, "big"))


def spread(tree: Tree, number: int, now: float) -> None:
    tree.spread(Push(1, b"body", b"signature"), bundle(number), AUTHOR, LINK, now)


def remembered(tree: Tree, count: int) -> int:
    return sum(tree.is_recent(bundle(number)) for number in range(count))


def test_an_id_is_remembered_for_a_while_however_little_is_said() -> None:
    tree = Tree()
    for number in range(1000):
        spread(tree, number, now=float(number))
    assert remembered(tree, 1000) == limits.GOSSIP_RECENT_S + 1
    assert tree.is_recent(bundle(999))


def test_no_more_ids_are_remembered_than_there_is_room_for_however_much_is_said() -> None:
    tree, count = Tree(), limits.GOSSIP_RECENT_MAX + 100
    for number in range(count):
        spread(tree, number, now=1.0)
    assert remembered(tree, count) == limits.GOSSIP_RECENT_MAX
    assert not tree.is_recent(bundle(99))
