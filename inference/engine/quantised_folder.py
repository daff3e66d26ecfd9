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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from inference.engine.quantised import Int4Weight, Int8Weight
from inference.model.precision import INT4_GROUP

FORMAT: Final = "1"
KEPT_BYTES_MAX: Final = 64 << 30
_SHARE_OF_FREE: Final = 0.5  # of what is free on the disk, a file takes no more
_CHECKSUM: Final = "crc32"

log = logging.getLogger("weft.worker")

Quantised = Int8Weight | Int4Weight


class QuantisedFolder:
    """The folder is made when something is to be kept. Several workers may use it: files are replaced whole."""

    def __init__(self, path: Path, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._path = path
        self._bytes_max = bytes_max

    def recall(self, content: str, form: str, shape: tuple[int, int]) -> Quantised | None:
        """What is kept of a tensor [outputs, inputs]; None if nothing is, or nothing that is whole."""
        path = self._file(content, form)
        if not path.exists():
            return None
        try:
            weight = _read(path, form, shape)
            os.utime(path)  # the ones that nobody asks for go first
        except (OSError, ValueError, SafetensorError) as error:
            log.warning("the quantised weights in %s are damaged (%s): they are made again", path, error)
            return None
        return weight

    def keep(self, content: str, weight: Quantised) -> None:
        form = "int8" if isinstance(weight, Int8Weight) else "int4"
        path = self._file(content, form)
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

    def _file(self, content: str, form: str) -> Path:
        return self._path / f"{content}-{form}-{FORMAT}.safetensors"

    def _sweep(self, newest: Path) -> None:
        states = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self._path.iterdir())
        excess_bytes = sum(size_bytes for _, size_bytes, _ in states) - self._bytes_max
        for _, size_bytes, path in states:
            if excess_bytes <= 0:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                excess_bytes -= size_bytes


def _read(path: Path, form: str, shape: tuple[int, int]) -> Quantised:
    with safe_open(path, framework="pt") as file:
        parts = {name: file.get_tensor(name) for name in sorted(file.keys())}
        stated = (file.metadata() or {}).get(_CHECKSUM)
    if {name: (part.dtype, tuple(part.shape)) for name, part in parts.items()} != _expected(form, shape):
        raise ValueError("it holds another tensor")
    if stated != _checksum(parts):
        raise ValueError("its checksum is another")
    if form == "int8":
        return Int8Weight(parts["items"], parts["scales"])
    return Int4Weight(parts["items"], parts["scales"], shape[1])


def _expected(form: str, shape: tuple[int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    outputs, inputs = shape
    if form == "int8":
        return {"items": (torch.int8, shape), "scales": (torch.float32, (outputs,))}
    groups = -(-inputs // INT4_GROUP)
    return {
        "items": (torch.uint8, (outputs, groups * INT4_GROUP // 2)),
        "scales": (torch.bfloat16, (outputs, groups, 2)),
    }


def _parts(weight: Quantised) -> dict[str, Tensor]:
    items = weight.items if isinstance(weight, Int8Weight) else weight.nibbles
    return {"items": items, "scales": weight.scales}


def _checksum(parts: dict[str, Tensor]) -> str:
    value = 0
    for name in sorted(parts):
        value = zlib.crc32(parts[name].contiguous().view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
