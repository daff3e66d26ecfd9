"""What a model *is*: the canonical manifest, whose sha256 names the model everywhere.

The bytes of `canonical()` are JSON with fields in the order below and tensors sorted by name, so that any
implementation arrives at the same digest. Caches, weight transfer, claims and evolution all use it.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec

from protocols import limits
from protocols.errors import Malformed
from protocols.ids import ModelDigest, TensorDigest

Digest = Annotated[TensorDigest, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
TensorName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.]{1,256}\Z")]

DTYPE_BYTES: Final = {"F32": 4, "BF16": 2, "F16": 2}
"""The safetensors dtypes that weft reads, with their item sizes."""


class TensorEntry(msgspec.Struct, frozen=True, array_like=True):
    """`dtype` as safetensors writes it; `sha256` of the raw little-endian bytes."""

    name: TensorName
    dtype: Annotated[str, msgspec.Meta(max_length=8)]
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, le=1 << 32)], ...], msgspec.Meta(max_length=4)]
    sha256: Digest

    @property
    def content(self) -> str:
        """A name for what the tensor holds, fit for a file; the same in all models that have it."""
        shape = "x".join(map(str, self.shape)) or "scalar"
        return f"{self.sha256}-{self.dtype}-{shape}"

    @property
    def size_bytes(self) -> int:
        """Raises `Malformed` for a dtype that weft does not read."""
        if self.dtype not in DTYPE_BYTES:
            raise Malformed(
                f"tensor {self.name} has dtype {self.dtype}, and weft reads {', '.join(DTYPE_BYTES)}"
            )
        size = DTYPE_BYTES[self.dtype]
        for extent in self.shape:
            size *= extent
        return size


class FileEntry(msgspec.Struct, frozen=True, array_like=True):
    """A small file that travels whole: config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.]{1,64}\Z")]
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=limits.SMALL_FILE_BYTES_MAX)]
    sha256: Digest


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """Files and tensors sorted by name."""

    files: Annotated[tuple[FileEntry, ...], msgspec.Meta(max_length=16)]
    tensors: Annotated[tuple[TensorEntry, ...], msgspec.Meta(max_length=limits.TENSORS_MAX)]

    def canonical(self) -> bytes:
        return msgspec.json.encode(self)

    @property
    def digest(self) -> ModelDigest:
        return ModelDigest(hashlib.sha256(self.canonical()).hexdigest())

    @property
    def size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)


def make_manifest(files: list[FileEntry], tensors: list[TensorEntry]) -> Manifest:
    return Manifest(
        tuple(sorted(files, key=lambda entry: entry.name)),
        tuple(sorted(tensors, key=lambda entry: entry.name)),
    )


def parse_manifest(canonical: bytes, expected: ModelDigest) -> Manifest:
    """The manifest in `canonical`; raises `Malformed` unless it decodes, is in canonical form and has that digest."""
    if hashlib.sha256(canonical).hexdigest() != expected:
        raise Malformed("the manifest does not have the digest that it was asked for by")
    try:
        manifest = msgspec.json.decode(canonical, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"undecodable manifest: {error}") from error
    names = [entry.name for entry in manifest.tensors]
    if manifest.canonical() != canonical or names != sorted(set(names)):
        raise Malformed("the manifest is not in canonical form")
    return manifest
