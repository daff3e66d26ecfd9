"""Binding the HTTP port and serving the app with hypercorn, in our nursery and with our own end."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import hypercorn.trio
import trio
from hypercorn.config import Config as HypercornConfig

from node.config import HttpConfig
from node.http.app import make_app
from node.lifecycle import Lifecycle
from protocols.errors import UserError
from protocols.seams import Clock

_BACKLOG: Final = 100
_GRACE_S: Final = 1.0  # what runs past the drain is cancelled after this
_HEADERS_BYTES_MAX: Final = 32_768
_IDLE_S: Final = 30.0


@contextmanager
def bound_http_socket(config: HttpConfig) -> Iterator[socket.socket]:
    """A listening socket, nobody accepting yet; raises `UserError` for a port taken or a host that is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"http.host {config.host!r} is no address of this machine: use 127.0.0.1.") from error
    with bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
            bound.listen(_BACKLOG)  # now, since a port is only taken for others once it listens
        except OSError as error:
            raise UserError(
                f"HTTP can't listen on {config.host}:{config.port} ({error.strerror}): choose another with "
                "'--http HOST:PORT'; port 0 takes any free one."
            ) from error
        yield bound


async def serve_http(
    bound: socket.socket,
    config: HttpConfig,
    lifecycle: Lifecycle,
    clock: Clock,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until the node is withdrawn; `lifecycle.http` then says where."""
    host, port = bound.getsockname()[:2]
    settings = HypercornConfig()
    settings.bind = [f"fd://{bound.detach()}"]
    settings.accesslog = None
    settings.errorlog = logging.getLogger("hypercorn.error")
    settings.include_server_header = False
    settings.graceful_timeout = _GRACE_S
    settings.keep_alive_timeout = _IDLE_S
    settings.h11_max_incomplete_size = _HEADERS_BYTES_MAX

    async def serve(*, task_status: trio.TaskStatus[list[str]]) -> None:
        await hypercorn.trio.serve(
            make_app(config, lifecycle, clock),  # type: ignore[arg-type]
            settings,
            shutdown_trigger=lifecycle.withdrawn.wait,
            task_status=task_status,
            mode="asgi",
        )

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        lifecycle.http = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        task_status.started()
