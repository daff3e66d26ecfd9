"""One stage: rows in order, nothing twice, nothing of another epoch."""

from __future__ import annotations

import msgspec
import pytest

from inference.sessions.journal import Journal
from inference.sessions.stage import Arrived, Compute, Computed, Forward, GiveBack, Output, Stage, Tell
from protocols import limits
from protocols.errors import Malformed
from protocols.ids import ModelDigest, PeerId, SessionId
from protocols.placement import LayerRange
from protocols.seams import StepResult
from protocols.session import Downstream, OpenStage, Reroute, Rerouted, Sampled
from protocols.tensor import DType, Frame, Header, Kind, Numerics

SESSION = SessionId("00" * 16)
BEHIND, STANDBY = Downstream(PeerId("b"), 2), Downstream(PeerId("c"), 2)
WIDTH = 2


def stage(downstream: Downstream | None = BEHIND, **changes: object) -> Stage:
    opened = OpenStage(SESSION, 3, ModelDigest("0" * 64), LayerRange(1, 2), 1, downstream, 4, 10)
    return Stage(msgspec.structs.replace(opened, **changes), WIDTH, DType.F32, merges_replay=True)


def rows(
    position: int, count: int = 1, *, epoch: int = 3, truncate_to: int | None = None, kind: Kind = Kind.DECODE
) -> Frame:
    keep = position if truncate_to is None else truncate_to
    header = Header(
        kind, SESSION, epoch, 1, position, count, WIDTH, keep, Numerics.EXACT, DType.F32, sample=True
    )
    return Frame(header, tuple(range(position, position + count)), bytes(header.body_bytes))


def run(machine: Stage, frame: Frame, token: int = 7) -> list[Output]:
    """Hand in a frame and compute everything that follows from it; what came out besides."""
    done: list[Output] = []
    outputs = machine.handle(Arrived(frame))
    while outputs:
        output = outputs.pop(0)
        if isinstance(output, Compute):
            body = b"" if machine.downstream is None else bytes(output.frame.header.body_bytes)
            outputs += machine.handle(Computed(output.frame, StepResult(body, token, 1.0)))
        else:
            done.append(output)
    return done


def forwarded(outputs: list[Output]) -> list[tuple[int, int, int, PeerId]]:
    """(epoch, position, rows, to whom)"""
    return [
        (output.frame.header.epoch, output.frame.header.position, output.frame.header.rows, output.downstream.peer)
        for output in outputs
        if isinstance(output, Forward)
    ]  # fmt: skip


def test_a_frame_is_computed_and_forwarded_and_its_credit_given_back() -> None:
    machine = stage()
    forward, back = run(machine, rows(0, 4))
    assert isinstance(forward, Forward)
    assert back == GiveBack()
    assert (forward.downstream, forward.frame.header.stage) == (BEHIND, 2)
    assert machine.rows == 4


@pytest.mark.parametrize("epoch", [2, 4])
def test_frames_of_another_epoch_change_nothing(epoch: int) -> None:
    assert stage().handle(Arrived(rows(0, 4, epoch=epoch))) == []


def test_rows_that_were_computed_are_neither_computed_again_nor_kept() -> None:
    machine = stage(rows_max=20)
    run(machine, rows(0, 10))
    for position in range(10):
        assert machine.handle(Arrived(rows(position))) == []
    assert forwarded(run(machine, rows(10))) == [(3, 10, 1, "b")]


def test_what_comes_too_early_waits_for_the_rows_before_it() -> None:
    machine = stage()
    assert run(machine, rows(4)) == []
    assert run(machine, rows(4, 2)) == []  # a second copy
    assert [position for _, position, _, _ in forwarded(run(machine, rows(0, 4)))] == [0, 4]


def test_only_one_frame_is_computed_at_a_time() -> None:
    machine = stage()
    (compute,) = machine.handle(Arrived(rows(0, 4)))
    assert isinstance(compute, Compute)
    assert machine.handle(Arrived(rows(4))) == []
    result = StepResult(bytes(compute.frame.header.body_bytes), None, 1.0)
    assert [type(output) for output in machine.handle(Computed(compute.frame, result))] == [
        Forward,
        GiveBack,
        Compute,
    ]


def test_the_cache_is_cut_where_this_stage_says_and_not_where_the_sender_does() -> None:
    machine = stage()
    run(machine, rows(0, 4))
    (compute,) = machine.handle(Arrived(rows(4, truncate_to=2)))
    assert isinstance(compute, Compute)
    assert compute.frame.header.truncate_to == 4


@pytest.mark.parametrize("frame", [rows(0, 11), rows(10), rows(1 << 40)])
def test_rows_past_what_was_reserved_are_refused(frame: Frame) -> None:
    with pytest.raises(Malformed, match="10 were reserved"):
        stage().handle(Arrived(frame))


def test_no_more_frames_wait_than_there_are_credits() -> None:
    machine = stage(rows_max=100)
    for position in range(1, limits.CREDITS_PER_SESSION + 1):
        assert machine.handle(Arrived(rows(position))) == []
    with pytest.raises(Malformed, match="credits"):
        machine.handle(Arrived(rows(50)))


def test_rows_that_the_stage_behind_has_are_kept_and_not_sent() -> None:
    machine = stage(forward_from=6)
    assert forwarded(run(machine, rows(0, 6, kind=Kind.REPLAY))) == []
    assert forwarded(run(machine, rows(6))) == [(3, 6, 1, "b")]
    assert machine.journal.reaches(7)


@pytest.mark.parametrize(
    ("position", "token", "ends"), [(7, 7, False), (8, 7, True), (7, 5, True), (8, 5, True)]
)
def test_the_last_stage_says_where_a_text_ends(position: int, token: int, *, ends: bool) -> None:
    machine = stage(None, stop_ids=(5,))
    run(machine, rows(0, position))
    told, back = run(machine, rows(position), token)
    assert told == Tell(Sampled(3, position + 1, token, ends))
    assert back == GiveBack()


# Reroutes ------------------------------------------------------------------------------------------------------------


def test_a_reroute_keeps_the_rows_before_it_and_sends_on_to_the_new_stage() -> None:
    machine = stage()
    run(machine, rows(0, 4))
    run(machine, rows(4))
    run(machine, rows(5))
    assert machine.handle(Reroute(4, 5, STANDBY)) == [Tell(Rerouted(4, 0, True))]
    assert (machine.rows, machine.journal.rows) == (5, 5)
    assert run(machine, rows(5, epoch=3)) == []
    assert forwarded(run(machine, rows(5, epoch=4))) == [(4, 5, 1, "c")]


def test_a_replay_sends_exactly_the_rows_that_are_kept_in_the_new_epoch() -> None:
    machine = stage()
    run(machine, rows(0, 4))
    for position in (4, 5, 6):
        run(machine, rows(position))
    told, *replay = machine.handle(Reroute(4, 6, STANDBY, replay=True))
    assert told == Tell(Rerouted(4, 6, True))
    assert forwarded(replay) == [(4, 0, 4, "c"), (4, 4, 2, "c")]
    assert {output.frame.header.stage for output in replay if isinstance(output, Forward)} == {2}


def test_a_rebuilt_stage_that_is_rerouted_sends_everything_from_then_on() -> None:
    machine = stage(forward_from=6)
    run(machine, rows(0, 6))
    machine.handle(Reroute(4, 0, STANDBY))
    assert forwarded(run(machine, rows(0, 4, epoch=4))) == [(4, 0, 4, "c")]


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_reroute_that_comes_late_changes_nothing(epoch: int) -> None:
    machine = stage()
    run(machine, rows(0, 4))
    assert machine.handle(Reroute(epoch, 0, STANDBY)) == []
    assert (machine.epoch, machine.rows, machine.downstream) == (3, 4, BEHIND)


def test_what_waited_in_the_old_epoch_is_forgotten() -> None:
    machine = stage()
    machine.handle(Arrived(rows(4)))
    machine.handle(Reroute(4, 0, BEHIND))
    (compute,) = machine.handle(Arrived(rows(0, 4, epoch=4)))
    assert isinstance(compute, Compute)
    result = StepResult(bytes(compute.frame.header.body_bytes), None, 1.0)
    assert not any(isinstance(output, Compute) for output in machine.handle(Computed(compute.frame, result)))


def test_a_step_that_was_under_way_in_the_old_epoch_does_not_count() -> None:
    machine = stage()
    (compute,) = machine.handle(Arrived(rows(0, 4)))
    assert isinstance(compute, Compute)
    machine.handle(Reroute(4, 0, BEHIND))
    assert machine.handle(Arrived(rows(0, 4, epoch=4))) == []
    result = StepResult(bytes(compute.frame.header.body_bytes), None, 1.0)
    (again,) = machine.handle(Computed(compute.frame, result))
    assert isinstance(again, Compute)
    assert (again.frame.header.epoch, again.frame.header.position, machine.rows) == (4, 0, 0)


def test_who_lacks_rows_says_so_and_replays_nothing() -> None:
    machine = stage()
    run(machine, rows(0, 4))
    assert machine.handle(Reroute(4, 6, STANDBY, replay=True)) == [Tell(Rerouted(4, 0, False))]
    assert machine.handle(Reroute(5, 6, STANDBY)) == [Tell(Rerouted(5, 0, False))]
    over_quota = stage()
    over_quota.journal = Journal(bytes_max=10)
    run(over_quota, rows(0, 4))
    assert over_quota.handle(Reroute(4, 4, STANDBY, replay=True)) == [Tell(Rerouted(4, 0, False))]
    assert over_quota.handle(Reroute(5, 4, STANDBY)) == [Tell(Rerouted(5, 0, True))]


def stage_that_had(kept: int) -> Stage:
    machine = stage(prompt_rows=300, rows_max=400)
    machine.kept = kept
    return machine


def test_the_first_frame_says_how_many_rows_of_an_earlier_session_count() -> None:
    machine = stage_that_had(256)
    assert machine.rows == 0
    assert forwarded(run(machine, rows(128, 128, kind=Kind.PREFILL))) == [(3, 128, 128, BEHIND.peer)]
    assert machine.rows == 256
    assert machine.handle(Arrived(rows(0, 128, kind=Kind.PREFILL))) == []
    (told, *replay) = machine.handle(Reroute(4, 256, STANDBY, replay=True))
    assert told == Tell(Rerouted(4, 128, True))
    assert forwarded(replay) == [(4, 128, 128, STANDBY.peer)]


def test_a_decoded_row_that_overtakes_the_replay_waits_for_it() -> None:
    machine = stage_that_had(256)
    assert machine.handle(Arrived(rows(300))) == []
    outputs = run(machine, rows(256, 44, kind=Kind.REPLAY))
    assert [position for _, position, _, _ in forwarded(outputs)] == [256, 300]


def test_neither_an_abandoned_route_nor_a_new_one_that_begins_at_0_goes_by_rows_that_were_there() -> None:
    machine = stage_that_had(256)
    assert machine.handle(Arrived(rows(128, 128, epoch=2, kind=Kind.PREFILL))) == []
    assert machine.handle(Reroute(4, 0, BEHIND)) == [Tell(Rerouted(4, 0, True))]
    assert machine.handle(Arrived(rows(128, 128, epoch=4, kind=Kind.PREFILL))) == []
    assert len(forwarded(run(machine, rows(0, 128, epoch=4, kind=Kind.PREFILL)))) == 2


def test_whoever_has_only_rows_of_an_earlier_session_lacks_those_of_this_one() -> None:
    machine = stage_that_had(256)
    assert machine.handle(Reroute(4, 310, BEHIND)) == [Tell(Rerouted(4, 0, False))]
