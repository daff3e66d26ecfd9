"""Decode steps that a device has recorded say what they say without, and no recording outlives what it was made for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inference.engine import recordings as recordings_module
from inference.engine.device import Device
from inference.engine.engine import CacheKey, ShardEngine
from inference.engine.memory.pages import PagedStore
from inference.engine.parallel.leading import sliced_arithmetic
from inference.engine.recordings import RECORDED_AFTER, Recordings
from inference.model.paged import PAGE_ROWS
from inference.model.precision import KV_KINDS
from protocols.errors import Malformed, WeftError
from protocols.ids import SessionId
from protocols.placement import LayerRange
from tests.inference.engine.checkpoints import (
    KEY,
    Checkpoint,
    frame,
    kv_rows,
    save_checkpoint,
    spec,
)
from tests.inference.engine.parallel.test_sliced_engine import sliced
from tests.inference.engine.parallel.threads import Table, ThreadRanks
from tests.inference.engine.tape import Tapes
from tests.inference.engine.test_device import PAGED, said

UNRECORDED = replace(PAGED, records=False)
FACTORS = [1.0 + at for at in range(8)]
LONGROPE = {
    "sliding_window": None,
    "partial_rotary_factor": 1.0,
    "original_max_position_embeddings": 100,
    "rope_scaling": {"type": "longrope", "short_factor": FACTORS, "long_factor": FACTORS[::-1]},
}
MODELS = {"llama": ("llama", {}), "gemma2": ("gemma2", {}), "longrope": ("phi3", LONGROPE)}
NAN = bytes([0xC0, 0x7F])  # in bf16


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Tapes:
    """Devices record on them."""
    found = Tapes()
    monkeypatch.setattr(Device, "recorded", lambda _device, run: found.recorded(run))
    return found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: save_checkpoint(folder / name, family, **changes) for name, (family, changes) in MODELS.items()
    }


class Talk:
    """Sessions of one engine, which all say their next words in the same steps."""

    def __init__(self, engine: ShardEngine) -> None:
        self.engine = engine
        self.logs: dict[CacheKey, list[int]] = {}

    def join(self, length: int, rows_max: int) -> CacheKey:
        key: CacheKey = (SessionId(f"{len(self.logs):032x}"), 0)
        log = [(at * (3 + len(self.logs))) % 97 for at in range(length)]
        self.engine.open_cache(key, spec(length, rows_max))
        _, token = self.engine.step(key, frame(self.engine, 0, log, session=key[0]))
        self.logs[key] = [*log, token or 0]
        return key

    def go_on(self, steps: int, keys: Sequence[CacheKey] = ()) -> None:
        keys = keys or list(self.logs)
        for _ in range(steps):
            work = [
                (key, frame(self.engine, len(self.logs[key]) - 1, self.logs[key][-1:], session=key[0]))
                for key in keys
            ]
            for key, result in zip(keys, self.engine.step_together(work), strict=True):
                assert not isinstance(result, WeftError)
                self.logs[key].append(result[1] or 0)


def recordings_of(engine: ShardEngine) -> Recordings:
    assert engine._recordings is not None
    return engine._recordings


def same_rows(first: Talk, second: Talk) -> bool:
    """What lies in the caches of both."""
    return all(
        torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        for key, log in first.logs.items()
        for ours, theirs in zip(
            kv_rows(first.engine, len(log) - 1, key), kv_rows(second.engine, len(log) - 1, key), strict=True
        )
    )


# The same words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv", KV_KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_a_session_says_with_recordings_what_it_says_without(
    models: dict[str, Checkpoint], tapes: Tapes, model: str, kv: str
) -> None:
    expected = said([models[model].engine(dtype="f32", device=UNRECORDED, kv=kv)])
    assert tapes.made == 0
    engine = models[model].engine(dtype="f32", device=PAGED, kv=kv)
    assert said([engine]) == expected
    assert len(recordings_of(engine)) == 1
    assert tapes.replays >= 30  # of 39 steps


@pytest.mark.parametrize("kv", KV_KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_sessions_of_several_lengths_say_together_what_they_say_without(
    models: dict[str, Checkpoint], tapes: Tapes, model: str, kv: str
) -> None:
    talks = []
    for device in (UNRECORDED, PAGED):
        talk = Talk(models[model].engine(dtype="f32", device=device, kv=kv))
        for length in (1, PAGE_ROWS - 1, PAGE_ROWS, PAGE_ROWS + 40):
            talk.join(length, length + 60)  # three of them have the angles of long ones
        talk.go_on(55)
        talks.append(talk)
    assert talks[0].logs == talks[1].logs
    assert same_rows(*talks)
    assert tapes.made == 2  # the longest comes to see a third page, which counts as four
    assert tapes.replays > 30


def test_one_of_a_shape_is_recorded_when_it_has_been_met_often(checkpoint: Checkpoint, tapes: Tapes) -> None:
    talk = Talk(checkpoint.engine(device=PAGED))
    talk.join(3, 64)
    talk.go_on(RECORDED_AFTER - 1)
    assert tapes.made == 0
    talk.go_on(1)
    assert (tapes.made, tapes.replays) == (1, 1)
    talk.go_on(5)
    assert (tapes.made, tapes.replays) == (1, 6)


def test_every_layer_is_told_of_however_it_is_computed(checkpoint: Checkpoint, tapes: Tapes) -> None:
    engine = checkpoint.engine(device=PAGED)
    engine.open_cache(KEY, spec(1, 64))
    layers = []
    for at in range(RECORDED_AFTER + 2):
        engine.step(KEY, frame(engine, at, [5]), lambda: layers.append(1))
        assert len(layers) == 3 * (at + 1)
    assert tapes.replays == 3


def test_frames_of_several_rows_are_not_recorded(checkpoint: Checkpoint, tapes: Tapes) -> None:
    engine = checkpoint.engine(device=PAGED)
    engine.open_cache(KEY, spec(1, 64))
    for _ in range(2 * RECORDED_AFTER):
        engine.step(KEY, frame(engine, 0, [5, 6]))
    assert tapes.made == 0


# How long they are kept -----------------------------------------------------------------------------------------------


def test_they_are_made_anew_where_the_pool_has_moved(checkpoint: Checkpoint, tapes: Tapes) -> None:
    talks = []
    for device in (UNRECORDED, PAGED):
        talk = Talk(checkpoint.engine(dtype="f32", device=device))
        first = talk.join(3, 100)
        talk.go_on(RECORDED_AFTER + 3)
        assert isinstance(talk.engine._store, PagedStore)
        moves = talk.engine._store.pool.moves
        talk.join(5, 400)  # has no room in the pool
        assert talk.engine._store.pool.moves > moves
        talk.go_on(5, [first])
        talk.go_on(RECORDED_AFTER + 3)
        talks.append(talk)
    assert talks[0].logs == talks[1].logs
    assert same_rows(*talks)
    assert (tapes.made, len(tapes.living)) == (3, 2)  # a lone one twice, for its shape is well known


def test_nothing_is_left_of_them_when_the_last_session_has_closed(
    checkpoint: Checkpoint, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[Device] = []
    monkeypatch.setattr(Device, "release", lambda device: released.append(device))
    talk = Talk(checkpoint.engine(dtype="f32", device=PAGED))
    first, second = talk.join(3, 64), talk.join(4, 64)
    talk.go_on(RECORDED_AFTER)
    talk.engine.close_cache(first)
    assert len(tapes.living) == 1
    talk.engine.close_cache(second)
    assert len(tapes.living) == len(recordings_of(talk.engine)) == 0
    assert released == [PAGED]
    expected = said([checkpoint.engine(dtype="f32", device=UNRECORDED)])
    assert said([talk.engine]) == expected
    assert len(tapes.living) == 1
    talk.engine.close()
    assert len(tapes.living) == 0


def test_they_are_a_few_and_the_one_unused_for_longest_goes_first(
    checkpoint: Checkpoint, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings_module, "RECORDINGS_MAX", 2)
    talk = Talk(checkpoint.engine(device=PAGED))
    keys = [talk.join(3, 128) for _ in range(3)]
    talk.go_on(RECORDED_AFTER, keys[:1])
    talk.go_on(RECORDED_AFTER, keys[:2])
    talk.go_on(1, keys[:1])
    talk.go_on(RECORDED_AFTER, keys)
    assert (tapes.made, len(tapes.living)) == (3, 2)
    talk.go_on(1, keys[:1])
    assert tapes.made == 3
    talk.go_on(RECORDED_AFTER - 1, keys[:2])  # has gone, and counts from the beginning
    assert tapes.made == 3
    talk.go_on(1, keys[:2])
    assert (tapes.made, len(tapes.living)) == (4, 2)


def test_shapes_that_are_seldom_met_are_forgotten(
    checkpoint: Checkpoint, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings_module, "_SHAPES_MAX", 2)
    talk = Talk(checkpoint.engine(device=PAGED))
    keys = [talk.join(3, 128) for _ in range(3)]
    for _ in range(RECORDED_AFTER + 1):
        for count in (1, 2, 3):
            talk.go_on(1, keys[:count])
    assert len(recordings_of(talk.engine)._met) == 2
    assert tapes.made == 0
    talk.go_on(RECORDED_AFTER - 2, keys[:1])
    talk.go_on(1, keys[:2])
    talk.go_on(1, keys[:1])
    talk.go_on(1, keys)  # in the place of the one before the last
    assert tapes.made == 0
    talk.go_on(1, keys[:1])
    assert tapes.made == 1


# What can't be recorded -----------------------------------------------------------------------------------------------

Recorded = Callable[[Device, Callable[[], Tensor]], Callable[[], Tensor]]


def without_memory(_device: Device, _run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    raise torch.OutOfMemoryError("the card is full\nof this and that")


def without_replays(_device: Device, _run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def fail() -> Tensor:
        raise RuntimeError("an error of the card\nof some kind")

    return fail


def a_little_wrong(_device: Device, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: run() * 1.02


def not_a_number(_device: Device, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: run() * float("nan")


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(
    ("recorded", "reason"),
    [
        (without_memory, "OutOfMemoryError: the card is full"),
        (without_replays, "RuntimeError: an error of the card"),
        (a_little_wrong, "it came to other numbers"),
        (not_a_number, "it came to other numbers"),
    ],
)
def test_a_device_that_records_badly_is_told_once_and_computes_on(
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    recorded: Recorded,
    reason: str,
    dtype: str,
) -> None:
    asked: list[Device] = []

    def noted(device: Device, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        asked.append(device)
        return recorded(device, run)

    monkeypatch.setattr(Device, "recorded", noted)
    expected = said([checkpoint.engine(dtype=dtype, device=UNRECORDED)])
    with caplog.at_level(logging.WARNING, "weft.worker"):
        engine = checkpoint.engine(dtype=dtype, device=PAGED)
        assert said([engine]) == expected
        engine.close_cache(KEY)
        assert said([engine]) == expected
    assert len(asked) == 1
    assert caplog.messages == [f"decode steps on cpu are not recorded from now on: {reason}"]
    assert len(recordings_of(engine)) == 0


def test_one_bad_recording_takes_the_others_with_it(
    checkpoint: Checkpoint, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(checkpoint.engine(device=PAGED))
    keys = [talk.join(3, 64) for _ in range(2)]
    talk.go_on(RECORDED_AFTER, keys[:1])
    assert len(tapes.living) == 1
    monkeypatch.setattr(Device, "recorded", a_little_wrong)
    talk.go_on(RECORDED_AFTER, keys)
    assert len(tapes.living) == 0


def test_a_session_that_is_spoilt_switches_nothing_off_and_reaches_no_other(
    checkpoint: Checkpoint, tapes: Tapes, caplog: pytest.LogCaptureFixture
) -> None:
    middle, good = checkpoint.engine(LayerRange(1, 2), device=PAGED), (SessionId("0f" * 16), 3)
    plain = checkpoint.engine(LayerRange(1, 2), device=UNRECORDED)
    row, bad = frame(middle, 0, [1], bytes(range(96))), frame(middle, 0, [1], NAN * 48)
    plain.open_cache(good, spec(1, 64))
    expected = bytes(plain.step(good, row)[0])
    for key in (KEY, good):
        middle.open_cache(key, spec(1, 64))
    for _ in range(RECORDED_AFTER + 2):
        (result,) = middle.step_together([(KEY, bad)])
        assert isinstance(result, Malformed)
    assert tapes.made == 0
    assert bytes(middle.step(good, row)[0]) == expected
    assert tapes.made == 1
    (result,) = middle.step_together([(KEY, bad)])  # through what is recorded by now
    assert isinstance(result, Malformed)
    assert bytes(middle.step(good, row)[0]) == bytes(middle.step(KEY, row)[0]) == expected
    assert (tapes.made, tapes.replays) == (1, 4)
    assert caplog.messages == []


def test_experts_and_slices_and_the_processor_compute_without(
    tmp_path: Path, checkpoint: Checkpoint, tapes: Tapes
) -> None:
    """An expert asks the processor for its rows, and sums of several ranks wait for each other."""
    experts = save_checkpoint(tmp_path / "experts", "qwen3_moe")
    for engine in (experts.engine(device=PAGED), checkpoint.engine(), checkpoint.engine(device=UNRECORDED)):
        talk = Talk(engine)
        talk.join(3, 64)
        talk.go_on(RECORDED_AFTER + 2)
        assert engine._recordings is None
    assert tapes.made == 0
    halves = save_checkpoint(tmp_path / "halves", num_key_value_heads=4)
    arithmetic = sliced_arithmetic(halves.config, "f32", "exact", 2, PAGED)
    rank = sliced(halves, ThreadRanks(Table(2), 0), arithmetic, device=PAGED)
    assert rank._recordings is None
