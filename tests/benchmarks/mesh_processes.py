"""Processes of `mesh_node`, started, killed, stopped and asked by a benchmark."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from protocols.errors import Unavailable
from protocols.ids import PeerId
from protocols.membership import Contact

START_S: Final = 60.0


class Process:
    """One node. `changes` are (peer, state, at_s) of all its runs, as it said them; `states` what those of this one come to."""

    def __init__(self, number: int, root: Path) -> None:
        self.home = root / f"node-{number}"
        self.home.mkdir(parents=True, exist_ok=True)
        self._number = number
        self.changes: list[tuple[PeerId, str, float]] = []
        self.states: dict[PeerId, str] = {}
        self._answers: list[dict[str, Any]] = []
        self.start()

    def start(self) -> None:
        """Without telling it who else there is."""
        self.states.clear()
        self._answers.clear()
        with (self.home / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.mesh_node", str(self._number), str(self.home)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, args=(self._popen,), daemon=True)
        self._reader.start()

    def contact(self) -> Contact:
        """Of this run; waits until it listens."""
        packed = self._answer("contact", START_S)["contact"]
        return msgspec.msgpack.decode(base64.b64decode(packed), type=Contact)

    def introduce(self, contacts: Iterable[Contact]) -> None:
        packed = [base64.b64encode(msgspec.msgpack.encode(contact)).decode() for contact in contacts]
        self._write(json.dumps(packed))
        self._answer("cpu_s", START_S)

    def cpu_s(self) -> float:
        """User and system time since its start."""
        self._write("")
        return float(self._answer("cpu_s", START_S)["cpu_s"])

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """And wait for its end."""
        self._popen.kill()
        self._popen.wait()
        self._reader.join()
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None
            pipe.close()

    def _write(self, line: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line + "\n")
        self._popen.stdin.flush()

    def _answer(self, key: str, within_s: float) -> dict[str, Any]:
        def answered() -> bool:
            return any(key in answer for answer in self._answers)

        if not wait_until(answered, within_s) or self._popen.poll() is not None:
            raise Unavailable(f"a node did not answer, its log is {self.home / 'log'}")
        answer = next(answer for answer in self._answers if key in answer)
        self._answers.remove(answer)
        return answer

    def _read(self, popen: subprocess.Popen[str]) -> None:
        assert popen.stdout is not None
        for line in popen.stdout:
            said = json.loads(line)
            if "at_s" in said:
                self.states[said["peer"]] = said["state"]
                self.changes.append((said["peer"], said["state"], said["at_s"]))
            else:
                self._answers.append(said)


class ProcessMesh:
    """`count` nodes that know each other, as a context."""

    def __init__(self, count: int, root: Path) -> None:
        self.nodes = [Process(number, root) for number in range(count)]
        self.contacts: list[Contact] = []

    def __enter__(self) -> Self:
        try:
            self.contacts = [node.contact() for node in self.nodes]
            for node in self.nodes:
                node.introduce(self.contacts)
            self.await_all_alive()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.kill()

    def peer(self, index: int) -> PeerId:
        return self.contacts[index].peer

    def restart(self, index: int) -> None:
        """After its end, on other ports."""
        self.nodes[index].start()
        self.contacts[index] = self.nodes[index].contact()
        self.nodes[index].introduce(self.contacts)

    def await_all_alive(self) -> None:
        def all_alive() -> bool:
            return all(
                node.states.get(contact.peer) == "ALIVE"
                for node, own in zip(self.nodes, self.contacts, strict=True)
                for contact in self.contacts
                if contact.peer != own.peer
            )

        if not wait_until(all_alive, START_S):
            raise Unavailable("the nodes of the mesh did not find each other")


def wait_until(is_so: Callable[[], bool], within_s: float) -> bool:
    """Whether it came true."""
    until_s = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.01)
    return True


def others(nodes: Sequence[Process], index: int) -> list[Process]:
    return [node for place, node in enumerate(nodes) if place != index]
