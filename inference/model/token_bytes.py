"""The bytes that a token stands for, which need not be whole characters: what clients are told beside log-probabilities.

A vocabulary writes its tokens in one of three ways, which the decoder of tokenizer.json tells apart: each byte as a printable
character (byte-level BPE, as GPT-2 has it), text with a lower block for the space and single bytes as <0x0A> (sentencepiece),
or plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from tokenizers import Tokenizer

_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"
_PRINTABLE: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_MOVED: Final = [byte for byte in range(256) if byte not in _PRINTABLE]  # to the code points from 256 on
_BYTE_OF: Final = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + index): byte for index, byte in enumerate(_MOVED)
}


class TokenBytes:
    """Of the tokens of one tokenizer; `settings` is its tokenizer.json."""

    def __init__(self, tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
        kinds = set(_decoder_kinds(settings.get("decoder")))
        self._tokenizer = tokenizer
        self._is_byte_level = "ByteLevel" in kinds
        self._has_spaces = bool(kinds & {"Metaspace", "ByteFallback"})
        self._added = {
            each.get("id"): str(each.get("content")) for each in settings.get("added_tokens") or ()
        }

    def of(self, token: int) -> bytes:
        """Empty for an id that is no token."""
        if token in self._added:
            return self._added[token].encode()
        written = self._tokenizer.id_to_token(token) or ""
        if self._is_byte_level and all(character in _BYTE_OF for character in written):
            return bytes(_BYTE_OF[character] for character in written)
        if self._has_spaces:
            if found := _BYTE.match(written):
                return bytes([int(found[1], 16)])
            written = written.replace(_SPACE, " ")
        return written.encode()


def _decoder_kinds(decoder: Any) -> Iterator[str]:
    if isinstance(decoder, dict):
        yield str(decoder.get("type"))
        for part in decoder.get("decoders") or ():
            yield from _decoder_kinds(part)
