"""The address book on disk: read at the start, written when it has changed, never the end of the node.

What can't be written (a full disk) is tried again later, doubling the pause from `BOOK_WRITE_S_MIN` to `BOOK_WRITE_S_MAX`.
What can't be read is set aside and said, and the node starts with an empty book: its bootstrap addresses and the members
that dial it fill it again, while dying would help nobody. A file that this program may not read at all is the operator's to
mend, and raised.
"""

from __future__ import annotations

from typing import Final

import structlog
import trio

from mesh.directory.address_book import BOOK_FILE, AddressBook
from protocols import limits
from protocols.errors import LocalFault
from protocols.seams import Clock, Disk

log = structlog.get_logger()

ASIDE_FILE: Final = "members.damaged.msgpack"


class BookFile:
    """Keeps one book on one disk. `failures` counts writes that failed."""

    def __init__(self, disk: Disk, clock: Clock) -> None:
        self._disk = disk
        self._clock = clock
        self._book: AddressBook | None = None
        self._is_dirty = False
        self._dirtied = trio.Event()
        self._pause_s = limits.BOOK_WRITE_S_MIN
        self.failures = 0

    @property
    def book(self) -> AddressBook:
        """Read on first use, without those that were forgotten. Raises `LocalFault` if the file can't be read at all."""
        if self._book is None:
            self._book = self._read()
            if gone := self._book.forget(self._clock.wall()):
                log.info("members that were not seen for long are forgotten", count=len(gone))
        return self._book

    def _read(self) -> AddressBook:
        data = self._disk.read(BOOK_FILE)
        try:
            return AddressBook.decode(data)
        except LocalFault as error:
            assert data is not None, "no file is an empty book"
            log.exception("the address book is set aside", file=ASIDE_FILE, reason=str(error))
            self._set_aside(data)
            return AddressBook()

    def _set_aside(self, data: bytes) -> None:
        try:
            self._disk.write(ASIDE_FILE, data)
        except LocalFault:
            log.exception("the damaged address book can't be kept")

    def write(self) -> bool:
        """At once, for what must not be lost; False if that failed and is tried again later."""
        try:
            self._disk.write(BOOK_FILE, self.book.encode())
        except LocalFault:
            self.failures += 1
            log.exception("the address book can't be written; it is tried again")
            self.write_soon()
            return False
        self._is_dirty = False
        self._pause_s = limits.BOOK_WRITE_S_MIN
        return True

    def write_soon(self) -> None:
        """Something has changed that may be lost, such as who was seen when."""
        self._is_dirty = True
        self._dirtied.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is to be written soon, until cancelled, and then once more."""
        task_status.started()
        try:
            while True:
                self._dirtied = trio.Event()
                if not self._is_dirty:
                    await self._dirtied.wait()
                await trio.sleep(self._pause_s)
                if self._is_dirty and not self.write():
                    self._pause_s = min(2 * self._pause_s, limits.BOOK_WRITE_S_MAX)
        finally:
            if self._is_dirty:
                self.write()
