"""The ring of monitors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.liveness.ring import Ring
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
