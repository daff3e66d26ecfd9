"""Rows of a prompt that need not be computed again, because an earlier session of the same entry left them at every stage.

The name of a block of rows is a digest of all tokens up to its end, and of who computes what comes into the stage: the peers and
ranges before it. So rows are taken over only if they came by the same way. What a peer has spoilt that is out of the route stays
out with it, and rows of another arithmetic do not come in through a neighbour's cache.

        entry      stage 0    stage 1                  the session begins at the row that all of them have
    named blocks --> 3 --------> 2 ----> ...           and their journals begin there too
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from itertools import pairwise, takewhile

from inference.sessions.events import Order
from inference.sessions.place import Place
from protocols import limits


def block_names(order: Order, before: Sequence[Place]) -> tuple[bytes, ...]:
    """Of the whole blocks of the prompt, at the stage behind those places; none if the order shares no prefix."""
    if not order.shares_prefix:
        return ()
    chunk, prompt = limits.PREFILL_CHUNK_ROWS, order.prompt
    name = hashlib.sha256("".join(f"{place.peer} {place.range}\n" for place in before).encode()).digest()
    names = []
    for end in range(chunk, len(prompt) + 1, chunk)[: limits.PREFIX_BLOCKS_MAX]:
        name = hashlib.sha256(name + struct.pack(f"<{chunk}I", *prompt[end - chunk : end])).digest()
        names.append(name)
    return tuple(names)


def can_be_kept(rows: int, order: Order) -> bool:
    """Whether a stage may say that it has so many rows of the prompt: whole blocks that were named to it, and not the last row."""
    if not rows:
        return True
    chunk = limits.PREFILL_CHUNK_ROWS
    return (
        order.shares_prefix
        and rows % chunk == 0
        and rows < len(order.prompt)
        and rows <= limits.PREFIX_BLOCKS_MAX * chunk
    )


def begin(places: Sequence[Place]) -> None:
    """A session begins at the row that all stages have."""
    begin_at(min(place.kept for place in places), places)


def begin_at(row: int, places: Sequence[Place]) -> None:
    """From that row on all is fed to them."""
    for place in places:
        place.base = row


def begin_again(places: Sequence[Place]) -> bool:
    """Standbys begin where the journal before them does; False if one lacks rows that are not in it."""
    fed = list(takewhile(lambda place: place.fresh, places))  # by the entry, which has all tokens
    if fed:
        begin(fed)
    for before, place in pairwise(places):
        if place.fresh and place not in fed:
            place.base = before.base
            if place.kept < place.base:
                return False
    return True
