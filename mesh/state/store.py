"""Manifests, small files and tensors by their digests, below one folder of this node.

    models/<digest>.json                               a canonical manifest
    files/<sha256>                                     a small file
    tensors/<sha256>-<dtype>-<shape>.safetensors       one tensor, under its sha256 as key, so that the worker can open it
    partial/...                                        what is still being written; of earlier attempts the newest stay

Type and shape stand in a tensor's name because equal bytes can be different tensors. What has its final name was verified,
so that only the size is looked at again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import count
from pathlib import PurePath
from typing import Final

from mesh.state import files
from mesh.state.blobs import Blob
from mesh.state.files import FileRange, PartialFile
from mesh.state.incoming import Incoming
from mesh.state.tensor_file import write_head
from protocols import limits
from protocols.errors import LocalFault, Malformed
from protocols.ids import ModelDigest, TensorDigest
from protocols.manifest import FileEntry, Manifest, TensorEntry, parse_manifest
from protocols.seams import TensorFile

_UNIQUE: Final = "new-"  # begins the names of partial files that are not gone on with
_FOLDERS: Final = ("models", "files", "tensors", "partial")


class WeightStore:
    """Implements `mesh.state.blobs.BlobSource`. Every call blocks for as long as the disk takes, and raises `LocalFault`."""

    def __init__(self, root: str) -> None:
        """Makes the folders, and sweeps what nobody will go on with; one daemon at a time may use them."""
        self._root = root
        self._numbers = count()
        self._busy: set[str] = set()  # final paths of what is coming in
        self._manifests: dict[ModelDigest, Manifest] = {}
        for folder in _FOLDERS:
            files.make_folder(f"{root}/{folder}")
        self._sweep()

    # What is here ----------------------------------------------------------------------------------------------------

    def models(self) -> tuple[ModelDigest, ...]:
        """Those whose manifest and small files are here."""
        names = files.list_folder(f"{self._root}/models") or ()
        models = (ModelDigest(name.removesuffix(".json")) for name in names)
        return tuple(model for model in models if self._is_readable(model))

    def stated(self, model: ModelDigest) -> Manifest | None:
        """The manifest of a model, if it is here. Raises `LocalFault` if the file was damaged."""
        if model not in self._manifests:
            canonical = files.read_file(self._manifest_path(model), limits.MANIFEST_BYTES_MAX)
            if canonical is None:
                return None
            try:
                self._manifests[model] = parse_manifest(canonical, model)
            except Malformed as error:
                raise LocalFault(f"{self._manifest_path(model)} is damaged: remove it") from error
        return self._manifests[model]

    def has_file(self, entry: FileEntry) -> bool:
        return _has(self._file_path(entry.sha256), entry.size_bytes)

    def has_tensor(self, entry: TensorEntry) -> bool:
        return _has(self._tensor_path(entry), len(_head(entry)) + entry.size_bytes)

    def small_files(self, model: ModelDigest) -> dict[str, bytes]:
        """By name. Raises `LocalFault` if the manifest or one of them is not here."""
        manifest = self._known(model)
        contents = {}
        for entry in manifest.files:
            data = files.read_file(self._file_path(entry.sha256), limits.SMALL_FILE_BYTES_MAX)
            if data is None or hashlib.sha256(data).hexdigest() != entry.sha256:
                raise LocalFault(f"the file {entry.name} of a model is not in the store, or damaged")
            contents[entry.name] = data
        return contents

    def small_path(self, model: ModelDigest, name: str) -> str:
        """Where one of the model's small files lies; empty if it is not here."""
        entries = [entry for entry in self._known(model).files if entry.name == name and self.has_file(entry)]
        return self._file_path(entries[0].sha256) if entries else ""

    def tensor_files(self, model: ModelDigest, names: Iterable[str]) -> tuple[TensorFile, ...]:
        """Where the worker finds these tensors. Raises `LocalFault` for one that is not here."""
        entries = {entry.name: entry for entry in self._known(model).tensors}
        found = []
        for name in names:
            if name not in entries or not self.has_tensor(entries[name]):
                raise LocalFault(f"tensor {name} of a model is not in the store")
            entry = entries[name]
            found.append(TensorFile(name, self._tensor_path(entry), entry.sha256, entry.content))
        return tuple(found)

    def manifest(self, model: ModelDigest) -> Blob | None:
        state = files.file_state(self._manifest_path(model))
        return FileRange(self._manifest_path(model), 0, state.size_bytes) if state else None

    def blob(self, model: ModelDigest, sha256: TensorDigest) -> Blob | None:
        manifest = self.stated(model)
        if manifest is None:
            return None
        for file in manifest.files:
            if file.sha256 == sha256 and self.has_file(file):
                return FileRange(self._file_path(sha256), 0, file.size_bytes)
        for tensor in manifest.tensors:
            if tensor.sha256 == sha256 and self.has_tensor(tensor):
                return FileRange(self._tensor_path(tensor), len(_head(tensor)), tensor.size_bytes)
        return None

    # What comes in ---------------------------------------------------------------------------------------------------

    def put_manifest(self, manifest: Manifest) -> None:
        canonical = manifest.canonical()
        with self._partial(self._manifest_path(manifest.digest)) as partial:
            partial.write(canonical)
            partial.commit()
        self._manifests[manifest.digest] = manifest

    def receive_file(self, entry: FileEntry) -> Incoming:
        return self._incoming(self._file_path(entry.sha256), entry.sha256, entry.size_bytes)

    def receive_tensor(self, entry: TensorEntry) -> Incoming:
        """Raises `Malformed` for a type that weft does not read."""
        return self._incoming(self._tensor_path(entry), entry.sha256, entry.size_bytes, _head(entry))

    # Paths -----------------------------------------------------------------------------------------------------------

    def _known(self, model: ModelDigest) -> Manifest:
        manifest = self.stated(model)
        if manifest is None:
            raise LocalFault(f"the manifest of model {model[:8]} is not in the store")
        return manifest

    def _is_readable(self, model: ModelDigest) -> bool:
        try:
            manifest = self.stated(model)
        except LocalFault:
            return False
        return manifest is not None and all(self.has_file(entry) for entry in manifest.files)

    def _sweep(self) -> None:
        """Of what an earlier daemon left half written, the newest may be gone on with."""
        folder = f"{self._root}/partial"
        ages_ns: dict[str, int] = {}
        for name in files.list_folder(folder) or ():
            state = files.file_state(f"{folder}/{name}")
            ages_ns[name] = 0 if state is None or name.startswith(_UNIQUE) else state.mtime_ns
        newest = sorted((name for name, age_ns in ages_ns.items() if age_ns), key=ages_ns.__getitem__)
        for name in sorted(ages_ns.keys() - set(newest[-limits.PARTIAL_BLOBS_MAX :])):
            files.remove_file(f"{folder}/{name}")

    def _partial(self, final: str) -> PartialFile:
        return PartialFile(f"{self._root}/partial/{_UNIQUE}{next(self._numbers)}", final)

    def _incoming(self, final: str, sha256: TensorDigest, size_bytes: int, head: bytes = b"") -> Incoming:
        """Goes on with what an earlier attempt left, unless another one is at it right now."""
        if final in self._busy:
            return Incoming(self._partial(final), sha256, size_bytes, head)
        resumable = PartialFile(f"{self._root}/partial/{PurePath(final).name}", final, resumable=True)
        self._busy.add(final)
        return Incoming(resumable, sha256, size_bytes, head, lambda: self._busy.discard(final))

    def _manifest_path(self, model: ModelDigest) -> str:
        return f"{self._root}/models/{model}.json"

    def _file_path(self, sha256: TensorDigest) -> str:
        return f"{self._root}/files/{sha256}"

    def _tensor_path(self, entry: TensorEntry) -> str:
        return f"{self._root}/tensors/{entry.content}.safetensors"


def _head(entry: TensorEntry) -> bytes:
    return write_head(entry.sha256, entry.dtype, entry.shape, entry.size_bytes)


def _has(path: str, size_bytes: int) -> bool:
    state = files.file_state(path)
    return state is not None and state.size_bytes == size_bytes
