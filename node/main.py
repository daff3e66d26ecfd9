"""One daemon process, from its lock to its exit code.

    lock home -> bind control socket and HTTP port -> answer "starting" -> import node.opening -> open it -> serve HTTP, "ready"
    first SIGTERM, SIGINT or `weft down`: drain at most limits.DRAIN_S, take the node down, exit 0; a second signal: at once

The rule of the file: this is where environment, signals and sockets of the process come in; `node.opening` has none of them.
torch and libp2p are imported only by `node.opening`, in a thread, so that `weft status` is answered meanwhile.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol, cast

import structlog
import trio

from inference.engine.memory.allocator import keep_large_apart
from node.api import NodeApi
from node.clock import SystemClock
from node.config import Config
from node.control import ControlServer
from node.control_socket import bound_control_socket
from node.folders import Folders, only_daemon
from node.http.server import bound_http_socket, serve_http
from node.lifecycle import Lifecycle
from protocols import limits
from protocols.errors import LocalFault, WeftError
from protocols.exit_codes import ExitCode

log = structlog.get_logger("node.main")

Announce = Callable[[dict[str, Any]], None]
"""Told the status once the node is ready."""


class DaemonModule(Protocol):
    """What `node.opening` offers."""

    def open_daemon(self, config: Config, folders: Folders) -> AbstractAsyncContextManager[NodeApi]:
        """A node that is up while the context is open. Raises `WeftError` kinds."""


def serve(config: Config, folders: Folders, announce: Announce, daemon: str = "node.opening") -> ExitCode:
    """Run until told to end. Raises `UserError` for a second daemon, a port taken and the like, and what the node raised."""
    folders.make()
    keep_large_apart()
    with (
        only_daemon(folders),
        bound_control_socket(folders.socket) as control_socket,
        bound_http_socket(config.http) as http_socket,
    ):
        process = _Process(config, folders, announce, daemon)
        failure: WeftError | None = None
        try:
            trio.run(
                process.run, control_socket, http_socket, restrict_keyboard_interrupt_to_checkpoints=True
            )
        except* WeftError as group:
            failure = _first(group)  # raised below: here it would be wrapped in a group again
        if isinstance(failure, LocalFault):
            log.error("the daemon failed", exc_info=failure)
        if failure is not None:
            raise failure
        return process.exit_code


class _Process:
    """The tasks of one daemon process."""

    def __init__(self, config: Config, folders: Folders, announce: Announce, daemon: str) -> None:
        self.exit_code = ExitCode.OK
        self._config = config
        self._folders = folders
        self._announce = announce
        self._daemon = daemon
        self._clock = SystemClock()
        self._lifecycle = Lifecycle(str(folders.state), self._clock)

    async def run(self, control_socket: socket.socket, http_socket: socket.socket) -> None:
        control = ControlServer(control_socket, self._lifecycle, os.geteuid())
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_signals, nursery.cancel_scope)
            await nursery.start(control.run)
            opened = await self._open_unless_stopped()
            if opened is not None:
                # HTTP lives inside the node's context: its requests end before the node does.
                async with opened as api, trio.open_nursery() as serving:
                    self._lifecycle.ready(api)
                    gateway = partial(
                        serve_http, http_socket, self._config.http, self._lifecycle, self._clock
                    )
                    await serving.start(gateway)
                    await self._until_stopped(api, control)
            nursery.cancel_scope.cancel()

    async def _open_unless_stopped(self) -> AbstractAsyncContextManager[NodeApi] | None:
        # The thread can't be cancelled; it takes seconds, and so may a `weft down` that comes meanwhile.
        module = cast("DaemonModule", await trio.to_thread.run_sync(importlib.import_module, self._daemon))
        return None if self._lifecycle.stopping.is_set() else module.open_daemon(self._config, self._folders)

    async def _until_stopped(self, api: NodeApi, control: ControlServer) -> None:
        self._announce(self._lifecycle.status())
        log.info("ready")
        await self._lifecycle.stopping.wait()
        log.info("draining", seconds_max=limits.DRAIN_S)
        with trio.move_on_after(limits.DRAIN_S):
            await api.drain()
        self._lifecycle.withdraw()
        with trio.move_on_after(1):
            await control.end_calls()
        log.info("down")

    async def _watch_signals(
        self,
        scope: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                if self._lifecycle.stopping.is_set():
                    self.exit_code = ExitCode.INTERRUPTED
                    scope.cancel()
                    return
                self._lifecycle.stop()


def _first(group: BaseExceptionGroup[WeftError]) -> WeftError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")
