"""Errors as OpenAI clients read them: a status, a type and a code for every kind of `WeftError`."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from starlette.responses import Response

from protocols import limits
from protocols.errors import (
    NotFound,
    Overloaded,
    Refused,
    RemoteFault,
    Unavailable,
    UserError,
    WeftError,
)


class BadParameter(UserError):
    """A request that can't be served as it stands; `param` names the culprit."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class TooLarge(UserError):
    """A body past the limit."""

    def __init__(self) -> None:
        super().__init__(f"The body exceeds the {limits.HTTP_BODY_BYTES_MAX} bytes allowed.")


class ErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class HttpError:
    """What goes out for an error: as a response, or as the last event of a stream that has begun."""

    status: int
    body: ErrorBody
    headers: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return msgspec.json.encode({"error": self.body})

    def to_response(self) -> Response:
        return Response(self.to_json(), self.status, self.headers, "application/json")


_RETRY: dict[str, str] = {"retry-after": "1"}


def describe(error: WeftError) -> HttpError:
    """The client repeats 429 and 503 by itself after `retry-after`."""
    message = str(error) or type(error).__name__
    match error:
        case BadParameter():
            return HttpError(
                400, ErrorBody(message, "invalid_request_error", error.param, error.code or "invalid_value")
            )
        case TooLarge():
            return HttpError(413, ErrorBody(message, "invalid_request_error", None, "too_large"))
        case NotFound():
            return HttpError(404, ErrorBody(message, "invalid_request_error", "model", "model_not_found"))
        case Refused():
            return HttpError(403, ErrorBody(message, "permission_error", None, "refused"))
        case UserError():
            return HttpError(400, ErrorBody(message, "invalid_request_error", None, "invalid_value"))
        case Overloaded():
            return HttpError(429, ErrorBody(message, "rate_limit_error", None, "overloaded"), _RETRY)
        case Unavailable():
            return HttpError(503, ErrorBody(message, "unavailable_error", None, "unavailable"), _RETRY)
        case RemoteFault():
            return HttpError(502, ErrorBody(message, "peer_error", None, "peer_fault"))
        case _:
            return internal_error()


def internal_error() -> HttpError:
    return HttpError(
        500,
        ErrorBody("Something is wrong in this node: its log says more.", "server_error", None, "internal"),
    )
