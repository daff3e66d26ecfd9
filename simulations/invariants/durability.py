"""What a node has said it has written is on its disk, and what is on its disk comes back with the next run."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from inference.placement.holding.holdings import HOLDINGS_FILE, Kept, decode_kept
from mesh.admission import belonging, revocations
from mesh.admission.belonging import Belonging
from mesh.admission.revocations import RevocationTable
from mesh.liveness import incarnation
from mesh.liveness.incarnation import Reserved
from node.library import FOLDERS_FILE
from protocols.ids import PeerId
from simulations.invariants.invariant import Breach, always
from simulations.invariants.mesh import Mesh
from simulations.invariants.sight import Sight

LOOK_S = 0.5
UNHEARD = (-1, PeerId(""))  # of a model that nobody has planned yet


@always("S12", "An incarnation is reserved on disk before it is spoken of.", every_s=LOOK_S)
def incarnations_are_reserved(mesh: Mesh) -> Iterator[Breach]:
    for sight in _writing(mesh):
        data = sight.node.disk.files.get(incarnation.FILE)
        upto = msgspec.json.decode(data, type=Reserved).upto if data is not None else 0
        if sight.detector.incarnation > upto:
            yield Breach((sight.name,), f"it speaks of {sight.detector.incarnation}, and {upto} is reserved")


@always("S12", "A member has its certificate on disk.", every_s=LOOK_S)
def certificates_are_kept(mesh: Mesh) -> Iterator[Breach]:
    for sight in _writing(mesh):
        data = sight.node.disk.files.get(belonging.FILE)
        if not mesh.is_news(("chain", sight.name), sight.run, data, sight.chain):
            continue
        kept = msgspec.json.decode(data, type=Belonging).chain if data is not None else ()
        if sight.chain and kept != sight.chain:
            yield Breach((sight.name,), "its certificate is not the one on its disk")


@always("S12", "A revocation that a node goes by is on its disk.", every_s=LOOK_S)
def revocations_are_kept(mesh: Mesh) -> Iterator[Breach]:
    for sight in _writing(mesh):
        numbers = {told.issuer: told.number for told in sight.revocations}
        if numbers and numbers != _revocations(sight.node.disk.files.get(revocations.FILE)):
            yield Breach((sight.name,), f"{len(numbers)} lists, and others on its disk", within_s=LOOK_S)


@always(
    "S12",
    "A range that is claimed, and a model that is named, are on the disk of their holder.",
    every_s=LOOK_S,
)
def holdings_are_kept(mesh: Mesh) -> Iterator[Breach]:
    for sight in _writing(mesh):
        data = sight.node.disk.files.get(HOLDINGS_FILE)
        claimed = {grant.offer for grant in sight.grants if grant.is_claimed and not grant.is_adopted}
        if not mesh.is_news(("holdings", sight.name), sight.run, data, claimed, tuple(sight.notes)):
            continue
        kept = decode_kept(data)
        lacking = claimed - set(kept.offers)
        if lacking or sight.notes.keys() - {note.digest for note in kept.notes}:
            yield Breach((sight.name,), f"{len(lacking)} of {len(claimed)} ranges are not on its disk")


@always(
    "S12",
    "A run goes on with what its disk has kept: incarnation, certificate, revocations, ranges, names, folders.",
)
def runs_go_on(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        history = mesh.histories[sight.name]
        if not mesh.is_first_look(sight) or not history.has_kept_its_disk:
            continue
        lost = tuple(_lost(mesh, sight, sight.node.found))
        if lost:
            yield Breach((sight.name,), f"of what its disk had: {', '.join(lost)}")


def _writing(mesh: Mesh) -> list[Sight]:
    """Those whose disk has taken all that it was given."""
    return [sight for sight in mesh.sights.values() if not sight.disk_was_full]


def _lost(mesh: Mesh, sight: Sight, files: dict[str, bytes]) -> Iterator[str]:
    if (data := files.get(incarnation.FILE)) is not None:
        upto = msgspec.json.decode(data, type=Reserved).upto
        if sight.detector.incarnation <= upto:
            yield f"incarnation {upto}, and it is in {sight.detector.incarnation}"
    if (data := files.get(belonging.FILE)) is not None:
        kept = msgspec.json.decode(data, type=Belonging)
        if kept.is_joined and not sight.chain:
            yield "its certificate"
    numbers = {told.issuer: told.number for told in sight.revocations}
    if any(
        numbers.get(issuer, 0) < number
        for issuer, number in _revocations(files.get(revocations.FILE)).items()
    ):
        yield "revocations"
    yield from _lost_holdings(mesh, sight, decode_kept(files.get(HOLDINGS_FILE)))
    paths = msgspec.json.decode(files.get(FOLDERS_FILE) or b"[]", type=tuple[str, ...])
    if set(paths) - set(sight.folders):
        yield "folders that were offered"


def _lost_holdings(mesh: Mesh, sight: Sight, kept: Kept) -> Iterator[str]:
    """What a newer plan has no place for is taken from it as soon as it tells of it."""
    granted = {(grant.offer.model, grant.offer.range) for grant in sight.grants}
    newest = {
        offer.model: max(other.ranks.get(offer.model, UNHEARD) for other in mesh.sights.values())
        for offer in kept.offers
    }
    if any(sight.ranks.get(offer.model, UNHEARD) < (offer.term, offer.proposer) for offer in kept.offers):
        yield "the terms of its plans"
    if any(
        (offer.model, offer.range) not in granted and (offer.term, offer.proposer) >= newest[offer.model]
        for offer in kept.offers
    ):
        yield "ranges"
    if any(note.digest not in sight.notes for note in kept.notes):
        yield "names of models"


def _revocations(data: bytes | None) -> dict[PeerId, int]:
    return {told.issuer: told.number for told in RevocationTable.decode(data)}
