"""Quantised weights kept on disk: to quantise a model takes several times as long as to read what came of it.

    <content>-<form>-1.safetensors      items, scales; in its metadata a checksum of both

Named by what the tensor holds, so that all models, ranges and versions that have it share it. Unpacked, because the order that
a kernel packs weights in belongs to the processor and the release of torch. A file that is not what was written is told of,
quantised again and replaced; one that cannot be written is done without.
"""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from inference.engine.kernels.quantised import Int8Weight, Quantised
from inference.model.stored_tensors import StoredTensors
from inference.model.weights import bytes_of
from protocols.errors import LocalFault, Malformed

FORMAT: Final = "1"
KEPT_BYTES_MAX: Final = 64 << 30
_SHARE_OF_FREE: Final = 0.5  # of what is free on the disk, a file takes no more
_CHECKSUM: Final = "crc32"

log = logging.getLogger("weft.worker")


class QuantisedFolder:
    """The folder is made when something is to be kept. Several workers may use it: files are replaced whole."""

    def __init__(self, path: Path, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._path = path
        self._bytes_max = bytes_max

    def recall(self, content: str, weight: Quantised) -> bool:
        """Fills the weight with what is kept of a tensor of its form and shape; False, and anything may be in it, if nothing is,
        or nothing that is whole."""
        path = self._file(content, weight)
        if not path.exists():
            return False
        try:
            _read_into(path, weight)
            os.utime(path)  # the ones that nobody asks for go first
        except (OSError, Malformed, LocalFault) as error:
            log.warning("the quantised weights in %s are damaged (%s): they are made again", path, error)
            return False
        return True

    def keep(self, content: str, weight: Quantised) -> None:
        path = self._file(content, weight)
        parts = _parts(weight)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            size_bytes = sum(part.nbytes for part in parts.values())
            if size_bytes > _SHARE_OF_FREE * shutil.disk_usage(self._path).free:
                return
            save_file(parts, partial, {_CHECKSUM: _checksum(parts)})
            partial.replace(path)
            self._sweep(path)
        except (OSError, SafetensorError) as error:
            log.warning(
                "quantised weights cannot be kept in %s (%s): they are made anew at every load", path, error
            )
            with suppress(OSError):
                partial.unlink()

    def _file(self, content: str, weight: Quantised) -> Path:
        form = "int8" if isinstance(weight, Int8Weight) else "int4"
        return self._path / f"{content}-{form}-{FORMAT}.safetensors"

    def _sweep(self, newest: Path) -> None:
        states = []
        for path in self._path.iterdir():
            with suppress(FileNotFoundError):  # another worker has just renamed or removed it
                state = path.stat()
                states.append((state.st_mtime_ns, state.st_size, path))
        states.sort()
        excess_bytes = sum(size_bytes for _, size_bytes, _ in states) - self._bytes_max
        for _, size_bytes, path in states:
            if excess_bytes <= 0:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                excess_bytes -= size_bytes


_STORED_AS: Final = {torch.int8: "I8", torch.uint8: "U8", torch.float32: "F32", torch.bfloat16: "BF16"}


def _read_into(path: Path, weight: Quantised) -> None:
    parts = _parts(weight)
    with StoredTensors(str(path)) as file:
        expected = {name: (_STORED_AS[part.dtype], tuple(part.shape)) for name, part in parts.items()}
        if {tensor.name: (tensor.dtype, tensor.shape) for tensor in file.tensors} != expected:
            raise Malformed("it holds another tensor")
        for name, part in parts.items():
            file.read_into(file[name], 0, bytes_of(part))
        if file.metadata.get(_CHECKSUM) != _checksum(parts):
            raise Malformed("its checksum is another")


def _parts(weight: Quantised) -> dict[str, Tensor]:
    items = weight.items if isinstance(weight, Int8Weight) else weight.nibbles
    return {"items": items, "scales": weight.scales}


def _checksum(parts: dict[str, Tensor]) -> str:
    value = 0
    for name in sorted(parts):
        value = zlib.crc32(bytes_of(parts[name]), value)
    return f"{value:08x}"
