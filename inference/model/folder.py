"""A Hugging Face folder: checked, hashed, and from then on a source of its manifest, files and tensors.

Only safetensors are read. Pickled weights run code when they are opened and are refused by name. The index of a model in
many files names files of its own folder and nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from inference.model.config import ModelConfig
from inference.model.config_json import parse_config
from inference.model.digests import DigestCache, hash_tensors
from inference.model.stored_tensors import read_tensors
from mesh.state.blobs import Blob, Bytes
from mesh.state.files import FileRange, FileState, Offload, file_state, list_folder, read_file
from mesh.state.tensor_file import StoredTensor
from protocols import limits
from protocols.errors import LocalFault, Malformed, UserError
from protocols.ids import ModelDigest, TensorDigest
from protocols.manifest import FileEntry, Manifest, TensorEntry, make_manifest
from protocols.placement import LayerRange
from protocols.seams import Disk, TensorFile

SMALL_FILES: Final = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)
_NEEDED: Final = SMALL_FILES[:2]
_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_PICKLES: Final = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npz")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors")

Progress = Callable[[int, int], None]


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class _WeightFile:
    path: str
    state: FileState
    tensors: tuple[StoredTensor, ...]

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)


class ModelFolder:
    """Implements `mesh.state.blobs.BlobSource` for its one model. `files` are the small ones."""

    def __init__(
        self,
        path: str,
        config: ModelConfig,
        files: Mapping[str, bytes],
        stated: Manifest,
        ranges: Mapping[str, FileRange],
    ) -> None:
        self.path = path
        self.config = config
        self.files = files
        self.stated = stated
        self.digest = stated.digest
        self._ranges = ranges
        self._contents = {entry.name: entry.content for entry in stated.tensors}
        self._blobs: dict[TensorDigest, Blob] = {
            file.sha256: Bytes(files[file.name]) for file in stated.files
        }
        self._blobs |= {tensor.sha256: ranges[tensor.name] for tensor in stated.tensors}

    @property
    def name(self) -> str:
        """What people call it: the last part of its path."""
        return self.path.rstrip("/").rpartition("/")[2]

    def tensor_files(self, names: Iterable[str]) -> tuple[TensorFile, ...]:
        """Where the worker finds these tensors. Raises `Malformed` for one that the model has not."""
        try:
            return tuple(
                TensorFile(name, self._ranges[name].path, name, self._contents[name]) for name in names
            )
        except KeyError as error:
            raise Malformed(f"the model has no tensor {error}") from error

    def manifest(self, model: ModelDigest) -> Blob | None:
        return Bytes(self.stated.canonical()) if model == self.digest else None

    def blob(self, model: ModelDigest, sha256: TensorDigest) -> Blob | None:
        return self._blobs.get(sha256) if model == self.digest else None


async def open_model_folder(path: str, disk: Disk, offload: Offload, on_progress: Progress) -> ModelFolder:
    """The checked folder; `path` is absolute. Reads every byte of the weights unless `disk` remembers their digests.

    `on_progress(done_bytes, total_bytes)`. Raises `UserError` with what to do about a folder that can't be used.
    """
    names = list_folder(path)
    if names is None and path.endswith(".gguf"):
        raise UserError(f"{path} is no folder: turn it into one with 'weft import {path}', then offer that")
    if names is None:
        raise UserError(f"there is no folder {path}: give the folder of a downloaded model")
    _check_names(path, names)
    files = _read_small_files(path, names)
    config = parse_config(files["config.json"])
    weights = await offload(lambda: [_read_weight_file(path, name) for name in _weight_names(path, names)])
    _check_tensors(path, config, weights)
    digests = await _digests(weights, DigestCache(disk), offload, on_progress)
    return _assembled(path, config, files, weights, digests)


def _check_names(path: str, names: tuple[str, ...]) -> None:
    for needed in _NEEDED:
        if needed not in names:
            raise UserError(f"{path} has no {needed}: give the folder of a complete Hugging Face model")
    if any(name.endswith(".safetensors") for name in names):
        return
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        raise UserError(
            f"{path}/{pickles[0]} is a pickle, which can run code when it is opened: convert the model to safetensors"
        )
    raise UserError(f"{path} has no {_SINGLE}: download the weights of the model as safetensors")


def _read_small_files(path: str, names: tuple[str, ...]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name in SMALL_FILES:
        if name in names:
            try:
                data = read_file(f"{path}/{name}", limits.SMALL_FILE_BYTES_MAX)
            except LocalFault as fault:
                raise UserError(f"{fault}: download the model again") from fault
            files[name] = data or b""
    return files


def _weight_names(path: str, names: tuple[str, ...]) -> list[str]:
    """The files with weights: the one, or those of the index."""
    if _SINGLE in names:
        return [_SINGLE]
    if _INDEX not in names:
        raise UserError(f"{path} has several weight files and no {_INDEX}: download the model again")
    try:
        index = msgspec.json.decode(
            read_file(f"{path}/{_INDEX}", limits.SMALL_FILE_BYTES_MAX) or b"", type=_Index
        )
    except (msgspec.DecodeError, RecursionError, LocalFault) as error:
        raise UserError(f"{path}/{_INDEX} cannot be read ({error}): download the model again") from error
    wanted = sorted(set(index.weight_map.values()))
    for name in wanted:
        if not _FILE_NAME.fullmatch(name):
            raise UserError(
                f"{path}/{_INDEX} points at {name[:80]!r}, which is no file of this folder: do not use it"
            )
        if name not in names:
            raise UserError(f"{path}/{_INDEX} names {name}, which is missing: download the rest of the model")
    return wanted


def _read_weight_file(folder: str, name: str) -> _WeightFile:
    path = f"{folder}/{name}"
    state = file_state(path)
    if state is None:
        raise UserError(f"{path} cannot be opened: download the model again")
    try:
        tensors = read_tensors(path)
    except (Malformed, LocalFault) as error:
        raise UserError(f"{path} is not a sound safetensors file ({error}): download it again") from error
    return _WeightFile(path, state, tensors)


def _check_tensors(path: str, config: ModelConfig, weights: list[_WeightFile]) -> None:
    """Every tensor that the configuration calls for is there once, in its shape."""
    stored: dict[str, StoredTensor] = {}
    for file in weights:
        for tensor in file.tensors:
            if tensor.name in stored:
                raise UserError(f"{path} has tensor {tensor.name} in two files: download the model again")
            stored[tensor.name] = tensor
    for name in config.tensor_names(LayerRange(0, config.layers)):
        if name not in stored:
            raise UserError(
                f"{path} lacks tensor {name}, which its config.json calls for: download the model again"
            )
        if stored[name].shape != config.expected_shape(name):
            raise UserError(
                f"{path} has tensor {name} of shape {stored[name].shape}, and its config.json says"
                f" {config.expected_shape(name)}: download the model again"
            )


async def _digests(
    weights: list[_WeightFile], cache: DigestCache, offload: Offload, on_progress: Progress
) -> dict[str, TensorDigest]:
    done_bytes, total_bytes = 0, sum(file.tensor_bytes for file in weights)
    digests: dict[str, TensorDigest] = {}

    def advance(count: int) -> None:
        nonlocal done_bytes
        done_bytes += count
        on_progress(done_bytes, total_bytes)

    for file in weights:
        known = cache.recall(file.path, file.state)
        if known is None or known.keys() != {tensor.name for tensor in file.tensors}:
            known = await hash_tensors(file.path, file.tensors, offload, advance)
            cache.remember(file.path, file.state, known)
        else:
            advance(file.tensor_bytes)
        digests |= known
    return digests


def _assembled(
    path: str,
    config: ModelConfig,
    files: dict[str, bytes],
    weights: list[_WeightFile],
    digests: dict[str, TensorDigest],
) -> ModelFolder:
    entries, ranges = [], {}
    for file in weights:
        for tensor in file.tensors:
            entries.append(TensorEntry(tensor.name, tensor.dtype, tensor.shape, digests[tensor.name]))
            ranges[tensor.name] = FileRange(file.path, tensor.start, tensor.size_bytes)
    small = [
        FileEntry(name, len(data), TensorDigest(hashlib.sha256(data).hexdigest()))
        for name, data in files.items()
    ]
    return ModelFolder(path, config, files, make_manifest(small, entries), ranges)
