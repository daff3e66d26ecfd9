"""Hugging Face folders: good ones become a manifest, and each way of being bad gets one line with the next step."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from inference.model.folder import ModelFolder, open_model_folder
from mesh.state.files import inline
from protocols.errors import Malformed, UserError
from protocols.ids import ModelDigest, TensorDigest
from protocols.manifest import parse_manifest
from simulations.machine.disk import MemoryDisk
from tests.inference.model.folders import tiny_tensors, write_tiny_folder

INDEX = "model.safetensors.index.json"


async def opened(folder: Path, disk: MemoryDisk | None = None) -> ModelFolder:
    return await open_model_folder(str(folder), disk or MemoryDisk(), inline, lambda done, total: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_folder(tmp_path / "tiny")


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return write_tiny_folder(tmp_path / "split", files=3)


async def test_the_manifest_states_every_file_and_tensor(folder: Path) -> None:
    model = await opened(folder)
    tensors = tiny_tensors()
    assert {entry.name: entry.sha256 for entry in model.stated.tensors} == {
        name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in tensors.items()
    }
    assert [entry.name for entry in model.stated.files] == [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert parse_manifest(model.stated.canonical(), model.digest) == model.stated
    assert (model.name, model.config.layers) == ("tiny", 4)


async def test_one_file_and_many_are_the_same_model(folder: Path, split: Path) -> None:
    assert (await opened(folder)).digest == (await opened(split)).digest


async def test_another_weight_is_another_model(folder: Path, tmp_path: Path) -> None:
    other = write_tiny_folder(tmp_path / "other", seed=1)
    assert (await opened(folder)).digest != (await opened(other)).digest


async def test_the_folder_serves_what_its_manifest_names(split: Path) -> None:
    model = await opened(split)
    array = tiny_tensors()["model.layers.2.mlp.up_proj.weight"]
    blob = model.blob(model.digest, TensorDigest(hashlib.sha256(array.tobytes()).hexdigest()))
    assert blob is not None
    assert blob.read(0, blob.size_bytes) == array.tobytes()
    manifest = model.manifest(model.digest)
    assert manifest is not None
    assert manifest.read(0, manifest.size_bytes) == model.stated.canonical()
    config = model.blob(model.digest, model.stated.files[0].sha256)
    assert config is not None
    assert config.read(0, 1 << 20) == (split / "config.json").read_bytes()
    other = ModelDigest("00" * 32)
    assert model.manifest(other) is None
    assert model.blob(other, model.stated.files[0].sha256) is None
    assert model.blob(model.digest, TensorDigest("00" * 32)) is None


async def test_the_worker_finds_the_tensors_where_the_folder_says(split: Path) -> None:
    model = await opened(split)
    for place in model.tensor_files(tiny_tensors()):
        with safe_open(place.path, framework="np") as file:
            assert (file.get_tensor(place.key) == tiny_tensors()[place.name]).all()
    with pytest.raises(Malformed, match="nose"):
        model.tensor_files(["nose"])


async def test_a_second_offer_reads_no_weights(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, seen = MemoryDisk(), []
    first = await open_model_folder(str(split), disk, inline, lambda done, total: seen.append((done, total)))
    total_bytes = first.stated.size_bytes
    assert seen == sorted(seen)
    assert seen[-1] == (total_bytes, total_bytes)
    monkeypatch.setattr("inference.model.folder.hash_tensors", None)
    seen.clear()
    again = await open_model_folder(str(split), disk, inline, lambda done, total: seen.append((done, total)))
    assert again.digest == first.digest
    assert seen[-1] == (total_bytes, total_bytes)


async def test_a_changed_file_is_hashed_again_and_so_is_one_with_a_damaged_entry(folder: Path) -> None:
    disk = MemoryDisk()
    first = await opened(folder, disk)
    tensors = tiny_tensors()
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    save_file(tensors, folder / "model.safetensors")
    second = await opened(folder, disk)
    assert second.digest != first.digest
    disk.files = dict.fromkeys(disk.files, b"{")
    assert (await opened(folder, disk)).digest == second.digest


# Bad folders ---------------------------------------------------------------------------------------------------------


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, data: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return damage


def rename(old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / old).rename(folder / new)

    return damage


def change_tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-4])


def with_config(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_bytes())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return damage


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (remove("config.json"), "has no config.json: give"),
        (remove("tokenizer.json"), "has no tokenizer.json: give"),
        (remove("model.safetensors"), "has no model.safetensors: download"),
        (rename("model.safetensors", "pytorch_model.bin"), "pytorch_model.bin is a pickle.*: convert"),
        (rename("model.safetensors", "model-1.safetensors"), "no model.safetensors.index.json: download"),
        (write("config.json", b"{"), "config.json cannot be read"),
        (with_config(architectures=["GPT2LMHeadModel"], model_type="gpt2"), "GPT2LMHeadModel"),
        (write("model.safetensors", b""), "too short.*: download it again"),
        (write("model.safetensors", b"PK\x03\x04 this is a pickle"), "header claims.*: download it again"),
        (write("model.safetensors", struct.pack("<Q", 2) + b"[]"), "not a JSON object.*: download it again"),
        (truncate, "accounts for.*: download it again"),
        (
            change_tensors(lambda tensors: tensors.pop(NORM)),
            f"lacks tensor {NORM}.*: download the model again",
        ),
        (
            change_tensors(lambda tensors: tensors.update({NORM: np.ones(31, np.float32)})),
            "of shape.*: download the model again",
        ),
        (
            change_tensors(lambda tensors: tensors.update({NORM: np.ones(32, np.int64)})),
            "weft reads F32, BF16, F16.*: download it again",
        ),
        (with_config(num_hidden_layers=5), "lacks tensor model.layers.4"),
    ],
)
async def test_a_bad_folder_is_one_line_with_the_next_step(
    folder: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    damage(folder)
    with pytest.raises(UserError, match=complaint) as refused:
        await opened(folder)
    assert "\n" not in str(refused.value)


async def test_a_missing_folder_and_a_file_in_its_place_are_refused(folder: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", folder / "config.json"):
        with pytest.raises(UserError, match="there is no folder"):
            await opened(path)


@pytest.mark.parametrize(
    ("index", "complaint"),
    [
        (b"{", "cannot be read"),
        (b'{"weight_map": [1]}', "cannot be read"),
        (b'{"weight_map": {"a": "../tiny/model.safetensors"}}', "no file of this folder"),
        (b'{"weight_map": {"a": "/etc/passwd"}}', "no file of this folder"),
        (b'{"weight_map": {"a": "..\\\\model.safetensors"}}', "no file of this folder"),
        (b'{"weight_map": {"a": "pytorch_model.bin"}}', "no file of this folder"),
        (b'{"weight_map": {"a": "model-00009-of-00003.safetensors"}}', "is missing: download the rest"),
        (b'{"weight_map": {}}', "lacks tensor"),
    ],
)
async def test_a_bad_index_is_refused(folder: Path, split: Path, index: bytes, complaint: str) -> None:
    (split / INDEX).write_bytes(index)
    with pytest.raises(UserError, match=complaint):
        await opened(split)


async def test_an_index_with_a_file_missing_is_refused(split: Path) -> None:
    (split / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00003.safetensors, which is missing: download"):
        await opened(split)


async def test_a_tensor_in_two_files_is_refused(split: Path) -> None:
    first = split / "model-00001-of-00003.safetensors"
    save_file(load_file(first) | {NORM: np.ones(32, np.float32)}, first)
    second = split / "model-00002-of-00003.safetensors"
    save_file(load_file(second) | {NORM: np.ones(32, np.float32)}, second)
    with pytest.raises(UserError, match="in two files"):
        await opened(split)


async def test_a_weight_file_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(UserError, match="cannot be opened"):
        await opened(folder)
