"""What a request may say besides its prompt, for every endpoint that generates.

The rule of the file: what would change the meaning of an answer and is not built is refused by name; what is harmless is
ignored. Source: the types of the `openai` client, which the tests use; `top_k`, `min_p` and `repetition_penalty` are extensions,
named as other servers name them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from node.http.errors import BadParameter
from node.request import (
    AnswerPenalty,
    LogitBiases,
    MaxTokens,
    MinP,
    RepetitionPenalty,
    Seed,
    StopString,
    StopStrings,
    Temperature,
    TopK,
    TopP,
)

_PATH: Final = re.compile(r"`\$\.([^`]+)`\Z")


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """Fields typed `Any` are there to be refused, unless their value is in the table of the endpoint."""

    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    frequency_penalty: AnswerPenalty | None = None
    presence_penalty: AnswerPenalty | None = None
    logit_bias: LogitBiases | None = None
    seed: Seed | None = None
    stop: StopString | StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Any = None

    @property
    def options(self) -> dict[str, Any]:
        """Those of a `GenerateRequest`; the API draws at temperature 1 unless it is told otherwise."""
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        names = (
            "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias", "seed",
        )  # fmt: skip
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        temperature = 1.0 if self.temperature is None else self.temperature
        return given | {"temperature": temperature, "max_tokens": self.max_tokens, "stop": stop or ()}

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


ParametersT = TypeVar("ParametersT", bound=Parameters)


def parse(body: bytes, kind: type[ParametersT], harmless: Mapping[str, tuple[object, ...]]) -> ParametersT:
    """`harmless`: values, besides null, with which a parameter that is not built means nothing. Raises `BadParameter`."""
    try:
        request = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at ")
        found = _PATH.search(path)  # "`$.stop[0]`", or "`key` in `$.logit_bias`"
        param = found[1] if found else None
        raise BadParameter(f"{problem} - in {param}" if param else problem, param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadParameter(f"The body is not JSON: {error}") from error
    for name, values in harmless.items():
        value = getattr(request, name)
        if value is not None and value not in values:
            raise BadParameter(
                f"{name} is not supported by this node: leave it out.", name, "unsupported_parameter"
            )
    return request
