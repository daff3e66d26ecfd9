"""Who may connect and who may open what: the whole policy of a network, around the door that the node gives it.

Deny by default: without a door nobody gets in; on the data plane and to whoever is dialled only membership counts; a
stranger that the door lets in gets the stream kinds that are open to strangers, and no others.
"""

from __future__ import annotations

from protocols.errors import Unauthenticated
from protocols.ids import PeerId
from protocols.seams import Door
from protocols.streams import Plane, StreamKind


class Admission:
    def __init__(self) -> None:
        self._door: Door | None = None

    def guard(self, door: Door) -> None:
        self._door = door

    def show(self) -> bytes:
        return self._door.show() if self._door else b""

    def judge(self, peer: PeerId, shown: bytes, plane: Plane, *, dialled: bool) -> bool:
        """Whether it is a member, or a stranger that may stay. Raises `Unauthenticated` with a sentence."""
        if self._door is None:
            raise Unauthenticated("this node is not ready to let anybody in", peer)
        is_member = self._door.judge(peer, shown)
        if not is_member and (dialled or plane is not Plane.CONTROL):
            raise Unauthenticated("it showed no certificate: it needs an invite", peer)
        return is_member


def may_open(kind: StreamKind, *, is_member: bool) -> bool:
    return is_member or kind.for_strangers
