"""One's own record over restarts, clocks that go back, and disks that are full."""

from __future__ import annotations

from functools import partial

import trio
import trio.testing

from mesh.directory.own_record import RECORD_FILE, OwnRecordKeeper, last_sequence
from mesh.directory.records import Particulars
from protocols import limits
from protocols.records import SignedRecord, decode_record
from simulations.machine.clock import VirtualClock
from simulations.machine.disk import MemoryDisk
from tests.mesh.directory.test_records import ADA, NETWORK, SAID


class Rig:
    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self.clock = VirtualClock()
        self.said: Particulars = SAID
        self.told: list[int] = []
        self.keeper = OwnRecordKeeper(self.clock, disk, ADA, NETWORK, lambda: self.said)

    def hear(self, record: SignedRecord) -> None:
        self.told.append(decode_record(record.record).sequence)


async def run_for(rig: Rig, seconds: float) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(rig.keeper.run, rig.hear))
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()


async def test_a_node_publishes_at_once_and_then_every_half_day(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig(MemoryDisk())
    await run_for(rig, 1.0)
    assert len(rig.told) == 1
    await run_for(rig, limits.RECORD_TTL_S + 60)
    assert len(rig.told) == 4, "the one that is current, and one per half day"
    assert rig.told == sorted(rig.told)


async def test_a_changed_address_is_told_within_seconds(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig(MemoryDisk())
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(rig.keeper.run, rig.hear))
        rig.said = Particulars((), (), SAID.statics)
        await trio.sleep(limits.RECORD_CHECK_S + 0.1)
        assert len(rig.told) == 2
        rig.said = SAID
        rig.keeper.check_soon()
        await trio.sleep(0.1)
        assert len(rig.told) == 3
        nursery.cancel_scope.cancel()


async def test_the_sequence_rises_over_a_restart_with_a_clock_that_went_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    before = Rig(MemoryDisk())
    await run_for(before, 1.0)
    after = Rig(before.disk)
    after.clock.wall = lambda: 1_000.0  # type: ignore[method-assign]
    await run_for(after, 1.0)
    assert after.told == [before.told[-1] + 1]


async def test_a_full_disk_and_a_damaged_file_stop_nothing(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig(MemoryDisk())
    rig.disk.is_full = True
    await run_for(rig, 1.0)
    assert len(rig.told) == 1
    rig.disk.is_full = False
    rig.disk.write(RECORD_FILE, b"\xc1 damaged")
    assert last_sequence(rig.disk) == 0
    again = Rig(rig.disk)
    await run_for(again, 1.0)
    assert last_sequence(rig.disk) == again.told[-1]
