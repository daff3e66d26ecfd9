"""The table of what was refused: what is in it, under which name, and what is not."""

from __future__ import annotations

from collections import Counter

from node.faults import GOSSIP, Faults


def test_what_happened_is_counted_under_the_place_where_it_was_seen() -> None:
    network, gossip = Counter({"Unauthenticated": 2}), Counter({"forged": 3, "cut_off": 1, "duplicate": 9})
    faults = Faults()
    faults.add("", lambda: network)
    faults.add("gossip", lambda: gossip, GOSSIP)
    assert faults.all() == {"Unauthenticated": 2, "gossip forged": 3, "gossip cut off": 1}
    network["Malformed"] += 1
    assert faults.all()["Malformed"] == 1


def test_what_never_happened_is_not_told_and_one_name_is_added_up() -> None:
    faults = Faults()
    faults.add("book", lambda: {"not written": 0})
    faults.add("", lambda: {"Overloaded": 1})
    faults.add("", lambda: {"Overloaded": 2})
    assert faults.all() == {"Overloaded": 3}
