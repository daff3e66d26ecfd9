"""A GGUF file becomes a Hugging Face folder: everything is checked first, then the weights are written piece by piece."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from inference.model.config import ModelConfig
from inference.model.config_json import parse_config
from inference.model.gguf.architectures import architecture_of
from inference.model.gguf.configuration import config_of
from inference.model.gguf.file import GgufFile, open_gguf
from inference.model.gguf.new_folder import NewFolder, new_folder
from inference.model.gguf.tokenizer import tokenizer_config, tokenizer_json
from inference.model.gguf.vocabulary import read_vocabulary
from inference.model.gguf.weight_files import FILE_BYTES_MAX, INDEX, head, index, spread
from inference.model.gguf.weights import PlannedTensor, bf16_pieces, plan_tensors
from inference.model.template import ChatTemplate
from inference.model.text import Text
from protocols.errors import UserError

_TEMPLATE: Final = "chat_template"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Imported:
    """What was made of a file. `notes` are sentences on what was left out."""

    folder: Path
    family: str
    layers: int
    size_bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Planned:
    config: ModelConfig
    small_files: dict[str, bytes]
    tensors: list[PlannedTensor]
    notes: tuple[str, ...]


def import_gguf(
    source: Path, target: Path, on_progress: Progress, file_bytes_max: int = FILE_BYTES_MAX
) -> Imported:
    """Make the folder `target`, with weights in bf16, out of the file `source`; `on_progress(done_bytes, total_bytes)`.

    `target` is there when all of it is, and not before. Holds a few pieces of a tensor at a time, whatever the size of the
    model. Raises `UserError` for a file that is broken or that weft does not run, and for a target that is taken or too full.
    """
    with open_gguf(source) as file:
        planned = _plan(file)
        size_bytes = sum(tensor.size_bytes for tensor in planned.tensors)
        with new_folder(target, size_bytes) as folder:
            for name, data in planned.small_files.items():
                folder.write(name, data)
            _write_weights(file, folder, spread(planned.tensors, file_bytes_max), on_progress, size_bytes)
    return Imported(target, planned.config.family, planned.config.layers, size_bytes, planned.notes)


def _plan(file: GgufFile) -> _Planned:
    if (file.metadata.find("split.count", int) or 1) > 1:
        raise UserError(
            f"{file.path} is one part of a model in several: join them with llama-gguf-split --merge, then import that"
        )
    architecture = architecture_of(file)
    raw = config_of(file, architecture)
    config = _checked(file, raw)
    tensors = plan_tensors(file, architecture, config)
    vocabulary = read_vocabulary(file.metadata, config.vocabulary)
    raw["eos_token_id"] = list(vocabulary.ends)
    if vocabulary.bos is not None:
        raw["bos_token_id"] = vocabulary.bos
    settings = tokenizer_config(file.metadata, vocabulary, config.context)
    notes = _without_broken_template(settings)
    files = {
        "config.json": json.dumps(raw, indent=1).encode(),
        "tokenizer.json": tokenizer_json(file, vocabulary),
        "tokenizer_config.json": json.dumps(settings, ensure_ascii=False, indent=1).encode(),
    }
    Text(files)  # raises for what it cannot use
    return _Planned(_checked(file, raw), files, tensors, notes)


def _checked(file: GgufFile, raw: dict[str, Any]) -> ModelConfig:
    try:
        return parse_config(json.dumps(raw).encode())
    except UserError as error:
        raise UserError(f"{file.path} cannot be imported; its values as a config.json: {error}") from error


def _without_broken_template(settings: dict[str, Any]) -> tuple[str, ...]:
    """Takes it out of the settings, since nobody could mend it within the file."""
    if _TEMPLATE not in settings:
        return ("the file has no chat template: turns are marked with their roles",)
    try:
        ChatTemplate(settings[_TEMPLATE], {})
    except UserError as error:
        del settings[_TEMPLATE]
        return (f"left out, so that turns are marked with their roles: {error.__cause__}",)
    return ()


def _write_weights(
    file: GgufFile,
    folder: NewFolder,
    files: dict[str, list[PlannedTensor]],
    on_progress: Progress,
    total_bytes: int,
) -> None:
    done_bytes = 0

    def data(tensors: list[PlannedTensor]) -> Iterator[bytes]:
        nonlocal done_bytes
        yield head(tensors)
        for tensor in tensors:
            for piece in bf16_pieces(file, tensor):
                yield piece.tobytes()
                done_bytes += piece.nbytes
                on_progress(done_bytes, total_bytes)

    for name, tensors in files.items():
        folder.write_pieces(name, data(tensors))
    if len(files) > 1:
        folder.write(INDEX, index(files))
