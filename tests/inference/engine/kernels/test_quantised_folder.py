"""Quantised weights come back as they were, or are made again: a damaged file never reaches a product."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inference.engine.engine import ShardEngine
from inference.engine.kernels.quantised import (
    Int4Weight,
    Int8Weight,
    Quantised,
    empty_int4,
    empty_int8,
    quantise_int4,
    quantise_int8,
)
from inference.engine.kernels.quantised_folder import QuantisedFolder
from inference.engine.memory.kv_cache import KvBudget
from inference.engine.shard_reader import ShardReader
from tests.inference.engine.checkpoints import KEY, MIB, Checkpoint, run_chain, save_checkpoint, spec

WEIGHT = torch.randn(24, 100, generator=torch.Generator().manual_seed(5))
SHAPE = (24, 100)
WEIGHTS: dict[str, Quantised] = {"int8": quantise_int8(WEIGHT), "int4": quantise_int4(WEIGHT)}


def recalled(
    folder: QuantisedFolder, content: str, form: str, shape: tuple[int, int] = SHAPE
) -> Quantised | None:
    empty: Quantised = empty_int8(*shape) if form == "int8" else empty_int4(*shape)
    return empty if folder.recall(content, empty) else None


def assert_same(found: Quantised | None, expected: Quantised) -> None:
    assert isinstance(found, Int8Weight | Int4Weight)
    assert torch.equal(found.widened(torch.float32), expected.widened(torch.float32))


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.fixture(params=["int8", "int4"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_is_kept_comes_back_as_it_was(tmp_path: Path, form: str) -> None:
    folder = QuantisedFolder(tmp_path / "quantised")
    assert recalled(folder, "a", form) is None
    folder.keep("a", WEIGHTS[form])
    assert_same(recalled(folder, "a", form), WEIGHTS[form])
    assert recalled(folder, "b", form) is None
    assert [path.suffix for path in (tmp_path / "quantised").iterdir()] == [".safetensors"]


@pytest.mark.parametrize("at", [0.02, 0.3, 0.7, 0.999])
def test_a_byte_that_changed_anywhere_is_noticed_and_told(
    tmp_path: Path, form: str, at: float, caplog: pytest.LogCaptureFixture
) -> None:
    folder = QuantisedFolder(tmp_path)
    folder.keep("a", WEIGHTS[form])
    path = only_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 0x10
    path.write_bytes(data)
    assert recalled(folder, "a", form) is None
    assert "damaged" in caplog.text
    folder.keep("a", WEIGHTS[form])
    assert_same(recalled(folder, "a", form), WEIGHTS[form])


@pytest.mark.parametrize("size_bytes", [0, 5, 300, 1500])
def test_a_file_cut_short_is_noticed(
    tmp_path: Path, form: str, size_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = QuantisedFolder(tmp_path)
    folder.keep("a", WEIGHTS[form])
    os.truncate(only_file(tmp_path), size_bytes)
    assert recalled(folder, "a", form) is None
    assert "damaged" in caplog.text


def test_a_file_of_another_tensor_or_from_elsewhere_is_not_taken(tmp_path: Path, form: str) -> None:
    folder = QuantisedFolder(tmp_path)
    folder.keep("a", WEIGHTS[form])
    assert recalled(folder, "a", form, (23, 100)) is None
    save_file({"weight": torch.zeros(3)}, only_file(tmp_path))
    assert recalled(folder, "a", form) is None


def test_a_folder_that_cannot_be_written_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("a file")
    folder = QuantisedFolder(tmp_path / "taken")
    with caplog.at_level(logging.WARNING):
        folder.keep("a", WEIGHTS["int8"])
    assert "cannot be kept" in caplog.text
    assert recalled(folder, "a", "int8") is None


def test_the_files_that_were_longest_unused_make_room(tmp_path: Path) -> None:
    folder = QuantisedFolder(tmp_path, bytes_max=9000)
    for second, name in enumerate("abc"):
        folder.keep(name, WEIGHTS["int8"])
        for path in tmp_path.glob(f"{name}-*"):
            os.utime(path, (second, second))
    assert recalled(folder, "a", "int8") is not None  # used just now
    folder.keep("d", WEIGHTS["int8"])
    kept = [name for name in "abcd" if recalled(folder, name, "int8") is not None]
    assert kept == ["a", "c", "d"]


def loaded(
    checkpoint: Checkpoint, dtype: str, folder: QuantisedFolder | None
) -> tuple[ShardEngine, int | None]:
    tensors = [replace(tensor, content=f"sha-of-{tensor.name}") for tensor in checkpoint.tensors]
    config = checkpoint.config
    engine = ShardEngine(config, config.whole, dtype, "exact", tensors, KvBudget(64 * MIB), kept=folder)
    engine.open_cache(KEY, spec(8, 16))
    return engine, run_chain([engine], 0, list(range(1, 9)))


def test_a_shard_from_kept_weights_is_the_same_and_quantises_nothing(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, folder = save_checkpoint(tmp_path / "model"), QuantisedFolder(tmp_path / "kept")
    x = torch.randn(3, checkpoint.config.hidden).to(torch.bfloat16)
    fresh, token = loaded(checkpoint, form, None)
    made: list[str] = []
    read_rows = ShardReader.read_rows

    def counted(reader: ShardReader, name: str, at_once: int) -> Iterator[tuple[slice, torch.Tensor]]:
        made.append(name)
        return read_rows(reader, name, at_once)

    monkeypatch.setattr(ShardReader, "read_rows", counted)
    products = 7 * checkpoint.config.layers + 1
    for expected, damages in ((products, False), (0, True), (1, False)):
        made.clear()
        engine, drawn = loaded(checkpoint, form, folder)
        assert len(made) == expected
        assert drawn == token
        assert torch.equal(engine.head.logits(x), fresh.head.logits(x))
        if damages:
            next((tmp_path / "kept").iterdir()).write_bytes(b"not a tensor")
    assert caplog.text.count("damaged") == 1
