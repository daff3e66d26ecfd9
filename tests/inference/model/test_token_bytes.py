"""The bytes of single tokens, in each of the ways that vocabularies write them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from inference.model.text import Text
from inference.model.token_bytes import TokenBytes
from tests.inference.model.folders import byte_tokenizer


def made(words: list[str], decoder: dict[str, Any] | None, special: str = "") -> TokenBytes:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": len(words), "content": special, "special": True, **flags}] if special else []
    vocabulary = {word: token for token, word in enumerate([*words, special] if special else words)}
    settings = {
        "version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": None, "post_processor": None,
        "decoder": decoder, "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": words[0]},
    }  # fmt: skip
    return TokenBytes(Tokenizer.from_str(json.dumps(settings)), settings)


def test_every_byte_of_a_byte_level_vocabulary_is_itself() -> None:
    tokenizer = byte_tokenizer()
    found = TokenBytes(tokenizer, json.loads(tokenizer.to_str()))
    assert {found.of(token) for token in range(256)} == {bytes([byte]) for byte in range(256)}
    assert found.of(256) == b""


def test_the_bytes_of_tokens_together_are_the_text() -> None:
    text = Text({"tokenizer.json": byte_tokenizer().to_str().encode(), "tokenizer_config.json": b"{}"})
    written = "h\u00e4 \u2603 \U0001f600"
    assert b"".join(map(text.token_bytes, text.encode(written))) == written.encode()


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    ],
)
def test_sentencepiece_writes_spaces_as_blocks_and_single_bytes_by_their_number(
    decoder: dict[str, Any],
) -> None:
    found = made(["\u2581the", "<0xE2>", "<0x0A>", "a<0x0A>"], decoder, "</s>")
    assert [found.of(token) for token in range(6)] == [b" the", b"\xe2", b"\n", b"a<0x0A>", b"</s>", b""]


def test_plain_vocabularies_are_text() -> None:
    found = made(["the", "\u2581the", "<0x0A>"], {"type": "Fuse"})
    assert [found.of(token) for token in range(3)] == [b"the", "\u2581the".encode(), b"<0x0A>"]
    assert made(["a"], None).of(0) == b"a"
