"""The torch process of a node: `python -m inference.engine.worker.process SETTINGS FD`, SETTINGS as in
inference/engine/worker/settings.py, and FD its end of a socketpair.

It lives as long as that socket. A signal for the daemon's whole group (Ctrl-C, systemd's SIGTERM) is not for it: the daemon
drains first and then closes the socket, and if the daemon is killed, the kernel closes it.

An edge: beside inference/engine/parallel the only file of this package that touches a socket, the environment and a clock.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from msgspec.structs import replace

from inference.engine.memory.allocator import keep_large_apart
from inference.engine.parallel.orders import RankLost
from inference.engine.parallel.starting import leading_engines
from inference.engine.worker.server import Engines, run
from inference.engine.worker.settings import WorkerSettings, from_argument
from inference.engine.worker.socket import Connection
from inference.engine.worker.wire import READY_ON_HOST, Failed, Ready, encode
from protocols.errors import UserError


def main(arguments: list[str]) -> None:
    settings, descriptor = from_argument(arguments[0]), int(arguments[1])
    prepare(settings.threads_each)
    with ExitStack() as stack:
        try:
            engines, ready = stack.enter_context(_engines(settings))
        except UserError as error:
            refuse(descriptor, error)
        else:
            serve(descriptor, engines, ready)


@contextmanager
def _engines(settings: WorkerSettings) -> Iterator[tuple[Engines, Ready]]:
    """Raises `UserError` for a device that is not to be had."""
    if settings.ranks > 1:
        with leading_engines(settings) as led:
            yield led
        return
    # Only now: torch reads the environment while it is imported.
    from inference.engine.device import find_device
    from inference.engine.worker.torch_engines import TorchEngines

    device = find_device(settings.device)
    if device.is_accelerator:
        settings = replace(settings, memory_bytes=settings.card_bytes or device.free_bytes)
    engines = TorchEngines(settings, time.perf_counter, device)
    yield engines, Ready(device.kind, settings.memory_bytes)


def prepare(threads: int) -> None:
    """What has to be so before torch is imported."""
    keep_large_apart()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ.update(openmp_settings(threads))


def openmp_settings(threads: int) -> dict[str, str]:
    """The environment of a process that computes on so many threads.

    Threads that wait for each other and spin halve the speed of others on the machine; threads that sleep take 90 us to wake,
    a hundred times in every step. They spin for as long as waking takes, which costs at most twice of what is best.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # for those that know no count
        "GOMP_SPINCOUNT": "2500",
    }


def refuse(descriptor: int, error: UserError) -> None:
    """Tell the daemon why there is no worker."""
    with socket.socket(fileno=descriptor) as end, suppress(BrokenPipeError, ConnectionResetError):
        end.sendall(encode(0, Failed(type(error).__name__, str(error))))


def serve(descriptor: int, engines: Engines, ready: Ready = READY_ON_HOST) -> None:
    """Returns when the daemon has closed its end or is gone."""
    with socket.socket(fileno=descriptor) as end:
        waiting = (
            select.poll()
        )  # not select, which takes no descriptor over 1023, and a busy daemon hands us such ones
        waiting.register(end, select.POLLIN)

        def receive_into(buffer: memoryview, wait_s: float) -> int | None:
            if 0 < wait_s < math.inf:
                waiting.poll(math.ceil(wait_s * 1000))
            try:
                return end.recv_into(buffer, 0, 0 if wait_s == math.inf else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None

        with suppress(EOFError, BrokenPipeError, ConnectionResetError):
            run(Connection(receive_into, end.sendall), engines, time.monotonic, ready)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RankLost as lost:
        sys.exit(f"weft worker: {lost}")
