"""`weft revoke`: whom the name means, and what came of it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mesh.members.driver import Members
from node import api
from protocols.errors import NotFound, UserError
from protocols.ids import PeerId
from protocols.membership import PeerIdText


def revoke(members: Members, name_of: Callable[[PeerId], str], name: str) -> api.RevokedMember:
    """Raises `NotFound`, and `UserError` for a name that fits several or a member that this node may not revoke."""
    peer = _find(members, name)
    called = name_of(peer)
    below = members.revoke(peer)
    return api.RevokedMember(peer, called, tuple(api.Member(each, name_of(each), up=False) for each in below))


def _find(members: Members, name: str) -> PeerId:
    """By name, id, or the end of an id; a whole id need not be of a member that is known here."""
    fitting = [each.peer for each in members.members() if each.name == name or each.peer.endswith(name)]
    if len(fitting) > 1:
        raise UserError(f"{name!r} fits {len(fitting)} members: use more of the peer id.")
    if fitting:
        return fitting[0]
    try:
        return msgspec.convert(name, PeerIdText)
    except msgspec.ValidationError:
        raise NotFound(f"no member is called {name!r}: 'weft status' lists them.") from None
