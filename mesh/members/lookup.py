"""Where a member is that can't be reached with what is known of it: another member is asked, once for each such contact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from mesh.members.errands import Errands
from protocols.ids import PeerId
from protocols.membership import Contact, Whereabouts, WhereIs

log = structlog.get_logger()

ASKED_MAX: Final = 3
OUT_OF_TOUCH: Final = (
    "no member is where it was, and none is left to ask: if it stays so, "
    "join again with a new invite ('weft up --join INVITE')"
)


class LookUp:
    """Of one node. `known` gives the contacts of all members, `ups` who of them is up."""

    def __init__(
        self, errands: Errands, known: Callable[[], tuple[Contact, ...]], ups: Callable[[], list[PeerId]]
    ) -> None:
        self._errands = errands
        self._known = known
        self._ups = ups
        self._asked: dict[PeerId, int] = {}  # about members, with the sequence of the contact that had failed
        self._is_lost = False

    async def newer_contact(self, peer: PeerId) -> Contact | None:
        """After a dial has failed: what others know better, if anything."""
        contacts = {contact.peer: contact for contact in self._known()}
        others = [other for other in self._ups() if other != peer]
        if peer not in contacts:
            return None
        if not others:
            self._complain()
            return None
        self._is_lost = False
        sequence = contacts[peer].sequence
        if self._asked.get(peer) == sequence:
            return None
        self._asked[peer] = sequence
        for other in others[:ASKED_MAX]:
            match await self._errands.ask(other, WhereIs(peer)):
                case Whereabouts(found) if found and found.peer == peer and found.sequence > sequence:
                    return found
        return None

    def _complain(self) -> None:
        if not self._is_lost and not self._ups():
            self._is_lost = True
            log.warning(OUT_OF_TOUCH)
