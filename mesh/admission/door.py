"""The door of a member: certificates decide who gets in.

Whoever shows a chain is a member or is refused. Whoever shows nothing is a member if this node knows a chain for it, as the
inviter does of whom it has just let in: the handshake has proved who it is, and a certificate is no secret. Otherwise it
is a stranger, and welcome only while an invite of this node is valid.

A network has `MEMBERS_MAX` members at most. When it is full, newcomers are refused and members stay: otherwise one sponsor
could push out everybody with certificates that it issues by the thousand.
"""

from __future__ import annotations

import math
from typing import Final

from mesh.admission.certificates import expires_s, sponsors_of, still_holds, verify_chain, verify_shown
from mesh.admission.revocations import RevocationTable
from protocols import limits
from protocols.certificates import Chain, encode_chain
from protocols.errors import Unauthenticated
from protocols.ids import NetworkId, PeerId
from protocols.seams import Clock

FORGET_PAUSE_S: Final = (
    10.0  # between two looks for chains that are worth nothing any more, some ms for all of them
)


class CertificateDoor:
    """Implements `protocols.seams.Door`. `own` is this node's chain, empty while it asks for one."""

    def __init__(self, network_id: NetworkId, own: Chain, clock: Clock, revocations: RevocationTable) -> None:
        self.own = own
        self.welcomes_strangers = False
        self._network_id = network_id
        self._clock = clock
        self._revocations = revocations
        self._chains: dict[PeerId, Chain] = {}
        self._forget_at = -math.inf

    def show(self) -> bytes:
        return encode_chain(self.own)

    def judge(self, peer: PeerId, shown: bytes) -> bool:
        known = self.chain_of(peer)
        if not shown:
            if known is None and not self.welcomes_strangers:
                self.check(peer, self._chains.get(peer, ()))
            return known is not None
        try:
            self.know(peer, shown)
        except Unauthenticated:
            if known is None:
                raise
        return True

    def know(self, peer: PeerId, shown: bytes) -> Chain:
        """Remember the chain of a member, however it came here. Raises `Unauthenticated`."""
        chain = verify_shown(shown, self._network_id, peer, self._clock.wall(), self._revocations.is_revoked)
        known = self._chains.get(peer)
        if known is None and not self.has_room(peer):
            raise Unauthenticated(
                f"this network has {limits.MEMBERS_MAX} members, and no room for more until one of them is revoked",
                peer,
            )
        if known is not None and expires_s(known) > expires_s(chain) and self.is_valid(peer, known):
            chain = known
        self._chains[peer] = chain
        return chain

    def has_room(self, peer: PeerId) -> bool:
        """Whether it may become a member: nobody who is one has to go for a newcomer, whoever sponsors it."""
        if peer in self._chains or len(self._chains) < limits.MEMBERS_MAX:
            return True
        now = self._clock.monotonic()
        if now >= self._forget_at:
            self._forget_at = now + FORGET_PAUSE_S
            self._chains = {each: chain for each, chain in self._chains.items() if self.is_valid(each, chain)}
        return len(self._chains) < limits.MEMBERS_MAX

    def chain_of(self, peer: PeerId) -> Chain | None:
        """The chain that makes a peer a member now, as far as this node knows."""
        chain = self._chains.get(peer)
        if chain is None or not still_holds(chain, self._clock.wall(), self._revocations.is_revoked):
            return None
        return chain

    def sponsor_of(self, peer: PeerId) -> PeerId | None:
        """Who let a member in; None for the founder, and if it is not known."""
        chain = self.chain_of(peer)
        return chain[0].sponsor if chain is not None and len(chain) > 1 else None

    def check(self, peer: PeerId, chain: Chain) -> None:
        """Raises `Unauthenticated` with a sentence unless the chain makes a peer a member now."""
        verify_chain(chain, self._network_id, peer, self._clock.wall(), self._revocations.is_revoked)

    def is_valid(self, peer: PeerId, chain: Chain) -> bool:
        try:
            self.check(peer, chain)
        except Unauthenticated:
            return False
        return True

    def below(self, peer: PeerId) -> tuple[PeerId, ...]:
        """The members, as far as they are known here, in whose chains a peer stands as a sponsor."""
        return tuple(member for member, chain in self._chains.items() if peer in sponsors_of(chain))

    def orphans(self) -> frozenset[PeerId]:
        """Those who were members below a sponsor that no longer is one."""
        return frozenset(
            member
            for member, chain in self._chains.items()
            for depth, above in enumerate(chain[1:], 1)
            if self._revocations.is_revoked(above.peer, sponsors_of(chain[depth:]))
        )

    def banned(self) -> frozenset[PeerId]:
        """Those who were members and of whom one of their sponsors says that they no longer are."""
        return frozenset(
            member
            for member, chain in self._chains.items()
            if self._revocations.is_revoked(member, sponsors_of(chain))
        )
