"""Starts the torch process: the binding of `inference.engine.worker_client.Spawn` to this machine.

The worker has a session of its own, so that Ctrl-C in a terminal is the daemon's alone. It holds one end of a socketpair and
nobody but the daemon holds the other, so it ends with the daemon however the daemon ends. (A parent-death signal would not
do: it follows the thread that forked, and trio's threads come and go.)
"""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

import trio

from inference.engine.worker.client import Spawn
from inference.engine.worker.settings import WorkerSettings, as_argument
from protocols.errors import LocalFault

SOCKET_BUFFER_BYTES: Final = 4 << 20  # a prefill chunk of 128 rows at 8192 x 4 bytes goes in without a pause


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """Implements `inference.engine.worker_client.WorkerProcess`."""

    connection: socket.socket
    process: trio.Process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def wait(self) -> int:
        return await self.process.wait()

    def kill(self) -> None:
        self.process.kill()


def torch_worker(settings: WorkerSettings) -> Spawn:
    # -P: a folder called inference where the user happens to stand is not ours.
    return python_child("-P", "-m", "inference.engine.worker.process", as_argument(settings))


def python_child(*arguments: str) -> Spawn:
    """Spawns `python arguments... FD`, whose FD is its end of the socketpair."""

    async def spawn() -> ChildProcess:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        ours.setblocking(False)
        descriptor = theirs.fileno()
        command = [sys.executable, *arguments, str(descriptor)]
        try:
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, pass_fds=(descriptor,), start_new_session=True
            )
        except OSError as error:
            ours.close()
            raise LocalFault(f"no process for the worker: {error}") from error
        finally:
            theirs.close()
        return ChildProcess(ours, process)

    return spawn
