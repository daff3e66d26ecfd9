"""What this node has on paper: its chain, who was revoked, and the door made of both; kept on disk.

The rule of the file: no I/O but the disk, which is written before anything relies on it.
"""

from __future__ import annotations

from typing import Final

from mesh.admission import revocations
from mesh.admission.belonging import Belonging, write_belonging
from mesh.admission.certificates import check_may_sponsor, expires_s, issue, sponsors_of
from mesh.admission.door import CertificateDoor
from mesh.admission.identity import Identity
from mesh.admission.revocations import RevocationTable
from protocols import limits
from protocols.certificates import (
    Chain,
    Right,
    decode_chain,
    decode_revocations,
    encode_chain,
    encode_revocations,
)
from protocols.errors import Malformed, NotFound, Refused, Unauthenticated, UserError
from protocols.ids import NetworkId, PeerId, shortened
from protocols.seams import Clock, Disk, Randomness

BETTER_S: Final = 24 * 3600.0  # a renewed certificate that lasts less than this longer is not worth taking


class Credentials:
    """Of one node in one network."""

    def __init__(
        self, belonging: Belonging, identity: Identity, clock: Clock, disk: Disk, randomness: Randomness
    ) -> None:
        self._network_id: NetworkId = belonging.network
        self._identity = identity
        self._clock = clock
        self._disk = disk
        self._randomness = randomness
        self._table = RevocationTable.decode(disk.read(revocations.FILE))
        self._chain = belonging.chain
        self.door: Final = CertificateDoor(belonging.network, belonging.chain, clock, self._table)

    # This node's own -------------------------------------------------------------------------------------------------

    @property
    def chain(self) -> Chain:
        return self._chain

    @property
    def is_member(self) -> bool:
        """Whether its own chain makes it a member now, by its own clock and what it knows."""
        return self.door.is_valid(self._identity.peer, self._chain)

    @property
    def left_s(self) -> float:
        """How long its chain is still valid."""
        return expires_s(self._chain) - self._clock.wall() if self._chain else 0.0

    @property
    def wants_renewal(self) -> bool:
        return self.left_s < limits.RENEW_BEFORE_S or len(self._chain) >= limits.CHAIN_MAX

    def ask_as_stranger(self) -> None:
        """Show nothing, because a certificate that is no longer good would be refused outright."""
        self.door.own = ()

    def show_again(self) -> None:
        self.door.own = self._chain

    def take_chain(self, data: bytes) -> None:
        """From the inviter: this node is a member from now on. Raises `UserError` if that chain would not be believed."""
        try:
            chain = decode_chain(data)
            self.door.check(self._identity.peer, chain)
        except (Malformed, Unauthenticated) as error:
            raise UserError(
                f"The inviter sent a certificate that this node can't use ({error}): "
                "check the clocks of both, then make a new invite with 'weft invite'."
            ) from error
        self._adopt(chain)

    def take_renewed(self, data: bytes) -> bool:
        """Whether it was better than what there is. Raises `Malformed` and `Unauthenticated`."""
        chain = decode_chain(data)
        self.door.check(self._identity.peer, chain)
        is_longer = expires_s(chain) > expires_s(self._chain) + BETTER_S
        is_nearer = len(self._chain) >= limits.CHAIN_MAX > len(chain) and expires_s(
            chain
        ) + BETTER_S > expires_s(self._chain)
        if is_longer or is_nearer:
            self._adopt(chain)
        return is_longer or is_nearer

    def _adopt(self, chain: Chain) -> None:
        write_belonging(self._disk, Belonging(self._network_id, is_joined=True, chain=chain))
        self._chain = self.door.own = chain
        self._table.renew(self._identity, chain, self._clock.wall())

    # Others' -----------------------------------------------------------------------------------------------------------

    def check_may_invite(self) -> None:
        """Raises `Refused` with what to do instead."""
        check_may_sponsor(self._chain)

    def issue(self, peer: PeerId, rights: Right = Right.SPONSOR) -> bytes:
        """A chain below this node's own, known to its door from now on. Raises `Refused`, `Unauthenticated`."""
        made = issue(self._identity, self._chain, peer, rights, self._randomness, self._clock.wall())
        shown = encode_chain(made)
        self.door.know(peer, shown)
        return shown

    def renew(self, peer: PeerId) -> bytes:
        """A new chain for a member with the rights that it has; empty if this node may not give one."""
        chain = self.door.chain_of(peer)
        try:
            return self.issue(peer, Right(chain[0].rights)) if chain else b""
        except (Refused, Unauthenticated):
            return b""

    def is_revoked(self, peer: PeerId) -> bool:
        """Whether a new chain for that peer below this node's own would be worth nothing."""
        return self._table.is_revoked(peer, (self._identity.peer, *sponsors_of(self._chain)))

    def sponsors(self, peers: list[PeerId]) -> list[PeerId]:
        """Those of `peers` who could renew this node's certificate, the best first."""
        found = []
        for peer in peers:
            chain = self.door.chain_of(peer)
            if chain is None or not chain[0].may_sponsor or len(chain) >= limits.CHAIN_MAX:
                continue
            if self._identity.peer not in sponsors_of(chain):
                found.append((len(chain), -expires_s(chain), peer))
        return [peer for _, _, peer in sorted(found)]

    # Revoking ----------------------------------------------------------------------------------------------------------

    def revoke(self, peer: PeerId) -> tuple[PeerId, ...]:
        """On disk and at the door; gives the members whom it had sponsored, who are none either. Raises `UserError`."""
        own, chain = self._identity.peer, self.door.chain_of(peer)
        is_founder = bool(self._chain) and self._chain[-1].peer == own
        if peer == own:
            raise Refused("A node does not revoke itself: stop it with 'weft down' and remove its home.")
        if chain is None and not is_founder:
            raise NotFound(
                f"No valid certificate of {shortened(peer)} is known here: ask for it to be revoked on the founder, "
                f"{shortened(self._chain[-1].peer) if self._chain else 'of this network'}."
            )
        if chain is not None and own not in sponsors_of(chain):
            able = ", ".join(map(shortened, sponsors_of(chain)))
            raise Refused(
                f"{shortened(peer)} was not let in by this node: run 'weft revoke' on one of {able}."
                if able
                else f"{shortened(peer)} founded this network, and nobody can revoke it."
            )
        below = self.door.below(peer)
        self._table.revoke(self._identity, self._chain, peer, self._clock.wall())
        self._store()
        return below

    def revocations(self) -> bytes:
        """This node's own list, empty if it has revoked nobody."""
        own = self._table.of(self._identity.peer)
        return encode_revocations(own) if own else b""

    def all_revocations(self) -> tuple[bytes, ...]:
        return tuple(map(encode_revocations, self._table))

    def take_revocations(self, body: bytes) -> bool:
        """Whether it was news. Raises `RemoteFault`, `Overloaded` and `LocalFault`."""
        is_news = self._table.take(decode_revocations(body), self._network_id, self._clock.wall())
        if is_news:
            self._store()
        return is_news

    def _store(self) -> None:
        self._disk.write(revocations.FILE, self._table.encode())
