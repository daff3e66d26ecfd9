"""llama.cpp as a `Runner`, through the low-level calls of llama-cpp-python: all sequences of a step in one batch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp
import numpy as np

from tests.benchmarks.gguf_of import gguf_of

SEQUENCES_MAX = 16
CONTEXT_MAX = 4096
CHUNK_ROWS = 512


class LlamaCppRunner:
    def __init__(self, folder: str, dtype: str, threads: int) -> None:
        self._quiet = llama_cpp.llama_log_callback(
            lambda *_: None
        )  # kept: it is called for as long as it lives
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(gguf_of(folder, dtype)).encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch = CONTEXT_MAX, SEQUENCES_MAX, CHUNK_ROWS
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True  # one pool, so that a lone sequence may have all of it
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(CHUNK_ROWS, 0, 1)
        self._rows: list[int] = []
        self._last: list[int] = []

    def open(self, contexts: Sequence[Sequence[int]], rows_max: int) -> None:
        assert len(contexts) * rows_max <= CONTEXT_MAX
        for number, context in enumerate(contexts):
            self._last.append(self._begin(number, context))
            self._rows.append(len(context))

    def decode(self, tokens: int) -> None:
        for _ in range(tokens):
            rows = [
                (last, at, number)
                for number, (last, at) in enumerate(zip(self._last, self._rows, strict=True))
            ]
            self._last = self._run(rows, set(range(len(rows))))
            self._rows = [at + 1 for at in self._rows]

    def prefill(self, prompt: Sequence[int]) -> None:
        number = SEQUENCES_MAX - 1
        self._begin(number, prompt)
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self._context), number, -1, -1)

    def close(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        self._rows, self._last = [], []

    def _begin(self, number: int, context: Sequence[int]) -> int:
        drawn: list[int] = []
        for start in range(0, len(context), CHUNK_ROWS):
            chunk = context[start : start + CHUNK_ROWS]
            is_last = start + len(chunk) == len(context)
            rows = [(token, start + at, number) for at, token in enumerate(chunk)]
            drawn = self._run(rows, {len(rows) - 1} if is_last else set())
        return drawn[0]

    def _run(self, rows: Sequence[tuple[int, int, int]], wanted: set[int]) -> list[int]:
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, (token, position, sequence) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = index in wanted
        if code := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode says {code}")
        return [self._greedy(index) for index in sorted(wanted)]

    def _greedy(self, index: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, index)
        return int(np.argmax(np.ctypeslib.as_array(logits, shape=(self._vocabulary,))))
