"""A whole model in one process, without a mesh: what an unbroken run answers.

    echo '{"model": DIR, "prompt_ids": [1, 2], "max_tokens": 8}' | python -m inference.engine.reference

One JSON object in, one out: {"token_ids", "stopped", "numerics_class"}. Prompts go in the pieces that sessions use, so that
an answer of the mesh must equal this one, token for token, where the numerics class is the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import torch

from inference.engine.engine import WIRE_DTYPES, WIRE_NUMERICS, ShardEngine
from inference.engine.memory.kv_cache import KvBudget
from inference.model.config_json import parse_config
from inference.model.stored_tensors import StoredTensors
from protocols import limits
from protocols.errors import LocalFault, Malformed, UserError, WeftError
from protocols.ids import SessionId
from protocols.seams import CacheSpec, TensorFile
from protocols.session import Sampling
from protocols.tensor import Frame, Header, Kind

_SESSION: Final = SessionId("0" * 32)


class Question(msgspec.Struct, frozen=True):
    """`stop_ids` null takes those of config.json. `threads` must be what the workers of the mesh have. `sampling`, as on the
    wire, stands for `temperature`, `top_k`, `top_p` and `seed` if it is given."""

    model: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    dtype: str = "bf16"
    numerics: str = "exact"
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] | None = None
    threads: int = 1
    sampling: Sampling | None = None

    @property
    def draws(self) -> Sampling:
        return self.sampling or Sampling(self.temperature, self.top_k, self.top_p, self.seed)


class Answer(msgspec.Struct, frozen=True):
    """`token_ids` as drawn, a stop id at their end included, which `stopped` tells."""

    token_ids: tuple[int, ...]
    stopped: bool
    numerics_class: str


def answer(question: Question) -> Answer:
    """Raises `UserError` if the folder is not a model or the prompt does not fit its context."""
    folder = Path(question.model)
    try:
        config = parse_config((folder / "config.json").read_bytes())
    except OSError as error:
        raise UserError(f"{folder} has no readable config.json: name a model folder") from error
    files = tensor_files(folder)
    engine = ShardEngine(
        config, config.whole, question.dtype, question.numerics, files, KvBudget(sys.maxsize)
    )
    stop_ids = config.eos_ids if question.stop_ids is None else question.stop_ids
    rows_max = len(question.prompt_ids) + question.max_tokens
    if not 0 < len(question.prompt_ids) < rows_max <= config.context:
        raise UserError(f"a prompt and answer of {rows_max} tokens do not fit a context of {config.context}")
    spec = CacheSpec(len(question.prompt_ids), rows_max, question.draws)
    token_ids = generate(engine, question.prompt_ids, spec, stop_ids)
    return Answer(token_ids, token_ids[-1] in stop_ids, engine.arithmetic.numerics_class)


def generate(
    engine: ShardEngine, prompt_ids: Sequence[int], spec: CacheSpec, stop_ids: Sequence[int]
) -> tuple[int, ...]:
    """The tokens up to a stop id, which is included, or until `spec.rows_max` positions are filled."""
    key = (_SESSION, 0)
    engine.open_cache(key, spec)
    token = None
    for start in range(0, len(prompt_ids), limits.PREFILL_CHUNK_ROWS):
        chunk = prompt_ids[start : start + limits.PREFILL_CHUNK_ROWS]
        _, token = engine.step(key, _frame(engine, start, chunk, start + len(chunk) == len(prompt_ids)))
    drawn: list[int] = []
    while token is not None:
        drawn.append(token)
        position = len(prompt_ids) + len(drawn) - 1
        if token in stop_ids or position + 1 >= spec.rows_max:
            break
        _, token = engine.step(key, _frame(engine, position, (token,), sample=True))
    engine.close_cache(key)
    return tuple(drawn)


def _frame(engine: ShardEngine, position: int, tokens: Sequence[int], sample: bool) -> Frame:
    header = Header(
        Kind.PREFILL, _SESSION, 0, 0, position, len(tokens), 0, position,
        WIRE_NUMERICS[engine.numerics], WIRE_DTYPES[engine.dtype], 0, sample,
    )  # fmt: skip
    return Frame(header, tuple(tokens), b"")


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


def tensor_files(folder: Path) -> tuple[TensorFile, ...]:
    """Where the tensors of a Hugging Face folder lie. Raises `UserError` if it has none."""
    index = folder / "model.safetensors.index.json"
    try:
        if index.exists():
            places = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map
            return tuple(TensorFile(name, str(folder / file), name) for name, file in places.items())
        single = folder / "model.safetensors"
        with StoredTensors(str(single)) as file:
            return tuple(TensorFile(tensor.name, str(single), tensor.name) for tensor in file.tensors)
    except (OSError, ValueError, Malformed, LocalFault) as error:
        raise UserError(
            f"{folder} has no readable safetensors ({error}): download the model again"
        ) from error


def main() -> int:
    try:
        question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
        torch.set_num_threads(question.threads)
        sys.stdout.write(msgspec.json.encode(answer(question)).decode() + "\n")
    except (WeftError, msgspec.DecodeError) as error:
        sys.stderr.write(f"weft: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
