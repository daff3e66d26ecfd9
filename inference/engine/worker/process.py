"""The torch process of a node: `python -m inference.engine.worker.process THREADS MEMORY_BYTES FOLDER PREFIX_SHARE DEVICE KV
CARD_BYTES RANKS FD`, FD its end of a socketpair, FOLDER where it keeps quantised weights, which may be empty, PREFIX_SHARE what of
its memory for caches may keep prompts for later sessions, and KV what caches are kept in, model or int8. On a card, which DEVICE may allow or ask for, CARD_BYTES stands for
MEMORY_BYTES, and 0 for a share of what is free there. RANKS is in how many processes every layer is computed, of which it starts the
others; more than one compute on the processor.

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
from contextlib import suppress

from inference.engine.memory.allocator import keep_large_apart
from inference.engine.parallel.orders import RankLost
from inference.engine.parallel.starting import leading_engines
from inference.engine.worker.server import Engines, run
from inference.engine.worker.socket import Connection
from inference.engine.worker.wire import READY_ON_HOST, Failed, Ready, encode
from protocols.errors import UserError


def main(arguments: list[str]) -> None:
    quantised, prefix_share = arguments.pop(2), float(arguments.pop(2))
    wanted, kv = arguments.pop(2), arguments.pop(2)
    threads, memory_bytes, card_bytes, ranks, descriptor = map(int, arguments)
    threads = max(1, threads // ranks)
    prepare(threads)
    if ranks > 1 and wanted == "cuda":
        refuse(
            descriptor,
            UserError(
                f"worker.tensor_parallel is {ranks}, and several processes compute on the processor alone: set worker.device"
                " to cpu, or worker.tensor_parallel to 1"
            ),
        )
        return
    if ranks > 1:
        with leading_engines(ranks, threads, memory_bytes, quantised, prefix_share, kv) as engines:
            serve(descriptor, engines)
        return
    # Only now: torch reads these variables while it is imported.
    from inference.engine.device import find_device
    from inference.engine.worker.torch_engines import TorchEngines

    try:
        device = find_device(wanted)
    except UserError as error:
        refuse(descriptor, error)
        return
    if device.is_accelerator:
        memory_bytes = card_bytes or device.free_bytes
    engines = TorchEngines(threads, memory_bytes, time.perf_counter, quantised, prefix_share, device, kv)
    serve(descriptor, engines, Ready(device.kind, memory_bytes))


def prepare(threads: int) -> None:
    """What has to be so before torch is imported."""
    keep_large_apart()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Spinning OpenMP threads of one worker halve the speed of others on the machine.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["OMP_NUM_THREADS"] = str(threads)


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
