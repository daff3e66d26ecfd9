"""Chat templates: a conversation as the text that the model was trained to continue.

A template comes with the model, so it is foreign code: it runs in jinja2's immutable sandbox, and its output is bounded. It
sees the names that Hugging Face templates use, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from protocols.errors import UserError

OUTPUT_CHARACTERS_MAX: Final = 8 << 20
_FAULTS: Final = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)
"""What a template can raise by mistakes of its own."""

Message = Mapping[str, str]
"""With `role` and `content`."""


class ChatTemplate:
    """`source` None: a plain form that marks each turn with its role."""

    def __init__(self, source: str | None, special: Mapping[str, str]) -> None:
        """`special` are names such as bos_token with their texts. Raises `UserError` for a broken template."""
        self._special = dict(special)
        self._template: Template | None = None
        if source is not None:
            try:
                self._template = _environment().from_string(source)
            except _FAULTS as error:
                raise UserError(
                    f"the chat template of the model is broken ({error}): mend or remove it"
                ) from error

    def render(self, messages: Sequence[Message]) -> str:
        """Ends where the answer begins. Raises `UserError` if the template refuses the messages."""
        if self._template is None:
            return "".join(f"{each['role']}: {each['content']}\n" for each in messages) + "assistant:"
        parts: list[str] = []
        left = OUTPUT_CHARACTERS_MAX
        pieces = self._template.generate(
            messages=[dict(each) for each in messages], add_generation_prompt=True, **self._special
        )
        try:
            for piece in pieces:
                parts.append(piece)
                left -= len(piece)
                if left < 0:
                    raise UserError("the chat template writes without end: remove it from the model")
        except _FAULTS as error:
            raise UserError(f"the chat template of the model refuses these messages: {error}") from error
        return "".join(parts)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    # jinja2's own filter escapes for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: object) -> NoReturn:
    raise TemplateError(str(message))
