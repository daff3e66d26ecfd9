"""This node's own record over its life: stored before it is told, renewed when it is due or something has changed.

records = OwnRecordKeeper(clock, disk, signer, network_id, particulars)
await nursery.start(partial(records.run, publish))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
import trio

from mesh.admission.signatures import Signer
from mesh.directory.records import OwnRecord, Particulars
from protocols import limits
from protocols.errors import LocalFault, RemoteFault
from protocols.ids import NetworkId
from protocols.records import SignedRecord, decode_record, decode_signed, encode_signed
from protocols.seams import Clock, Disk

log = structlog.get_logger()

RECORD_FILE: Final = "record.msgpack"


class OwnRecordKeeper:
    """`particulars` is asked every `RECORD_CHECK_S`, and at once after `check_soon`."""

    def __init__(
        self,
        clock: Clock,
        disk: Disk,
        signer: Signer,
        network_id: NetworkId,
        particulars: Callable[[], Particulars],
    ) -> None:
        self._clock = clock
        self._disk = disk
        self._particulars = particulars
        self._own = OwnRecord(signer, network_id, last_sequence(disk))
        self._wake = trio.Event()
        self.current: SignedRecord | None = None

    def refresh(self) -> SignedRecord | None:
        """A new record, if one was due."""
        record = self._own.renew(self._particulars(), self._clock.wall())
        if record is None:
            return None
        try:
            self._disk.write(RECORD_FILE, encode_signed(record))
        except LocalFault:
            # The wall clock keeps the sequence rising as long as nobody sets it back.
            log.exception("this node's record can't be stored")
        self.current = record
        return record

    def check_soon(self) -> None:
        """Something that the record says may have changed."""
        self._wake.set()

    async def run(
        self,
        publish: Callable[[SignedRecord], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Publish the first record before it is ready, and every later one, until cancelled."""
        if self.current is not None:
            publish(self.current)
        is_ready = False
        while True:
            self._wake = trio.Event()
            if (record := self.refresh()) is not None:
                publish(record)
            if not is_ready:
                is_ready = True
                task_status.started()
            with trio.move_on_after(limits.RECORD_CHECK_S):
                await self._wake.wait()


def last_sequence(disk: Disk) -> int:
    """The highest sequence that this node may have used; 0 if nothing usable is stored."""
    try:
        stored = disk.read(RECORD_FILE)
        return 0 if stored is None else decode_record(decode_signed(stored).record).sequence
    except RemoteFault as error:
        log.warning("the stored record of this node is damaged", file=RECORD_FILE, reason=str(error))
        return 0
