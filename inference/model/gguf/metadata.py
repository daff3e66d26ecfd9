"""What a GGUF file says about itself, asked for by key and type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from protocols.errors import Malformed

Scalar = bool | int | float | str
Value = Scalar | list[Scalar]
ScalarT = TypeVar("ScalarT", bool, int, float, str)


class Metadata:
    """Raises `Malformed` where a value is missing or of another type."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def find(self, key: str, kind: type[ScalarT]) -> ScalarT | None:
        """None if the file does not say."""
        value = self._values.get(key)
        if value is None:
            return None
        if type(value) is not kind:
            raise Malformed(f"its {key} is no {kind.__name__}")
        return value

    def need(self, key: str, kind: type[ScalarT]) -> ScalarT:
        value = self.find(key, kind)
        if value is None:
            raise Malformed(f"it has no {key}")
        return value

    def find_all(self, key: str, kind: type[ScalarT]) -> list[ScalarT] | None:
        """A list; None if the file does not say."""
        values = self._values.get(key)
        if values is None:
            return None
        if not isinstance(values, list):
            raise Malformed(f"its {key} is no list")
        found = [value for value in values if type(value) is kind]
        if len(found) != len(values):
            raise Malformed(f"its {key} holds what is no {kind.__name__}")
        return found

    def need_all(self, key: str, kind: type[ScalarT]) -> list[ScalarT]:
        values = self.find_all(key, kind)
        if values is None:
            raise Malformed(f"it has no {key}")
        return values
