"""`POST /v1/completions`, the older endpoint: a prompt as it is, without the chat template. Source: the types of the `openai`
client."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec

from node.api import Finished, GenerateRequest, LikelyToken, Started, TokenLogprobs
from node.http.parameters import Parameters, parse
from node.http.shapes import Usage, finish_reason, usage_of
from node.request import MaxTokens, TopLogprobs

_DEFAULT_TOKENS: Final = 16  # as the API has it


class CompletionRequest(Parameters, frozen=True, kw_only=True):
    """One prompt; `logprobs` is a number here."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    prompt: str | Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=1)]
    max_tokens: MaxTokens | None = _DEFAULT_TOKENS
    logprobs: TopLogprobs | None = None
    best_of: Any = None
    echo: Any = None
    suffix: Any = None


_HARMLESS: Final[dict[str, tuple[object, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}


def parse_completion_request(body: bytes) -> CompletionRequest:
    """Raises `BadParameter`."""
    return parse(body, CompletionRequest, _HARMLESS)


class TextLogprobs(msgspec.Struct, frozen=True):
    """Lists with a place for each token; `text_offset` counts characters from the beginning of the answer."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(msgspec.Struct, frozen=True):
    text: str
    finish_reason: str | None = None
    logprobs: TextLogprobs | None = None
    index: int = 0


class TextCompletion(msgspec.Struct, frozen=True, tag_field="object", tag="text_completion"):
    """The whole answer or a chunk of it; `choices` is empty in the chunk that brings `usage`."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[TextChoice, ...]
    usage: Usage | None = None


@dataclass(slots=True)
class CompletionWording:
    """Implements `node.http.answering.Wording`."""

    asked: CompletionRequest
    created_s: int
    _told_chars: int = 0
    _characters: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    @property
    def request(self) -> GenerateRequest:
        prompt = self.asked.prompt if isinstance(self.asked.prompt, str) else self.asked.prompt[0]
        return GenerateRequest(
            model=self.asked.model, prompt=prompt, logprobs=self.asked.logprobs, **self.asked.options
        )

    def opening(self, started: Started) -> tuple[bytes, ...]:
        return ()

    def piece(self, started: Started, text: str, logprobs: tuple[TokenLogprobs, ...]) -> bytes:
        return self._body(started, TextChoice(text, logprobs=self._logprobs(logprobs)))

    def ending(self, started: Started, finished: Finished) -> tuple[bytes, ...]:
        end = self._body(started, TextChoice("", finish_reason(finished)))
        return (end, self._body(started, usage=usage_of(finished))) if self.asked.wants_usage else (end,)

    def whole(self, started: Started, finished: Finished, logprobs: tuple[TokenLogprobs, ...]) -> bytes:
        choice = TextChoice(finished.text, finish_reason(finished), self._logprobs(logprobs))
        return self._body(started, choice, usage=usage_of(finished))

    def _body(self, started: Started, *choices: TextChoice, usage: Usage | None = None) -> bytes:
        session, model = f"cmpl-{started.session}", started.model
        body = TextCompletion(session, self.created_s, self.asked.model, model, choices, usage)
        return msgspec.json.encode(body)

    def _logprobs(self, logprobs: Sequence[TokenLogprobs]) -> TextLogprobs | None:
        if self.asked.logprobs is None:
            return None
        offsets = []
        for each in logprobs:
            offsets.append(self._told_chars)
            self._told_chars += len(self._characters.decode(bytes(each.bytes)))
        return TextLogprobs(
            [_written(each) for each in logprobs],
            [each.logprob for each in logprobs],
            [{_written(likely): likely.logprob for likely in each.likeliest} for each in logprobs],
            offsets,
        )


def _written(token: LikelyToken) -> str:
    """A part of a character by its bytes, so that no two tokens are written alike."""
    data = bytes(token.bytes)
    if token.text.encode() == data:
        return token.text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
