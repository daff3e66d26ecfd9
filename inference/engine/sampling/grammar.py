"""Which tokens a grammar allows next, for sessions whose answer has to fit a JSON schema.

What is allowed is a function of the answer so far: a matcher that has gone another way, because rows were taken back or
replayed, is taken back as far as both agree and led on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray
from tokenizers import Tokenizer

from inference.engine.sampling.tally import Tally
from inference.model.json_grammar import grammar_of
from inference.model.token_bytes import TokenBytes
from protocols.errors import Malformed

_SILENT: Final = 0


class GrammarTokens:
    """The vocabulary of one model as matchers take it; made when the first session needs it, which takes up to a second."""

    def __init__(self, tokenizer: str, vocabulary: int) -> None:
        self._path = tokenizer
        self._vocabulary = vocabulary
        self._made: dict[tuple[int, ...], LLTokenizer] = {}

    def constraint(
        self, schema: str, prompt_rows: int, stop_ids: Sequence[int], tally: Tally
    ) -> GrammarConstraint:
        """Raises `Malformed` for a schema that can't be used, or if there is nothing to use it with."""
        ends = tuple(sorted({each for each in stop_ids if each < self._vocabulary}))
        if not self._path or not ends:
            raise Malformed("no tokenizer, or no end of text, is known here to hold an answer to a schema")
        try:
            grammar = grammar_of(schema)
        except ValueError as error:
            raise Malformed(f"the JSON schema can't be used: {error}") from error
        constraint = GrammarConstraint(self._tokens(ends), grammar, prompt_rows, tally)
        constraint.check()
        return constraint

    def _tokens(self, ends: tuple[int, ...]) -> LLTokenizer:
        if ends not in self._made:
            self._made.clear()  # other ends of the same model are rare
            written = _Written(Path(self._path).read_bytes(), self._vocabulary, ends)
            self._made[ends] = LLTokenizer(TokenizerWrapper(written), eos_token=list(ends))
        return self._made[ends]


class GrammarConstraint:
    """Of one session; implements `inference.engine.adjusting.Constraint`."""

    def __init__(self, tokens: LLTokenizer, grammar: str, prompt_rows: int, tally: Tally) -> None:
        self._tokens = tokens
        self._grammar = grammar
        self._prompt_rows = prompt_rows
        self._tally = tally
        self._matcher = LLMatcher(tokens, grammar, log_level=_SILENT)
        self._consumed: list[int] = []

    def check(self) -> None:
        """Raises `Malformed` if the grammar can't be followed, or not any more."""
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())[:300]
            raise Malformed(f"the JSON schema can't be used: {reason}")

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        self._follow(self._tally.tokens[self._prompt_rows :])
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self.check()
        found = np.unpackbits(bits, bitorder="little")[:vocabulary].astype(np.bool_)
        allowed = np.zeros(vocabulary, dtype=np.bool_)
        allowed[: len(found)] = found
        if not allowed.any():
            raise Malformed("no token goes on with what the JSON schema allows")
        return allowed

    def _follow(self, answer: Sequence[int]) -> None:
        pairs = zip(self._consumed, answer, strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if common < len(self._consumed) and not self._matcher.rollback(len(self._consumed) - common):
            self._matcher, common = LLMatcher(self._tokens, self._grammar, log_level=_SILENT), 0
        more = list(answer[common:])
        if more and not self._matcher.consume_tokens(more):
            # A matcher that was led astray stays there; the next one begins anew.
            self._matcher, self._consumed = LLMatcher(self._tokens, self._grammar, log_level=_SILENT), []
            raise Malformed("the answer so far does not fit the JSON schema")
        self._consumed = list(answer)


class _Written:
    """What `TokenizerWrapper` asks of a tokenizer. Where a grammar leaves no choice, its text is encoded as the model's own
    tokenizer would."""

    def __init__(self, data: bytes, vocabulary: int, ends: tuple[int, ...]) -> None:
        settings: dict[str, Any] = msgspec.json.decode(data)
        self._tokenizer = Tokenizer.from_buffer(data)
        token_bytes = TokenBytes(self._tokenizer, settings)
        self.tokens = [token_bytes.of(token) for token in range(vocabulary)]
        added = settings.get("added_tokens") or ()
        special = {each["id"] for each in added if each.get("special") and each["id"] < vocabulary}
        self.special_token_ids = sorted(special | set(ends))
        self.eos_token_id = ends[0]
        self.bos_token_id = None
        special_ids = set(self.special_token_ids)
        self._by_bytes = {
            data: token for token, data in enumerate(self.tokens) if data and token not in special_ids
        }
        self._longest = max(map(len, self._by_bytes), default=0)

    def __call__(self, text: bytes) -> list[int]:
        try:
            ids = self._tokenizer.encode(text.decode(), add_special_tokens=False).ids
            if b"".join(self.tokens[token] for token in ids) == text:
                return list(ids)
        except (UnicodeDecodeError, IndexError):
            pass
        return self._longest_first(text)  # such as where the tokenizer begins every text with a space

    def _longest_first(self, text: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(text):
            ends = range(min(len(text), at + self._longest), at, -1)
            end = next((end for end in ends if text[at:end] in self._by_bytes), None)
            if end is None:
                break  # no token has this byte
            ids.append(self._by_bytes[text[at:end]])
            at = end
        return ids
