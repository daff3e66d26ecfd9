"""What a generation can be asked for, with its bounds."""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocols import limits

MaxTokens = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=100)]
TopK = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
TopP = Annotated[float, msgspec.Meta(gt=0, le=1)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
MinP = Annotated[float, msgspec.Meta(ge=0, le=1)]
RepetitionPenalty = Annotated[float, msgspec.Meta(ge=0.01, le=100)]
AnswerPenalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
TokenNumber = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
LogitBiases = Annotated[dict[TokenNumber, Bias], msgspec.Meta(max_length=limits.LOGIT_BIASES_MAX)]
TopLogprobs = Annotated[int, msgspec.Meta(ge=0, le=limits.LOGPROBS_MAX)]
JsonSchema = Annotated[str, msgspec.Meta(max_length=limits.GRAMMAR_BYTES_MAX)]
StopString = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
StopStrings = Annotated[tuple[StopString, ...], msgspec.Meta(max_length=limits.STOP_STRINGS_MAX)]


class ChatMessage(msgspec.Struct, frozen=True):
    """One turn of a conversation, as the model's chat template takes it."""

    role: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    content: str


class GenerateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly one of `prompt` (tokenised as it is) and `messages` (through the chat template) is set.

    `max_tokens` None: until the context is full. `temperature` 0 is greedy. `seed` None: the node draws one. Penalties as in
    `protocols.session.Sampling`. `logit_bias` by token id. `logprobs`: how many of the likeliest tokens to tell beside the one
    that was drawn; None for neither. `json_schema`: the answer is to fit this JSON schema, if it is not empty.
    """

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    prompt: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature = 0.0
    top_k: TopK = 0
    top_p: TopP = 1.0
    seed: Seed | None = None
    stop: StopStrings = ()
    min_p: MinP = 0.0
    repetition_penalty: RepetitionPenalty = 1.0
    frequency_penalty: AnswerPenalty = 0.0
    presence_penalty: AnswerPenalty = 0.0
    logit_bias: LogitBiases = {}
    logprobs: TopLogprobs | None = None
    json_schema: JsonSchema = ""

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either a prompt or messages")
