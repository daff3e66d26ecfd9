"""What an inviter decides: who may come in with which secret, and the certificate that it gets."""

from __future__ import annotations

from mesh.admission.credentials import Credentials
from mesh.admission.invites import INVITES_FILE, SECRET_BYTES, Invites, Verdict
from protocols.certificates import encode_chain
from protocols.errors import Refused
from protocols.ids import PeerId
from protocols.seams import Clock, Disk, Randomness


class Inviting:
    """The invites of one node, kept on disk."""

    def __init__(self, papers: Credentials, clock: Clock, disk: Disk, randomness: Randomness) -> None:
        self._papers = papers
        self._clock = clock
        self._disk = disk
        self._randomness = randomness
        self._invites = Invites.decode(disk.read(INVITES_FILE))

    @property
    def open_s(self) -> float:
        """How much longer some invite is valid; below 0 if none is."""
        now_s = self._clock.wall()
        return self._invites.open_until_s(now_s) - now_s

    def make(self, uses: int, ttl_s: float) -> tuple[bytes, int]:
        """A secret and its expiry. Raises `UserError`: senseless figures, too many outstanding, or no right to invite."""
        self._papers.check_may_invite()
        secret = self._randomness.token_bytes(SECRET_BYTES)
        expires_s = self._invites.make(secret, uses, ttl_s, self._clock.wall())
        self._disk.write(INVITES_FILE, self._invites.encode())
        return secret, expires_s

    def admit(self, peer: PeerId, secret: bytes, *, has_room: bool) -> bytes | str:
        """The encoded chain of a new member, or the reason of a `JoinRefused`."""
        known = self._papers.door.chain_of(peer)
        if known is not None:  # it lost the answer to its first request, which took a use already
            return encode_chain(known)
        reason = self._reason_to_refuse(peer, secret, has_room=has_room)
        return self._papers.issue(peer) if reason is None else reason

    def _reason_to_refuse(self, peer: PeerId, secret: bytes, *, has_room: bool) -> str | None:
        """Uses the invite if there is none."""
        if self._papers.is_revoked(peer):
            return "revoked"
        if not has_room:
            return "full"
        try:
            self._papers.check_may_invite()
        except Refused:
            return "powerless"
        verdict = self._invites.redeem(secret, self._clock.wall())
        if verdict is not Verdict.ACCEPTED:
            return str(verdict.value)
        self._disk.write(INVITES_FILE, self._invites.encode())
        return None
