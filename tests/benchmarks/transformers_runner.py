"""transformers as a `Runner`: its model class, its growing cache, one sequence after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


class TransformersRunner:
    def __init__(self, folder: str, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype]).eval()
        self._sequences: list[tuple[Any, torch.Tensor]] = []

    def open(self, contexts: Sequence[Sequence[int]], rows_max: int) -> None:
        self._sequences = [self._begun(context) for context in contexts]

    @torch.inference_mode()
    def decode(self, tokens: int) -> None:
        for number, (cache, last) in enumerate(self._sequences):
            for _ in range(tokens):
                last = self._step(cache, last[None, None])
            self._sequences[number] = cache, last

    def prefill(self, prompt: Sequence[int]) -> None:
        self._begun(prompt)

    def close(self) -> None:
        self._sequences.clear()

    @torch.inference_mode()
    def _begun(self, context: Sequence[int]) -> tuple[Any, torch.Tensor]:
        out = self._model(torch.tensor([list(context)]), use_cache=True, logits_to_keep=1)
        return out.past_key_values, out.logits[0, -1].argmax()

    def _step(self, cache: Any, ids: torch.Tensor) -> torch.Tensor:
        out = self._model(ids, past_key_values=cache, use_cache=True)
        last: torch.Tensor = out.logits[0, -1].argmax()
        return last
