"""Who may connect and who may open what: the whole policy of the host, as a pure table.

Until certificates exist, members are exactly the ids that a member vouched for. Strangers get the control plane alone, only
while they are welcome, and only the stream kinds that are open to them.
"""

from __future__ import annotations

from protocols.ids import PeerId
from protocols.streams import Plane, StreamKind


class Admission:
    def __init__(self) -> None:
        self.members: frozenset[PeerId] = frozenset()
        self.strangers_welcome = False

    def is_member(self, peer: PeerId) -> bool:
        return peer in self.members

    def may_connect(self, peer: PeerId, plane: Plane) -> bool:
        return self.is_member(peer) or (self.strangers_welcome and plane is Plane.CONTROL)

    def may_open(self, peer: PeerId, kind: StreamKind) -> bool:
        return self.is_member(peer) or kind.for_strangers
