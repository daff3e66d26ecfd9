"""What hints lead to: bootstrap addresses while the node is alone, and what is heard on the link at any time.

    discovery = Discovery(network, names, entries, known, is_lonely, try_peer)
    await nursery.start(discovery.run)
    mdns.run(discovery.hear)

The rule of the file: a hint ends in `Network.learn`, and the handshake proves who is there. Unknown peers are taken only while the
node is alone or joining, and forgotten by the network before members are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import structlog
import trio

from mesh.directory.bootstrap import Hint, Names, resolve_entries, take_hint
from protocols import limits
from protocols.errors import Overloaded
from protocols.ids import PeerId, shortened
from protocols.membership import Contact
from protocols.seams import Network

log = structlog.get_logger()


class Discovery:
    """`known` is what the address book has of a peer, `is_lonely` whether no member is up or the node is joining, and
    `try_peer` is told whom the network has just learnt to reach. `counts` tells what became of hints."""

    def __init__(
        self,
        network: Network,
        names: Names | None,
        entries: Sequence[str],
        known: Callable[[PeerId], Contact | None],
        is_lonely: Callable[[], bool],
        try_peer: Callable[[PeerId], None],
    ) -> None:
        self._network = network
        self._names = names
        self._entries = tuple(entries)
        self._known = known
        self._is_lonely = is_lonely
        self._try_peer = try_peer
        self._taken: dict[PeerId, Contact] = {}
        self.counts: Counter[str] = Counter()

    def hear(self, hint: Hint) -> None:
        """One hint, of whatever origin."""
        if hint.peer == self._network.peer:
            return
        contact = take_hint(hint, self._known(hint.peer), is_wanted=self._is_lonely())
        # The same announcement comes again and again; a contact that its owner made anew is another one.
        if contact is None or self._taken.get(hint.peer) == contact:
            self.counts["ignored"] += 1
            return
        try:
            self._network.learn(contact)
        except Overloaded:
            self.counts["no room"] += 1
            return
        if len(self._taken) >= limits.MEMBERS_MAX:
            self._taken.pop(next(iter(self._taken)))
        self._taken[hint.peer] = contact
        self.counts["taken"] += 1
        log.debug("an address was heard of", peer=shortened(hint.peer), control=contact.control)
        self._try_peer(hint.peer)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask for the bootstrap entries as long as the node is alone, every `BOOTSTRAP_RETRY_S`, until cancelled."""
        task_status.started()
        while self._entries and self._names is not None:
            if self._is_lonely():
                self._taken.clear()  # so that the same addresses are tried again
                for hint in await resolve_entries(self._entries, self._names):
                    self.hear(hint)
            await trio.sleep(limits.BOOTSTRAP_RETRY_S)
