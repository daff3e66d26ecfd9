"""Who has lost membership: of every issuer its newest list, bounded, kept on disk.

A list counts for peers in whose chain its issuer stands, so nobody can shut out whom it has not let in. Lists come from
any member and are checked by their signature; a replayed older one changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from mesh.admission.certificates import verify_chain
from mesh.admission.signatures import Signer, is_statement_of, sign_statement
from protocols import limits
from protocols.certificates import REVOCATIONS_DOMAIN, Chain, Revocations
from protocols.errors import LocalFault, Overloaded, Refused, Unauthenticated
from protocols.ids import NetworkId, PeerId

FILE: Final = "revocations.msgpack"

_decoder: Final = msgspec.msgpack.Decoder(tuple[Revocations, ...])


class RevocationTable:
    """The lists by issuer. The caller stores `encode()` after every change."""

    def __init__(self, lists: tuple[Revocations, ...] = ()) -> None:
        self._lists = {each.issuer: each for each in lists}
        self._revoked = {each.issuer: frozenset(each.revoked) for each in lists}

    @classmethod
    def decode(cls, data: bytes | None) -> RevocationTable:
        """An empty one if there is no file; raises `LocalFault` for a damaged one, which must not be forgotten."""
        try:
            return cls(_decoder.decode(data) if data is not None else ())
        except msgspec.DecodeError as error:
            raise LocalFault(
                f"{FILE} is damaged ({error}); restore it, or remove it and the members tell it again"
            ) from error

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(tuple(self))

    def __iter__(self) -> Iterator[Revocations]:
        return iter(tuple(self._lists.values()))

    def of(self, issuer: PeerId) -> Revocations | None:
        return self._lists.get(issuer)

    def is_revoked(self, peer: PeerId, sponsors: Sequence[PeerId]) -> bool:
        """Whether one of its sponsors has revoked that peer."""
        return any(peer in self._revoked.get(sponsor, ()) for sponsor in sponsors)

    def revoke(self, issuer: Signer, own: Chain, peer: PeerId, now_s: float) -> bool:
        """Add a peer to this node's own list; False if it is on it. Raises `Refused` when the list is full."""
        present = self._lists.get(issuer.peer)
        revoked = present.revoked if present else ()
        if peer in revoked:
            return False
        if len(revoked) >= limits.MEMBERS_MAX:
            raise Refused(f"This node has revoked {len(revoked)} members, and its list is full.")
        number = present.number + 1 if present else 1
        self._publish(issuer, own, number, (*revoked, peer), now_s)
        return True

    def renew(self, issuer: Signer, own: Chain, now_s: float) -> None:
        """Sign this node's own list again, if it has one, under a new chain of its own."""
        if present := self._lists.get(issuer.peer):
            self._publish(issuer, own, present.number + 1, present.revoked, now_s)

    def _publish(
        self, issuer: Signer, own: Chain, number: int, revoked: tuple[PeerId, ...], now_s: float
    ) -> None:
        made = Revocations(own[0].network, issuer.peer, number, int(now_s), revoked, own)
        signature = sign_statement(issuer, REVOCATIONS_DOMAIN, made.signed())
        self._keep(msgspec.structs.replace(made, signature=signature))

    def take(self, told: Revocations, network: NetworkId, now_s: float) -> bool:
        """Whether it was news. Raises `Unauthenticated` for what its issuer did not sign or may not, `Overloaded`."""
        known = self._lists.get(told.issuer)
        if known is not None and known.number >= told.number:
            return False
        leaf = verify_chain(told.chain, network, told.issuer, now_s, self.is_revoked)
        if not leaf.may_sponsor:
            raise Unauthenticated("a list of revocations by a member that may not sponsor", told.issuer)
        if not is_statement_of(told.issuer, REVOCATIONS_DOMAIN, told.signed(), told.signature):
            raise Unauthenticated("a list of revocations that its issuer did not sign", told.issuer)
        if known is None and len(self._lists) >= limits.REVOKERS_MAX:
            self._make_room(len(told.chain))
        self._keep(told)
        return True

    def _make_room(self, depth: int) -> None:
        # By the deepest, of whom there may be invented ones: a sponsor can make as many as it likes below itself.
        deepest = max(self._lists.values(), key=lambda each: len(each.chain))
        if len(deepest.chain) <= depth:
            raise Overloaded(
                f"lists of {limits.REVOKERS_MAX} issuers are kept, and there is room for no more"
            )
        del self._lists[deepest.issuer], self._revoked[deepest.issuer]

    def _keep(self, made: Revocations) -> None:
        self._lists[made.issuer] = made
        self._revoked[made.issuer] = frozenset(made.revoked)
