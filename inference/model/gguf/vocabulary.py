"""The tokens of a GGUF file: what each is, and which of them begin and end a text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from inference.model.gguf.metadata import Metadata
from protocols.errors import Malformed

_BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")
# Chat models end a turn with a token of its own, and many files name the end of the text alone.
_ENDS_OF_TURNS: Final = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
)


class TokenKind(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`tokens` by their ids. `adds_bos`, `adds_eos`: None where the file does not say."""

    tokens: list[str]
    kinds: list[TokenKind]
    bos: int | None
    eos: int | None
    unknown: int | None
    padding: int | None
    ends: tuple[int, ...]
    adds_bos: bool | None
    adds_eos: bool | None

    def text(self, token: int | None) -> str | None:
        return None if token is None else self.tokens[token]

    def added(self) -> list[int]:
        """The tokens that are found in a text before anything else is done with it."""
        chosen = {token for token in (self.bos, self.eos, *self.ends) if token is not None}
        return [
            token
            for token, kind in enumerate(self.kinds)
            if kind in (TokenKind.CONTROL, TokenKind.USER_DEFINED) or token in chosen
        ]


def read_vocabulary(metadata: Metadata, rows: int) -> Vocabulary:
    """`rows` are those of the embedding. Raises `Malformed`."""
    tokens = metadata.need_all("tokenizer.ggml.tokens", str)
    if not 1 <= len(tokens) <= rows:
        raise Malformed(f"it has {len(tokens)} tokens, and {rows} rows in its embedding")
    if len(set(tokens)) < len(tokens) or "" in tokens:
        raise Malformed("two of its tokens are the same, or one is empty")
    kinds = _kinds(metadata, tokens)
    named = {
        key: _token(metadata, f"tokenizer.ggml.{key}_token_id", len(tokens))
        for key in ("bos", "eos", "unknown", "padding", "eot", "eom")
    }
    by_text = [
        token
        for token, text in enumerate(tokens)
        if text in _ENDS_OF_TURNS and kinds[token] in (TokenKind.CONTROL, TokenKind.USER_DEFINED)
    ]
    ends = [named["eos"], named["eot"], named["eom"], *by_text]
    return Vocabulary(
        tokens,
        kinds,
        named["bos"],
        named["eos"],
        named["unknown"],
        named["padding"],
        tuple(dict.fromkeys(end for end in ends if end is not None)),
        metadata.find("tokenizer.ggml.add_bos_token", bool),
        metadata.find("tokenizer.ggml.add_eos_token", bool),
    )


def _kinds(metadata: Metadata, tokens: list[str]) -> list[TokenKind]:
    numbers = metadata.find_all("tokenizer.ggml.token_type", int)
    if numbers is None:
        return [TokenKind.BYTE if _BYTE.fullmatch(token) else TokenKind.NORMAL for token in tokens]
    if len(numbers) != len(tokens):
        raise Malformed(f"it has {len(tokens)} tokens and the kinds of {len(numbers)}")
    known = {kind.value: kind for kind in TokenKind}
    # 0 is how some files say nothing of a token.
    return [known.get(number, TokenKind.NORMAL) for number in numbers]


def _token(metadata: Metadata, key: str, count: int) -> int | None:
    token = metadata.find(key, int)
    if token is not None and not 0 <= token < count:
        # Files name tokens that they don't have by the largest number, and llama.cpp passes over them.
        return None
    return token
