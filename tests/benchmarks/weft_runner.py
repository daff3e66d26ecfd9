"""weft's engine as a `Runner`: the whole model in one shard, all sequences of a step together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from inference.engine.device import HOST, Device
from inference.engine.engine import WIRE_NUMERICS, CacheKey, ShardEngine
from inference.engine.memory.allocator import keep_large_apart
from inference.engine.memory.kv_cache import KvBudget
from inference.engine.reference import tensor_files
from inference.model.config_json import parse_config
from protocols import limits
from protocols.errors import WeftError
from protocols.ids import SessionId
from protocols.seams import CacheSpec
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Header, Kind

NUMERICS = "exact"


class WeftRunner:
    def __init__(self, folder: str, dtype: str, threads: int, device: Device = HOST) -> None:
        keep_large_apart()
        torch.set_num_threads(threads)
        self._config = parse_config((Path(folder) / "config.json").read_bytes())
        files = tensor_files(Path(folder))
        budget = KvBudget(sys.maxsize)
        self._engine = ShardEngine(
            self._config, self._config.whole, dtype, NUMERICS, files, budget, device=device
        )
        self._wire = DType.F32 if dtype == "f32" else DType.BF16
        self._rows: dict[CacheKey, int] = {}
        self._last: dict[CacheKey, int] = {}
        print(f"weft {dtype}: {self._engine.arithmetic.numerics_class}", file=sys.stderr)

    def open(self, contexts: Sequence[Sequence[int]], rows_max: int) -> None:
        for number, context in enumerate(contexts):
            self._begin((SessionId(f"{number:032x}"), 0), context, rows_max)

    def decode(self, tokens: int) -> None:
        for _ in range(tokens):
            keys = list(self._rows)
            work = [(key, self._frame(key, (self._last[key],), sample=True)) for key in keys]
            for key, result in zip(keys, self._engine.step_together(work), strict=True):
                self._take(key, 1, result)

    def prefill(self, prompt: Sequence[int]) -> None:
        key = (SessionId("f" * 32), 0)
        self._begin(key, prompt, len(prompt) + 1)
        self._end(key)

    def close(self) -> None:
        for key in list(self._rows):
            self._end(key)

    def _begin(self, key: CacheKey, context: Sequence[int], rows_max: int) -> None:
        self._engine.open_cache(key, CacheSpec(len(context), rows_max, Sampling()))
        self._rows[key] = 0
        for start in range(0, len(context), limits.PREFILL_CHUNK_ROWS):
            chunk = tuple(context[start : start + limits.PREFILL_CHUNK_ROWS])
            is_last = start + len(chunk) == len(context)
            (result,) = self._engine.step_together([(key, self._frame(key, chunk, sample=is_last))])
            self._take(key, len(chunk), result)

    def _end(self, key: CacheKey) -> None:
        self._engine.close_cache(key)
        del self._rows[key], self._last[key]

    def _take(self, key: CacheKey, rows: int, result: object) -> None:
        if isinstance(result, WeftError):
            raise result
        assert isinstance(result, tuple)
        self._rows[key] += rows
        if result[1] is not None:
            self._last[key] = result[1]

    def _frame(self, key: CacheKey, tokens: tuple[int, ...], *, sample: bool) -> Frame:
        at = self._rows[key]
        header = Header(
            Kind.DECODE, key[0], 0, 0, at, len(tokens), 0, at,
            WIRE_NUMERICS[NUMERICS], self._wire, 0, sample,
        )  # fmt: skip
        return Frame(header, tokens, b"")
