"""This node's incarnation on disk: higher in every run than in any before, whatever crashed.

Numbers are reserved in blocks, so that a raise needs no write as a rule, and a run that ended in the middle of a block
costs the rest of it. Without a disk the node goes on: the others show it what they remember of it, and it goes past that.
"""

from __future__ import annotations

from typing import Final

import msgspec
import structlog

from protocols import limits
from protocols.errors import LocalFault
from protocols.liveness import INCARNATION_MAX
from protocols.seams import Disk

log = structlog.get_logger()

FILE: Final = "incarnation.json"


class Reserved(msgspec.Struct, frozen=True):
    """Everything up to `upto` may have been used."""

    upto: int


class Incarnation:
    """Of one run: `first` is its first."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._upto = min(_read(disk), INCARNATION_MAX - 1)
        self.first: Final = self._upto + 1
        self.cover(self.first)

    def cover(self, incarnation: int) -> None:
        """Make sure that the next run begins above; call before saying it."""
        if incarnation <= self._upto:
            return
        upto = min(incarnation + limits.INCARNATION_BLOCK, INCARNATION_MAX)
        try:
            self._disk.write(FILE, msgspec.json.encode(Reserved(upto)))
        except LocalFault:
            log.exception("the incarnation can't be written", incarnation=incarnation)
            return  # and try again with the next
        self._upto = upto


def _read(disk: Disk) -> int:
    try:
        data = disk.read(FILE)
        return max(0, msgspec.json.decode(data, type=Reserved).upto) if data is not None else 0
    except (LocalFault, msgspec.DecodeError) as error:
        log.warning("the incarnation can't be read, the others will remember", reason=str(error))
        return 0
