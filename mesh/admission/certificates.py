"""Issuing certificates and judging chains of them: who is a member, decided without asking anybody.

Everything about a chain that never changes (who signed what, with which rights, up to which founder) is checked once and
remembered; times and revocations are looked at every time. A refusal is one sentence that names what to do.

An issued certificate never outlasts those above it. So a network outlives its founder's absence by months, not by years:
somebody above has to be there once within that time to renew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

from msgspec.structs import replace

from mesh.admission.signatures import Signer, is_statement_of, sign_statement
from protocols import limits
from protocols.certificates import (
    CERTIFICATE_DOMAIN,
    SERIAL_BYTES,
    Certificate,
    Chain,
    Right,
    decode_chain,
    network_id,
)
from protocols.errors import Malformed, Refused, Unauthenticated
from protocols.ids import NetworkId, PeerId, shortened
from protocols.seams import Randomness

NEW_INVITE: Final = "it needs a new invite ('weft invite' on a member)"

IsRevoked = Callable[[PeerId, Sequence[PeerId]], bool]
"""Whether one of the given sponsors of a peer has revoked it."""


def found(founder: Signer, randomness: Randomness, now_s: float) -> Chain:
    """A new network: the founder's certificate, whose `network` is the network's id."""
    nonce = randomness.token_bytes(SERIAL_BYTES)
    root = Certificate(
        network=network_id(founder.peer, nonce),
        peer=founder.peer,
        sponsor=founder.peer,
        rights=int(Right.SPONSOR),
        serial=nonce,
        issued_s=int(now_s),
        expires_s=int(now_s + limits.ROOT_CERTIFICATE_S),
    )
    return (_sign(founder, root),)


def issue(
    sponsor: Signer, own: Chain, peer: PeerId, rights: Right, randomness: Randomness, now_s: float
) -> Chain:
    """A chain for `peer` below the sponsor's own, valid for a year or as long as that one. Raises `Refused`."""
    check_may_sponsor(own)
    made = Certificate(
        network=own[0].network,
        peer=peer,
        sponsor=sponsor.peer,
        rights=int(rights) & own[0].rights,
        serial=randomness.token_bytes(SERIAL_BYTES),
        issued_s=int(now_s),
        expires_s=min(int(now_s + limits.CERTIFICATE_S), expires_s(own)),
    )
    return (_sign(sponsor, made), *own)


def check_may_sponsor(own: Chain) -> None:
    """Raises `Refused` with what to do instead."""
    if not own or not own[0].may_sponsor:
        raise Refused("This node may not invite others: run 'weft invite' on a member that may.")
    if len(own) >= limits.CHAIN_MAX:
        raise Refused(
            f"This node is {len(own) - 1} invites away from the founder, too far to invite others: "
            f"run 'weft invite' on the node that invited this one ({shortened(own[0].sponsor)})."
        )


def _sign(sponsor: Signer, certificate: Certificate) -> Certificate:
    return replace(certificate, signature=sign_statement(sponsor, CERTIFICATE_DOMAIN, certificate.signed()))


def expires_s(chain: Chain) -> int:
    """When the first of its certificates ends, without the skew that others tolerate."""
    return min(certificate.expires_s for certificate in chain)


def sponsors_of(chain: Chain) -> tuple[PeerId, ...]:
    """All above the leaf, the nearest first."""
    return tuple([certificate.peer for certificate in chain[1:]])


def verify_shown(
    shown: bytes, network: NetworkId, peer: PeerId, now_s: float, is_revoked: IsRevoked
) -> Chain:
    """The chain in what a peer showed, if it makes it a member; raises `Unauthenticated` with a sentence."""
    try:
        chain = decode_chain(shown)
    except Malformed as error:
        raise Unauthenticated(str(error), peer) from error
    verify_chain(chain, network, peer, now_s, is_revoked)
    return chain


def verify_chain(
    chain: Chain, network: NetworkId, peer: PeerId, now_s: float, is_revoked: IsRevoked
) -> Certificate:
    """The leaf, if the chain makes `peer` a member of `network` now; raises `Unauthenticated` with a sentence."""
    fault = _fault_of_bearer(chain, network, peer) or _fault_of_shape(chain)
    if fault is None:
        _check_signatures(chain)
        fault = _fault_of_time(chain, now_s) or _fault_of_revocation(chain, is_revoked)
    if fault is not None:
        raise Unauthenticated(fault, peer)
    return chain[0]


def still_holds(chain: Chain, now_s: float, is_revoked: IsRevoked) -> bool:
    """Whether a chain that was good when it was verified is good now: nothing but time and revocations can change that."""
    return _fault_of_time(chain, now_s) is None and _fault_of_revocation(chain, is_revoked) is None


def _fault_of_bearer(chain: Chain, network: NetworkId, peer: PeerId) -> str | None:
    if not chain:
        return f"it showed no certificate: {NEW_INVITE}"
    if len(chain) > limits.CHAIN_MAX:
        return f"its chain has {len(chain)} certificates, {limits.CHAIN_MAX} are allowed: {NEW_INVITE}"
    if chain[0].peer != peer:
        return f"it showed the certificate of another node ({shortened(chain[0].peer)}): {NEW_INVITE}"
    if chain[0].network != network:
        return (
            f"its certificate is of network {shortened(chain[0].network)} and this one is {shortened(network)}: "
            "start a second node with a home of its own (WEFT_HOME)"
        )
    return None


@lru_cache(maxsize=limits.CHAINS_KEPT_MAX)
def _check_signatures(chain: Chain) -> None:
    """Raises `Unauthenticated`, which is not remembered: what is kept here was paid for with signatures."""
    for one in chain:
        if not is_statement_of(one.sponsor, CERTIFICATE_DOMAIN, one.signed(), one.signature):
            raise Unauthenticated(
                f"a certificate in its chain is forged, its sponsor did not sign it: {NEW_INVITE}",
                chain[0].peer,
            )


def _fault_of_shape(chain: Chain) -> str | None:
    root = chain[-1]
    if not root.is_root:
        return f"its chain ends at {shortened(root.sponsor)}, who did not found this network: {NEW_INVITE}"
    for below, above in pairwise(chain):
        if below.network != root.network or below.sponsor != above.peer:
            return f"its chain does not hang together: {NEW_INVITE}"
        if not above.may_sponsor:
            return f"{shortened(above.peer)} had no right to sponsor it: {NEW_INVITE} that may invite"
        if below.rights & ~above.rights:
            return f"its certificate claims rights that its sponsor lacks: {NEW_INVITE}"
    return None


def _fault_of_time(chain: Chain, now_s: float) -> str | None:
    for certificate in chain:
        early_s, late_s = certificate.issued_s - now_s, now_s - certificate.expires_s
        if max(early_s, late_s) <= limits.CLOCK_SKEW_S:
            continue
        whose = (
            "its certificate"
            if certificate is chain[0]
            else f"the one of its sponsor {shortened(certificate.peer)}"
        )
        if early_s > limits.CLOCK_SKEW_S:
            return (
                f"{whose} begins in the future: its clock is {_span(early_s)} ahead of this one, "
                "set whichever is wrong"
            )
        return (
            f"{whose} ended {_span(late_s)} ago by this clock: "
            f"unless this clock is that far ahead, {NEW_INVITE}"
        )
    return None


def _fault_of_revocation(chain: Chain, is_revoked: IsRevoked) -> str | None:
    sponsors = sponsors_of(chain)
    for depth, certificate in enumerate(chain):
        if is_revoked(certificate.peer, sponsors[depth:]):
            if depth == 0:
                return "its membership was revoked: to come back it needs a new home and a new invite"
            return f"the membership of its sponsor {shortened(certificate.peer)} was revoked: {NEW_INVITE}"
    return None


def _span(seconds: float) -> str:
    for unit, unit_s in (("days", 86_400.0), ("h", 3600.0)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 60:.0f} min"
