"""From hints to what the network learns: who is tried, how often, and what a liar gets."""

from __future__ import annotations

import trio
import trio.testing

from mesh.directory.bootstrap import Hint, entry_text
from mesh.directory.discovery import Discovery
from protocols import limits
from protocols.errors import Overloaded
from protocols.ids import PeerId
from protocols.membership import Contact
from simulations.network.internet import VirtualWorld
from tests.mesh.directory.test_bootstrap import HERE, STATIC, THERE, Zone
from tests.mesh.members.people import ONE, TWO, contact


class Rig:
    """A node whose network only notes what it learns."""

    def __init__(self, *entries: str, known: tuple[Contact, ...] = (), lonely: bool = True) -> None:
        self.network = VirtualWorld().network()
        self.zone = Zone({"b.example": [entry_text(ONE, HERE, STATIC)]})
        self.known = {each.peer: each for each in known}
        self.lonely = lonely
        self.learnt: list[Contact] = []
        self.tried: list[PeerId] = []
        self.network.learn = self.learnt.append  # type: ignore[method-assign]
        self.discovery = Discovery(
            self.network, self.zone, entries, self.known.get, lambda: self.lonely, self.tried.append
        )


async def test_a_lonely_node_asks_its_bootstrap_names_until_it_has_company(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig("/dnsaddr/b.example", entry_text(TWO, THERE, None))
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.discovery.run)
        await trio.sleep(1)
        assert rig.learnt == [Contact(ONE, STATIC, (HERE,), ())], "of the other no static is known"
        await trio.sleep(2 * limits.BOOTSTRAP_RETRY_S)
        assert rig.tried == [ONE] * 3
        rig.lonely = False
        await trio.sleep(3600)
        assert rig.tried == [ONE] * 3
        nursery.cancel_scope.cancel()


async def test_without_entries_nothing_is_asked(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    await rig.discovery.run()
    assert not rig.zone.asked


def test_a_member_that_moved_on_the_link_is_found_once_per_address() -> None:
    known = contact(ONE, 5)
    rig = Rig(known=(known,), lonely=False)
    for _ in range(100):
        rig.discovery.hear(Hint(ONE, (HERE,), (), STATIC))
    assert [each.control for each in rig.learnt] == [(*known.control, HERE)]
    assert rig.learnt[0].static == known.static, "a liar on the link changes no key"
    assert rig.discovery.counts == {"taken": 1, "ignored": 99}
    rig.known[ONE] = contact(ONE, 6, port=9)
    rig.discovery.hear(Hint(ONE, (HERE,), (), STATIC))
    assert len(rig.learnt) == 2, "its newer contact replaced what the network had learnt"


def test_invented_peers_on_the_link_are_nothing_to_a_node_that_has_company() -> None:
    rig = Rig(lonely=False)
    for number in range(1000):
        rig.discovery.hear(Hint(PeerId(f"12D3KooW{number:044}"), (HERE,), (), STATIC))
    rig.discovery.hear(Hint(rig.network.peer, (HERE,), (), STATIC))
    assert (rig.learnt, rig.tried) == ([], [])


def test_a_flood_while_alone_is_bounded_by_the_networks_table() -> None:
    def full(_: Contact) -> None:
        raise Overloaded("no room")

    rig = Rig()
    rig.network.learn = full  # type: ignore[method-assign]
    rig.discovery.hear(Hint(ONE, (HERE,), (), STATIC))
    assert (rig.tried, rig.discovery.counts["no room"]) == ([], 1)
