"""Weight transfer: ask a holder for a manifest, a small file or a tensor; bytes follow in chunks.

fetcher                          holder
  | FetchManifest(digest)  ---->   |
  | FetchBlob(digest, sha, offset) |
  | <------------ Coming(size) | Missing
  | <--- size raw bytes, unframed  |   the fetcher checks the sha256 before the file gets its name
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from protocols import limits
from protocols.manifest import Digest as BlobDigest
from protocols.messages import Codec
from protocols.placement import Digest


class FetchManifest(msgspec.Struct, frozen=True, array_like=True, tag="manifest"):
    model: Digest


class FetchBlob(msgspec.Struct, frozen=True, array_like=True, tag="blob"):
    """A small file or a tensor of `model`, named by the sha256 of its raw bytes, from `offset` on."""

    model: Digest
    sha256: BlobDigest
    offset: Annotated[int, msgspec.Meta(ge=0)] = 0


class Coming(msgspec.Struct, frozen=True, array_like=True, tag="coming"):
    """`size_bytes` raw bytes follow this frame on the stream."""

    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=limits.TENSOR_BYTES_MAX)]


class Missing(msgspec.Struct, frozen=True, array_like=True, tag="missing"):
    """The sender does not have it."""


WeightsMessage = FetchManifest | FetchBlob | Coming | Missing
WEIGHTS_CODEC: Final[Codec[WeightsMessage]] = Codec(WeightsMessage)
