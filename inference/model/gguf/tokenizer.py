"""The `tokenizer.json` and `tokenizer_config.json` of a GGUF file's model.

    gpt2     byte-level pairs, with their merges and a way to cut words            -> BPE with merges
    llama    SentencePiece: scores instead of merges, spaces as ▁, bytes for what has no token

SentencePiece merges the neighbours whose token has the highest score. A merge list in the order of scores does the same: every
way to put a token together of two others is one merge, with the rank of that token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from inference.model.gguf.file import GgufFile
from inference.model.gguf.metadata import Metadata
from inference.model.gguf.pre_tokenizers import COMPOSED, PATTERNS, WHOLE_WORDS, pre_tokenizer
from inference.model.gguf.vocabulary import TokenKind, Vocabulary
from protocols import limits
from protocols.errors import Malformed, UserError

_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"
_MERGED_LENGTH_MAX: Final = 256  # characters: every cut of a token is looked at

Parts = dict[str, Any]


def tokenizer_json(file: GgufFile, vocabulary: Vocabulary) -> bytes:
    """Raises `Malformed` and `UserError`."""
    kind = file.metadata.need("tokenizer.ggml.model", str)
    makers: dict[str, Callable[[GgufFile, Vocabulary], Parts]] = {
        "gpt2": _byte_level,
        "llama": _sentence_piece,
    }
    if kind not in makers:
        raise UserError(
            f"{file.path} has a tokenizer of kind {kind[:64]!r}, and weft imports {', '.join(makers)}:"
            " choose another model"
        )
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(vocabulary, token) for token in vocabulary.added()],
        **makers[kind](file, vocabulary),
    }
    encoded = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
    if len(encoded) > limits.SMALL_FILE_BYTES_MAX:
        raise Malformed(f"its tokenizer takes {len(encoded)} bytes")
    return encoded


def tokenizer_config(metadata: Metadata, vocabulary: Vocabulary, context: int) -> Parts:
    """With the chat template, if the file has one."""
    texts = {
        "bos_token": vocabulary.text(vocabulary.bos),
        "eos_token": vocabulary.text(vocabulary.eos),
        "unk_token": vocabulary.text(vocabulary.unknown),
        "pad_token": vocabulary.text(vocabulary.padding),
        "chat_template": metadata.find("tokenizer.chat_template", str),
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        **{name: text for name, text in texts.items() if text is not None},
    }


def _added(vocabulary: Vocabulary, token: int) -> Parts:
    return {
        "id": token,
        "content": vocabulary.tokens[token],
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": vocabulary.kinds[token] is not TokenKind.USER_DEFINED,
    }


# Byte-level pairs --------------------------------------------------------------------------------------------------------


def _byte_level(file: GgufFile, vocabulary: Vocabulary) -> Parts:
    name = file.metadata.find("tokenizer.ggml.pre", str) or "default"
    if name not in PATTERNS:
        raise UserError(
            f"{file.path} cuts words like {name[:64]!r}, and weft knows {', '.join(PATTERNS)}: choose another model"
        )
    ids = {text: token for token, text in enumerate(vocabulary.tokens)}
    merges = [_merge(text, ids) for text in file.metadata.need_all("tokenizer.ggml.merges", str)]
    adds_bos = name in WHOLE_WORDS if vocabulary.adds_bos is None else vocabulary.adds_bos
    return {
        "normalizer": {"type": "NFC"} if name in COMPOSED else None,
        "pre_tokenizer": pre_tokenizer(name),
        "post_processor": _around(vocabulary, adds_bos=adds_bos),
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "model": _pairs(ids, merges) | {"ignore_merges": name in WHOLE_WORDS},
    }


def _merge(text: str, ids: dict[str, int]) -> tuple[str, str]:
    left, _, right = text.partition(" ")
    if not left or left not in ids or right not in ids or left + right not in ids:
        raise Malformed(f"its merge {text[:64]!r} is not of its tokens")
    return left, right


# SentencePiece -----------------------------------------------------------------------------------------------------------


def _sentence_piece(file: GgufFile, vocabulary: Vocabulary) -> Parts:
    scores = file.metadata.need_all("tokenizer.ggml.scores", float)
    if len(scores) != len(vocabulary.tokens):
        raise Malformed(f"it has {len(vocabulary.tokens)} tokens and the scores of {len(scores)}")
    prefix = file.metadata.find("tokenizer.ggml.add_space_prefix", bool) is not False
    before: list[Parts] = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    after: list[Parts] = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    adds_bos = True if vocabulary.adds_bos is None else vocabulary.adds_bos
    ids = {text: token for token, text in enumerate(vocabulary.tokens)}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*before, _replace(" ", _SPACE)]},
        "pre_tokenizer": None,
        "post_processor": _around(vocabulary, adds_bos=adds_bos),
        "decoder": {
            "type": "Sequence",
            "decoders": [_replace(_SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}, *after],
        },
        "model": _pairs(ids, merges_of(vocabulary, scores))
        | {"byte_fallback": True, "fuse_unk": True, "unk_token": _unknown(vocabulary)},
    }


def _unknown(vocabulary: Vocabulary) -> str | None:
    marked = (token for token, kind in enumerate(vocabulary.kinds) if kind is TokenKind.UNKNOWN)
    return vocabulary.text(next(marked, vocabulary.unknown))


def merges_of(vocabulary: Vocabulary, scores: list[float]) -> list[tuple[str, str]]:
    """All ways to put a token together of two others, those of the highest score first."""
    usable = {
        text: token
        for token, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
        if kind in (TokenKind.NORMAL, TokenKind.USER_DEFINED)
    }
    ranked = sorted(usable.items(), key=lambda item: (-scores[item[1]], item[1]))
    return [pair for text, _ in ranked for pair in _cuts(text, usable)]


def _cuts(text: str, usable: dict[str, int]) -> Iterable[tuple[str, str]]:
    if len(text) > _MERGED_LENGTH_MAX:
        raise Malformed(f"it has a token of {len(text)} characters")
    cuts = ((text[:at], text[at:]) for at in range(1, len(text)))
    found = [(left, right) for left, right in cuts if left in usable and right in usable]
    # Of equal results the likelier parts come first.
    return sorted(found, key=lambda pair: (usable[pair[0]], usable[pair[1]]))


# Both --------------------------------------------------------------------------------------------------------------------


def _pairs(ids: dict[str, int], merges: list[tuple[str, str]]) -> Parts:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": ids,
        "merges": merges,
    }


def _replace(found: str, put: str) -> Parts:
    return {"type": "Replace", "pattern": {"String": found}, "content": put}


def _around(vocabulary: Vocabulary, *, adds_bos: bool) -> Parts | None:
    """The tokens before and after a text."""
    first = [vocabulary.bos] if adds_bos and vocabulary.bos is not None else []
    last = [vocabulary.eos] if vocabulary.adds_eos and vocabulary.eos is not None else []
    if not first and not last:
        return None

    def special(tokens: list[int]) -> list[Parts]:
        return [{"SpecialToken": {"id": vocabulary.tokens[token], "type_id": 0}} for token in tokens]

    def text(name: str) -> list[Parts]:
        return [*special(first), {"Sequence": {"id": name, "type_id": 0}}, *special(last)]

    named = {
        vocabulary.tokens[token]: {
            "id": vocabulary.tokens[token],
            "ids": [token],
            "tokens": [vocabulary.tokens[token]],
        }
        for token in (*first, *last)
    }
    return {
        "type": "TemplateProcessing",
        "single": text("A"),
        "pair": [*text("A"), *text("B")],
        "special_tokens": named,
    }
