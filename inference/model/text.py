"""Text to token ids and back, from the small files of a model: tokenizer, chat template, ends of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import msgspec
from tokenizers import Tokenizer

from inference.model.template import ChatTemplate, Message
from inference.model.token_bytes import TokenBytes
from protocols.errors import UserError

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_PENDING_MAX: Final = (
    8  # a character has at most four bytes; what is still broken after this many tokens stays so
)
_CONTEXT: Final = 6  # tokens before the first, whose text decides about its leading space
_SPECIAL: Final = ("bos_token", "eos_token", "pad_token", "unk_token")


class Text:
    """Raises `UserError` for files that cannot be used. Building one takes up to a second for large vocabularies."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        settings = _parsed(files, "tokenizer_config.json")
        special = {name: _token_text(settings.get(name)) for name in _SPECIAL}
        with _Tokenizing("the model's tokenizer.json cannot be used ({}): download the model again"):
            self._tokenizer = Tokenizer.from_str(_decoded(files, "tokenizer.json"))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        self._token_bytes = TokenBytes(self._tokenizer, _parsed(files, "tokenizer.json"))
        self._template = ChatTemplate(
            _template_source(files, settings),
            {name: text for name, text in special.items() if text is not None},
        )
        self.eos_ids = self._eos_ids(files, special["eos_token"])

    def encode(self, text: str) -> list[int]:
        """A prompt as it is, with the tokens that the tokenizer puts around a text. Raises `UserError`."""
        return self._encode(text, add_special_tokens=True)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """A conversation up to where the answer begins. Raises `UserError` if the template refuses it."""
        return self._encode(self._template.render(messages), add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the tokens, without special ones."""
        with _Tokenizing("the model's tokenizer.json cannot decode ({}): download the model again"):
            return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def token_bytes(self, token: int) -> bytes:
        """What one token stands for, which may be a part of a character; empty for an id that is no token."""
        return self._token_bytes.of(token)

    def stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """Decodes what follows on `prompt`, token by token."""
        return TextStream(self, prompt)

    def decoder(self, prompt: Sequence[int] = ()) -> Callable[[int], str]:
        """`stream(prompt).feed`, for whoever needs no more of it."""
        return self.stream(prompt).feed

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        with _Tokenizing("the model's tokenizer cannot encode this text ({}): try another"):
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def _eos_ids(self, files: Mapping[str, bytes], eos_token: str | None) -> frozenset[int]:
        """All that any of the files calls an end: chat models often name the end of a turn in one of them only."""
        ids: set[int] = set()
        for name in ("generation_config.json", "config.json"):
            stated = _parsed(files, name).get("eos_token_id")
            stated = stated if isinstance(stated, list) else [stated]
            ids |= {each for each in stated if type(each) is int and each >= 0}
        if eos_token is not None and (eos := self._tokenizer.token_to_id(eos_token)) is not None:
            ids.add(eos)
        return frozenset(ids)


class TextStream:
    """Tokens in, text out as soon as it is whole: never half a character.

    Decodes a window that begins one step back, because how a token reads depends on the one before it. (The tokenizers'
    own DecodeStream gives up with an exception at bytes that are no UTF-8, and models do write such.)
    """

    def __init__(self, text: Text, prompt: Sequence[int]) -> None:
        self._text = text
        self._window = list(prompt[-_CONTEXT:])
        self._told = len(self._window)  # tokens of the window whose text was given out

    def feed(self, token: int) -> str:
        """The text that this token completes; often all of its own, sometimes nothing yet."""
        self._window.append(token)
        before, now = self._decoded()
        if now.endswith(_REPLACEMENT) and len(self._window) - self._told < _PENDING_MAX:
            return ""
        del self._window[: self._told]
        self._told = len(self._window)
        return _after(before, now)

    def finish(self) -> str:
        """What is left when no token follows, such as the bytes of half a character."""
        before, now = self._decoded()
        return _after(before, now)

    def _decoded(self) -> tuple[str, str]:
        return self._text.decode(self._window[: self._told]), self._text.decode(self._window)


def _after(before: str, now: str) -> str:
    """What `now` adds to `before`, of which the end may read differently now."""
    if now.startswith(before):
        return now[len(before) :]
    common = next(
        (at for at, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1]), len(now)
    )
    return now[common:]


class _Tokenizing:
    """Turns what the tokenizers library raises, which is `Exception` itself and nothing finer, into a `UserError`."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is Exception or (kind is not None and kind.__name__ == "PanicException"):
            raise UserError(self._message.format(str(error)[:200])) from error


def _decoded(files: Mapping[str, bytes], name: str) -> str:
    if name not in files:
        raise UserError(f"the model has no {name}: give the folder of a complete Hugging Face model")
    try:
        return files[name].decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the model's {name} is not UTF-8: download the model again") from error


def _parsed(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Empty if there is no such file."""
    if name not in files:
        return {}
    try:
        return msgspec.json.decode(files[name], type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise UserError(f"the model's {name} cannot be read ({error}): download the model again") from error


def _token_text(stated: Any) -> str | None:
    """Special tokens are stated as text, or as an object with their text."""
    if isinstance(stated, dict):
        stated = stated.get("content")
    return stated if isinstance(stated, str) else None


def _template_source(files: Mapping[str, bytes], settings: dict[str, Any]) -> str | None:
    """Newer models have a file of its own; older ones a text, or several by name, in their settings."""
    if "chat_template.jinja" in files:
        return _decoded(files, "chat_template.jinja")
    stated = settings.get("chat_template")
    if isinstance(stated, list):
        named = {each.get("name"): each.get("template") for each in stated if isinstance(each, dict)}
        stated = named.get("default")
    return stated if isinstance(stated, str) else None
