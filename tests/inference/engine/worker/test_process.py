"""The process itself: its end of the socketpair, whatever number that has."""

from __future__ import annotations

import fcntl
import math
import resource
import socket
import threading

import pytest

from inference.engine.worker import process as worker
from inference.engine.worker.server import Server
from inference.engine.worker.wire import REPLIES, Ready, parse_prefix

HIGH = 1500  # a daemon with many connections hands on descriptors that select() would not take


def test_a_wait_for_company_works_on_a_descriptor_of_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard <= HIGH:
        pytest.skip(f"this system allows {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, HIGH + 100), hard))
    waits, has_waited = iter([0.001, 0.001]), threading.Event()

    def wait_s(_server: Server) -> float:
        wanted_s = next(waits, math.inf)
        if wanted_s == math.inf:
            has_waited.set()
        return wanted_s

    monkeypatch.setattr(Server, "wait_s", wait_s)
    ours, theirs = socket.socketpair()
    with ours:
        descriptor = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD, HIGH)
        theirs.close()
        serving = threading.Thread(target=worker.serve, args=(descriptor, None), daemon=True)
        serving.start()
        header_bytes, _, _ = parse_prefix(ours.recv(12, socket.MSG_WAITALL))
        assert isinstance(REPLIES.decode(ours.recv(header_bytes, socket.MSG_WAITALL)), Ready)
        assert has_waited.wait(10), "it did not come through its waits"
        ours.shutdown(socket.SHUT_RDWR)
        serving.join(10)
        assert not serving.is_alive()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
