"""The bodies of the OpenAI API that weft speaks, as structs, and their translation to the node's own request.

The rule of the file: what would change the meaning of an answer and is not built is refused by name; what is harmless is
ignored. Source: the types of the `openai` client, which the tests use.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from node.api import (
    ChatMessage,
    Finished,
    GenerateRequest,
    MaxTokens,
    Model,
    Seed,
    StopString,
    StopStrings,
    Temperature,
    TopK,
    TopP,
)
from node.http.errors import BadParameter

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


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class ChatRequest(msgspec.Struct, frozen=True):
    """Fields typed `Any` are there to be refused. `top_k` is an extension."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    messages: Annotated[tuple[RequestMessage, ...], msgspec.Meta(min_length=1, max_length=4096)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    seed: Seed | None = None
    stop: StopString | StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    modalities: Any = None
    audio: Any = None


_HARMLESS: Final[dict[str, tuple[object, ...]]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
}
"""Values, besides null, with which a parameter that is not built means nothing."""


def parse_chat_request(body: bytes) -> ChatRequest:
    """Raises `BadParameter`."""
    try:
        request = msgspec.json.decode(body, type=ChatRequest)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        param = path.strip("`.") or None
        raise BadParameter(f"{problem} - in {param}" if param else problem, param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadParameter(f"The body is not JSON: {error}") from error
    for name, harmless in _HARMLESS.items():
        value = getattr(request, name)
        if value is not None and value not in harmless:
            raise BadParameter(
                f"{name} is not supported by this node: leave it out.", name, "unsupported_parameter"
            )
    return request


def to_generate_request(request: ChatRequest) -> GenerateRequest:
    stop = request.stop
    return GenerateRequest(
        model=request.model,
        messages=tuple(ChatMessage(message.role, message.text) for message in request.messages),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_k=request.top_k or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        stop=(stop,) if isinstance(stop, str) else stop or (),
    )


# Answers -------------------------------------------------------------------------------------------------------------


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage_of(finished: Finished) -> Usage:
    prompt, completion = finished.prompt_tokens, finished.completion_tokens
    return Usage(prompt, completion, prompt + completion)


class AnswerMessage(msgspec.Struct, frozen=True):
    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class Choice(msgspec.Struct, frozen=True):
    message: AnswerMessage
    finish_reason: str
    index: int = 0
    logprobs: None = None


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
    logprobs: None = None


class Chunk(msgspec.Struct, frozen=True, tag_field="object", tag="chat.completion.chunk"):
    """`choices` is empty in the one that brings `usage`."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | None = None


class ModelExtras(msgspec.Struct, frozen=True):
    digest: str
    layers: int
    context: int | None
    ready: bool


class ModelCard(msgspec.Struct, frozen=True, tag_field="object", tag="model"):
    id: str
    created: int
    owned_by: str
    weft: ModelExtras


class ModelList(msgspec.Struct, frozen=True, tag_field="object", tag="list"):
    data: tuple[ModelCard, ...]


def card_of(model: Model, created_s: int) -> ModelCard:
    extras = ModelExtras(model.digest, model.layers, model.context, model.ready)
    return ModelCard(model.name, created_s, "weft", extras)
