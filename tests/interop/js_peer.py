"""A js-libp2p peer as a process: told what to do by a JSON line, answering by one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

FOLDER: Final = Path(__file__).parent / "js"
COMMAND: Final = ("node", "-r", "./polyfill.cjs", "peer.mjs")
START_S: Final = 60.0
ANSWER_S: Final = 30.0


class JsPeer:
    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._pending = bytearray()
        self.peer = ""
        self.address = ""

    async def hear(self, within_s: float) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout is not None
        with trio.fail_after(within_s):
            while b"\n" not in self._pending:
                chunk = await self._process.stdout.receive_some()
                assert chunk, "js-libp2p ended: its own words are on stderr"
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def do(self, operation: str, address: str, **parameters: int) -> dict[str, Any]:
        """What came of an operation on the peer at `address`; fails with what js-libp2p says."""
        assert self._process.stdin is not None
        command = json.dumps({"op": operation, "address": address, **parameters})
        await self._process.stdin.send_all(command.encode() + b"\n")
        answer = await self.hear(ANSWER_S)
        assert "error" not in answer, answer["error"]
        return answer


@asynccontextmanager
async def js_peer() -> AsyncIterator[JsPeer]:
    process = await trio.lowlevel.open_process(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=FOLDER
    )
    try:
        peer = JsPeer(process)
        up = await peer.hear(START_S)
        peer.peer, peer.address = up["peer"], up["address"]
        yield peer
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()
