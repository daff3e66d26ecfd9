"""Identities, networks and chains for tests."""

from __future__ import annotations

from msgspec.structs import replace

from mesh.admission.certificates import found, issue
from mesh.admission.identity import Identity, identity_from_keys
from mesh.admission.signatures import sign_statement
from protocols.certificates import CERTIFICATE_DOMAIN, Certificate, Chain, Right
from simulations.machine.clock import EPOCH_S, SeededRandomness

NOW_S = EPOCH_S
YEAR_S = 365 * 24 * 3600.0


def identity(number: int) -> Identity:
    return identity_from_keys(bytes([number]) * 32, bytes([100 + number]) * 32, NOW_S)


ADA, BOB, CAT, DAN, EVE, FAY = (identity(number) for number in range(1, 7))
ROOT = found(ADA, SeededRandomness(1), NOW_S)
NETWORK = ROOT[0].network


def below(
    own: Chain, sponsor: Identity, peer: Identity, rights: Right = Right.SPONSOR, now_s: float = NOW_S
) -> Chain:
    return issue(sponsor, own, peer.peer, rights, SeededRandomness(7), now_s)


def signed(sponsor: Identity, certificate: Certificate, /, **changes: object) -> Certificate:
    """A certificate as somebody could make it who does not keep the rules."""
    changed = replace(certificate, **changes)
    return replace(changed, signature=sign_statement(sponsor, CERTIFICATE_DOMAIN, changed.signed()))


BOBS = below(ROOT, ADA, BOB)
CATS = below(BOBS, BOB, CAT)
