"""What placement needs to know of the members of the mesh."""

from __future__ import annotations

from typing import Protocol

from mesh.feed import Subscription
from mesh.members.membership import MemberEvent
from protocols.ids import PeerId
from protocols.membership import Contact


class Members(Protocol):
    """Implemented by `mesh.members.driver.Members`."""

    def members(self) -> tuple[Contact, ...]:
        """Everybody who belongs to the network, whether up or not."""

    def is_up(self, peer: PeerId) -> bool: ...

    def subscribe(self) -> Subscription[MemberEvent]:
        """All changes from this call on."""
