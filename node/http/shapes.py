"""Bodies of answers that endpoints share: what a generation used, and the models there are."""

from __future__ import annotations

import msgspec

from node.api import Finished, Model
from protocols.errors import Unavailable


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage_of(finished: Finished) -> Usage:
    prompt, completion = finished.prompt_tokens, finished.completion_tokens
    return Usage(prompt, completion, prompt + completion)


def finish_reason(finished: Finished) -> str:
    """Raises `Unavailable` if the node gave it up."""
    if finished.reason == "cancelled":
        raise Unavailable("The generation was cancelled by the node: ask again.")
    return finished.reason


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
