"""The torch process of a node: `python -m inference.engine.worker THREADS MEMORY_BYTES FD`, FD its end of a socketpair.

It lives as long as that socket. A signal for the daemon's whole group (Ctrl-C, systemd's SIGTERM) is not for it: the daemon
drains first and then closes the socket, and if the daemon is killed, the kernel closes it.

An edge: the only file of this package that touches a socket, the environment and a clock.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from io import BufferedReader
from typing import Final

from inference.engine.memory import keep_large_apart
from inference.engine.worker_server import Connection, Engines, Server
from protocols import limits

READ_BYTES: Final = 64 * limits.KIB  # a decode row with its header in one system call


def main(arguments: list[str]) -> None:
    threads, memory_bytes, descriptor = map(int, arguments)
    prepare(threads)
    # Only now: torch reads these variables while it is imported.
    from inference.engine.torch_engines import TorchEngines

    serve(descriptor, TorchEngines(threads, memory_bytes, time.perf_counter))


def prepare(threads: int) -> None:
    """What has to be so before torch is imported."""
    keep_large_apart()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Spinning OpenMP threads of one worker halve the speed of others on the machine.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["OMP_NUM_THREADS"] = str(threads)


def serve(descriptor: int, engines: Engines) -> None:
    """Returns when the daemon has closed its end or is gone."""
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rb", READ_BYTES) as reader:
        assert isinstance(reader, BufferedReader)
        try:
            Server(Connection(reader, connection.sendall), engines, time.monotonic).run()
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main(sys.argv[1:])
