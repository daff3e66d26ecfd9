"""Whom a session blames for the loss of a stage: the one that was lost, and whoever it knows this from, if that is another."""

from __future__ import annotations

from collections.abc import Sequence

from inference.sessions.events import Blame
from inference.sessions.place import Place
from protocols.ids import shortened
from protocols.observations import Outcome


def blames(
    places: Sequence[Place], index: int, reason: str, outcome: Outcome, accused_by: int | None
) -> list[Blame]:
    """For the loss of the place at `index`."""
    place = places[index]
    if accused_by is None or places[accused_by].peer == place.peer:
        return [Blame(place.peer, place.range, outcome, reason)]
    accuser = places[accused_by]
    # Nobody can ruin another's name by a word that costs nothing.
    said = f"blamed for layers {place.range} by {shortened(accuser.peer)}: {reason}"
    blamed = f"blamed {shortened(place.peer)} for layers {place.range}: {reason}"
    return [
        Blame(place.peer, place.range, Outcome.DISPUTED, said),
        Blame(accuser.peer, accuser.range, Outcome.DISPUTED, blamed),
    ]
