"""`POST /v1/chat/completions`: its request, and how its answers are worded. Source: the types of the `openai` client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from inference.model.json_grammar import check_schema
from node.api import (
    ChatMessage,
    Finished,
    GenerateRequest,
    LikelyToken,
    Started,
    TokenLogprobs,
)
from node.http.errors import BadParameter
from node.http.parameters import Parameters, parse
from node.http.shapes import Usage, finish_reason, usage_of
from node.request import MaxTokens, TopLogprobs
from protocols.errors import UserError

# Requests ------------------------------------------------------------------------------------------------------------


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class RequestMessage(msgspec.Struct, frozen=True):
    role: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    content: str | tuple[TextPart, ...]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class PlainText(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    schema_text: ClassVar[str] = ""


class JsonObject(msgspec.Struct, frozen=True, tag_field="type", tag="json_object"):
    schema_text: ClassVar[str] = '{"type":"object"}'


class NamedSchema(msgspec.Struct, frozen=True):
    """An answer is always held to the whole schema, `strict` or not."""

    schema: msgspec.Raw
    name: str = ""


class JsonSchema(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    json_schema: NamedSchema

    @property
    def schema_text(self) -> str:
        return bytes(self.json_schema.schema).decode()


class ChatRequest(Parameters, frozen=True, kw_only=True):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    messages: Annotated[tuple[RequestMessage, ...], msgspec.Meta(min_length=1, max_length=4096)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: PlainText | JsonObject | JsonSchema | None = None
    modalities: Any = None
    audio: Any = None


_HARMLESS: Final[dict[str, tuple[object, ...]]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
}


def parse_chat_request(body: bytes) -> ChatRequest:
    """Raises `BadParameter`."""
    request = parse(body, ChatRequest, _HARMLESS)
    if request.top_logprobs and not request.logprobs:
        raise BadParameter("top_logprobs needs logprobs to be true: set it.", "top_logprobs")
    if request.response_format and request.response_format.schema_text:
        try:
            check_schema(request.response_format.schema_text)
        except UserError as error:
            raise BadParameter(str(error), "response_format") from error
    return request


# Answers -------------------------------------------------------------------------------------------------------------


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]


class ContentLogprob(TopLogprob, frozen=True):
    top_logprobs: tuple[TopLogprob, ...]


class ChoiceLogprobs(msgspec.Struct, frozen=True):
    content: tuple[ContentLogprob, ...]
    refusal: None = None


class AnswerMessage(msgspec.Struct, frozen=True):
    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class Choice(msgspec.Struct, frozen=True):
    message: AnswerMessage
    finish_reason: str
    index: int = 0
    logprobs: ChoiceLogprobs | None = None


class Completion(msgspec.Struct, frozen=True, tag_field="object", tag="chat.completion"):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[Choice, ...]
    usage: Usage


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    delta: Delta
    finish_reason: str | None = None
    index: int = 0
    logprobs: ChoiceLogprobs | None = None


class Chunk(msgspec.Struct, frozen=True, tag_field="object", tag="chat.completion.chunk"):
    """`choices` is empty in the one that brings `usage`."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class ChatWording:
    """Implements `node.http.answering.Wording`."""

    asked: ChatRequest
    created_s: int

    @property
    def request(self) -> GenerateRequest:
        asked = self.asked
        options = asked.options
        if asked.max_completion_tokens is not None:
            options["max_tokens"] = asked.max_completion_tokens
        return GenerateRequest(
            model=asked.model,
            messages=tuple(ChatMessage(message.role, message.text) for message in asked.messages),
            json_schema=asked.response_format.schema_text if asked.response_format else "",
            logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
            **options,
        )

    def opening(self, started: Started) -> tuple[bytes, ...]:
        return (self._chunk(started, ChunkChoice(Delta(role="assistant", content=""))),)

    def piece(self, started: Started, text: str, logprobs: tuple[TokenLogprobs, ...]) -> bytes:
        return self._chunk(started, ChunkChoice(Delta(content=text), logprobs=self._logprobs(logprobs)))

    def ending(self, started: Started, finished: Finished) -> tuple[bytes, ...]:
        end = self._chunk(started, ChunkChoice(Delta(), finish_reason(finished)))
        return (end, self._chunk(started, usage=usage_of(finished))) if self.asked.wants_usage else (end,)

    def whole(self, started: Started, finished: Finished, logprobs: tuple[TokenLogprobs, ...]) -> bytes:
        message, told = AnswerMessage(finished.text), self._logprobs(logprobs)
        choice = Choice(message, finish_reason(finished), logprobs=told)
        return msgspec.json.encode(
            Completion(
                _id_of(started),
                self.created_s,
                self.asked.model,
                started.model,
                (choice,),
                usage_of(finished),
            )
        )

    def _chunk(self, started: Started, *choices: ChunkChoice, usage: Usage | None = None) -> bytes:
        chunk = Chunk(_id_of(started), self.created_s, self.asked.model, started.model, choices, usage)
        return msgspec.json.encode(chunk)

    def _logprobs(self, logprobs: tuple[TokenLogprobs, ...]) -> ChoiceLogprobs | None:
        return ChoiceLogprobs(tuple(map(_content, logprobs))) if self.asked.logprobs else None


def _content(told: TokenLogprobs) -> ContentLogprob:
    return ContentLogprob(told.text, told.logprob, told.bytes, tuple(map(_top, told.likeliest)))


def _top(told: LikelyToken) -> TopLogprob:
    return TopLogprob(told.text, told.logprob, told.bytes)


def _id_of(started: Started) -> str:
    return f"chatcmpl-{started.session}"
