"""The ring of monitors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.liveness.ring import Ring
from protocols.ids import PeerId
from simulations.network.internet import peer_id

PEERS = [peer_id(number) for number in range(40)]


@given(st.sets(st.sampled_from(PEERS), min_size=1), st.integers(1, 8))
def test_a_node_monitors_exactly_those_whose_monitor_it_is(peers: set, count: int) -> None:  # type: ignore[type-arg]
    ring = Ring(peers)
    for own in peers:
        subjects = {peer for peer in peers if own in ring.successors(peer, count)}
        assert subjects == set(ring.predecessors(own, count))
        assert own not in subjects
        assert len(subjects) == min(count, len(peers) - 1)


def test_who_is_not_on_the_ring_has_monitors_as_well() -> None:
    ring = Ring(PEERS[1:])
    assert ring.successors(PEERS[0], 3) == Ring(PEERS).successors(PEERS[0], 3)
    assert PEERS[0] not in ring
    assert PEERS[1] in ring
    assert len(ring) == 39


def test_a_ring_of_one_and_of_none() -> None:
    assert Ring(PEERS[:1]).successors(PEERS[0], 3) == []
    assert Ring(PEERS[:1]).predecessors(PEERS[0], 3) == []
    assert Ring(()).successors(PEERS[0], 3) == []
    assert PEERS[0] not in Ring(())


def test_when_one_goes_others_keep_most_of_their_monitors() -> None:
    whole, without = Ring(PEERS), Ring(PEERS[1:])
    changed = [peer for peer in PEERS[1:] if whole.successors(peer, 3) != without.successors(peer, 3)]
    assert len(changed) == 3


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(PEERS[:9]))))
def test_a_ring_to_which_nodes_are_added_and_taken_from_is_as_if_made_anew(
    changes: list[tuple[bool, PeerId]],
) -> None:
    ring, there = Ring(PEERS[:3]), set(PEERS[:3])
    for is_added, peer in changes:
        (ring.add if is_added else ring.discard)(peer)
        (there.add if is_added else there.discard)(peer)
    assert len(ring) == len(there)
    assert ring.successors(PEERS[20], 20) == Ring(there).successors(PEERS[20], 20)
