"""Virtual time, and the ways between nodes."""

from __future__ import annotations

from random import Random

from simulations.scenarios.script import LinkSpec, NodeSpec
from simulations.world.agenda import Agenda
from simulations.world.ways import RESUME_MS_MAX, Ways

NODES = (NodeSpec("n0", zone="east"), NodeSpec("n1", zone="west"), NodeSpec("n2", zone="west"))


def test_things_happen_by_time_and_then_in_the_order_in_which_they_were_asked_for() -> None:
    agenda, happened = Agenda(), list[str]()
    agenda.at(5, happened.append, "b")
    agenda.at(5, lambda: agenda.at(5, happened.append, "due at once"))
    agenda.at(2, happened.append, "a")
    agenda.at(5, happened.append, "c")
    agenda.at(9, happened.append, "too late")
    agenda.run(8)
    assert happened == ["a", "b", "c", "due at once"]
    assert agenda.now_ms == 8


def arrivals(
    links: list[LinkSpec], count: int = 1, source: int = 0, target: int = 1
) -> list[tuple[int, int]]:
    agenda, come = Agenda(), list[tuple[int, int]]()
    ways = Ways(agenda, Random(1), NODES, links)
    for number in range(count):
        ways.carry(source, target, 1000, lambda number=number: come.append((number, agenda.now_ms)))
    agenda.run(100_000)
    return come


def test_the_last_link_that_fits_a_pair_counts_in_both_directions() -> None:
    links = [LinkSpec(latency_ms=7), LinkSpec("zone:west", "zone:east", 40), LinkSpec("n2", "*", 90)]
    assert arrivals(links) == arrivals(links, source=1, target=0) == [(0, 40)]
    assert arrivals(links, source=1, target=2) == [(0, 90)]


def test_messages_stay_in_order_and_what_is_lost_holds_up_what_follows() -> None:
    come = arrivals([LinkSpec(latency_ms=5, jitter_ms=50, loss=0.3)], count=50)
    assert [number for number, _ in come] == list(range(50))
    assert come[-1][1] >= 200


def test_bytes_take_their_time() -> None:
    assert arrivals([LinkSpec(latency_ms=1, bandwidth_mbit=0.8)]) == [(0, 11)]


def test_a_cut_holds_what_is_sent_into_it_and_only_one_way() -> None:
    agenda, come = Agenda(), list[tuple[str, int]]()
    ways = Ways(agenda, Random(1), NODES, [LinkSpec(latency_ms=5)])
    ways.cut(0, 1)
    ways.cut(0, 1)
    for name in ("first", "second"):
        ways.carry(0, 1, 1, lambda name=name: come.append((name, agenda.now_ms)))
    ways.carry(1, 0, 1, lambda: come.append(("back", agenda.now_ms)))
    agenda.run(1000)
    ways.mend(0, 1)
    assert ways.is_cut(0, 1), "there were two cuts"
    ways.mend(0, 1)
    assert ways.is_whole
    agenda.run(1000 + RESUME_MS_MAX)
    assert [name for name, _ in come] == ["back", "first", "second"]
    assert 1000 <= come[1][1] <= 2000, "as long as the cut at most"


def test_a_changed_link_is_what_it_was_when_it_is_restored() -> None:
    ways = Ways(Agenda(), Random(1), NODES, [LinkSpec(latency_ms=5)])
    slow = LinkSpec(latency_ms=300)
    ways.change(1, None, slow)
    ways.change(0, 2, slow)
    assert [ways.link(*way).latency_ms for way in ((0, 1), (2, 1), (2, 0))] == [300, 300, 300]
    ways.restore(1, None, slow)
    assert [ways.link(*way).latency_ms for way in ((0, 1), (2, 1), (2, 0))] == [5, 5, 300]
