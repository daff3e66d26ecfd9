"""JSON schemas as grammars that an answer can be held to; llguidance reads the schema.

Between the items of a JSON text stands one space at most, so that a model can't go on with white space for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llguidance import LLMatcher

from protocols import limits
from protocols.errors import UserError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_WRITTEN: Final[JsonCompileOptions] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


def check_schema(schema: str) -> None:
    """Raises `UserError` with the reason, in one line, for what no answer can be held to."""
    size_bytes = len(schema.encode())
    if size_bytes > limits.GRAMMAR_BYTES_MAX:
        raise UserError(
            f"the JSON schema has {size_bytes} bytes and {limits.GRAMMAR_BYTES_MAX} are allowed: shorten it."
        )
    try:
        is_wrong, problems = LLMatcher.validate_grammar_with_warnings(grammar_of(schema))
    except ValueError as error:
        is_wrong, problems = True, [str(error)]
    if is_wrong:
        reason = " ".join(" ".join(problems).split())[:300]
        raise UserError(f"the JSON schema can't be used: {reason}")


def grammar_of(schema: str) -> str:
    """As llguidance takes it. Raises `ValueError` for what is no JSON object."""
    grammar: str = LLMatcher.grammar_from_json_schema(schema, overrides=_WRITTEN)
    return grammar
