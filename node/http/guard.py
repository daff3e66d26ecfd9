"""What every HTTP request passes first: its id, the browser checks, the key, the count; and the last resort for bugs.

Host and Origin are checked because a web page can otherwise reach a loopback server through the user's browser (DNS
rebinding, cross-site posts).
"""

from __future__ import annotations

import hmac
from itertools import count
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.config import HttpConfig, is_loopback
from node.http.errors import ErrorBody, HttpError, TooLarge, describe, internal_error
from protocols import limits
from protocols.errors import Overloaded
from protocols.seams import Clock

log = structlog.get_logger("node.http")

_OPEN_PATHS = frozenset({"/health"})


class Guard:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp, config: HttpConfig, clock: Clock) -> None:
        self._app = app
        self._config = config
        self._is_local = is_loopback(config.host)
        self._active = 0
        self._numbers = count(1)
        self._epoch = f"{int(clock.wall() * 1000):x}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = self._request_id(headers)
        begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        objection = self._objection(scope["path"], headers)
        if objection is not None:
            await objection.to_response()(scope, receive, send_with_id)
            return
        self._active += 1
        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass
        except Exception:  # a bug in one request must not end the node
            log.exception("a request failed", request_id=request_id, path=scope["path"])
            if not begun:
                await internal_error().to_response()(scope, receive, send_with_id)
        finally:
            self._active -= 1

    def _request_id(self, headers: Headers) -> str:
        given = headers.get("x-request-id", "")
        if 0 < len(given) <= 128 and given.isascii() and given.isprintable():
            return given
        return f"req-{self._epoch}-{next(self._numbers)}"

    def _objection(self, path: str, headers: Headers) -> HttpError | None:
        if not self._is_addressed_here(headers.get("host", ""), headers.get("origin")):
            message = "This Host or Origin may not use the node: call it by the address it listens on."
            return HttpError(403, ErrorBody(message, "permission_error", None, "foreign_origin"))
        if path not in _OPEN_PATHS and not self._has_key(headers.get("authorization", "")):
            message = "The API key is missing or wrong: send 'Authorization: Bearer KEY'."
            return HttpError(401, ErrorBody(message, "authentication_error", None, "invalid_api_key"))
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > limits.HTTP_BODY_BYTES_MAX:
            return describe(TooLarge())
        if self._active >= limits.HTTP_REQUESTS_MAX:
            return describe(Overloaded("Too many requests are under way: try again in a moment."))
        return None

    def _is_addressed_here(self, host: str, origin: str | None) -> bool:
        host_name = urlsplit(f"//{host}").hostname or ""
        if self._is_local and not is_loopback(host_name):
            return False
        if origin is None:
            return True
        parts = urlsplit(origin)
        return parts.netloc == host or (self._is_local and is_loopback(parts.hostname or ""))

    def _has_key(self, authorization: str) -> bool:
        if not self._config.api_key:
            return True
        scheme, _, key = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            key.strip().encode(), self._config.api_key.encode()
        )
