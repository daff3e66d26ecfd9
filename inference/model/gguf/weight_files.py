"""How the tensors of a new folder are spread over safetensors files, and what the heads and the index of these say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from inference.model.gguf.weights import PlannedTensor
from mesh.state.tensor_file import LENGTH

FILE_BYTES_MAX: Final = 4 << 30  # of tensors; one that is larger has a file of its own
INDEX: Final = "model.safetensors.index.json"
_ALIGNMENT: Final = 8


def spread(
    tensors: Sequence[PlannedTensor], bytes_max: int = FILE_BYTES_MAX
) -> dict[str, list[PlannedTensor]]:
    """The tensors of every file, in their order."""
    parts: list[list[PlannedTensor]] = [[]]
    left = bytes_max
    for tensor in tensors:
        if parts[-1] and tensor.size_bytes > left:
            parts.append([])
            left = bytes_max
        parts[-1].append(tensor)
        left -= tensor.size_bytes
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {f"model-{number:05}-of-{len(parts):05}.safetensors": part for number, part in enumerate(parts, 1)}


def head(tensors: Sequence[PlannedTensor]) -> bytes:
    """What precedes the data of these tensors, which lie one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers wants to be told
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.size_bytes
        header[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    return LENGTH.pack(len(encoded)) + encoded


def index(files: dict[str, list[PlannedTensor]]) -> bytes:
    """Which file has which tensor."""
    size_bytes = sum(tensor.size_bytes for tensors in files.values() for tensor in tensors)
    places = {tensor.name: name for name, tensors in files.items() for tensor in tensors}
    return json.dumps({"metadata": {"total_size": size_bytes}, "weight_map": places}, indent=1).encode()
