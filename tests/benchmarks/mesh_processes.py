"""Processes of `mesh_node`, started, killed, stopped and asked by a benchmark."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from protocols.errors import Unavailable
from protocols.ids import PeerId
from tests.benchmarks.mesh_node import Hold, MakeInvite, Measure, Order, Start

START_S: Final = 60.0
END_S: Final = 10.0


class Process:
    """One node. `changes` are (peer, state, at_s) of all its runs, as it said them; `states` what those of this one come to."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.home.mkdir(parents=True, exist_ok=True)
        self.changes: list[tuple[PeerId, str, float]] = []
        self.states: dict[PeerId, str] = {}
        self._answers: list[dict[str, Any]] = []
        with (self.home / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.mesh_node", str(self.home)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def order(self, order: Order) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(msgspec.json.encode(order).decode() + "\n")
        self._popen.stdin.flush()

    def peer(self) -> PeerId:
        """Waits until it is up after `Start`. Raises `Unavailable`."""
        return PeerId(self.answer("peer"))

    def invite(self) -> str:
        """For one node. Raises `Unavailable`."""
        self.order(MakeInvite())
        return str(self.answer("invite"))

    def cpu_s(self) -> float:
        """User and system time since its start. Raises `Unavailable`."""
        self.order(Measure())
        return float(self.answer("cpu_s"))

    def answer(self, key: str, within_s: float = START_S) -> Any:
        """What it says under that key. Raises `Unavailable` if it ends first, or says nothing."""

        def is_answered() -> bool:
            return any(key in answer for answer in self._answers) or self._popen.poll() is not None

        wait_until(is_answered, within_s)
        for answer in self._answers:
            if key in answer:
                self._answers.remove(answer)
                return answer[key]
        raise Unavailable(f"a node did not answer, its log is {self.home / 'log'}: {self._last_words()}")

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """And wait for its end; idempotent."""
        self._popen.kill()
        self._popen.wait()
        self._reader.join()
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def leave(self) -> None:
        """It says goodbye to the others, and ends."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(END_S)
        self.kill()

    def _last_words(self) -> str:
        lines = (self.home / "log").read_text("utf-8", "replace").strip().splitlines()
        return lines[-1][:500] if lines else "it said nothing"

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            said = json.loads(line)
            if "at_s" in said:
                self.states[said["peer"]] = said["state"]
                self.changes.append((said["peer"], said["state"], said["at_s"]))
            else:
                self._answers.append(said)


class ProcessMesh:
    """`count` nodes, as a context: the first has founded the network and invited the others. With `is_member` false they listen,
    and have nothing to do with each other."""

    def __init__(self, count: int, root: Path, *, is_member: bool = True) -> None:
        self._root = root
        self._is_member = is_member
        self.nodes = [Process(root / f"node-{number}") for number in range(count)]
        self.peers: list[PeerId] = []

    def __enter__(self) -> Self:
        try:
            founder, *guests = self.nodes
            founder.order(Start(is_member=self._is_member))
            self.peers = [founder.peer()]
            for guest in guests:
                guest.order(Start(founder.invite() if self._is_member else None, self._is_member))
            self.peers += [guest.peer() for guest in guests]
            if self._is_member:
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

    def hold_all(self) -> None:
        """Each claims a range of the model, and the next one's as a standby."""
        for number, node in enumerate(self.nodes):
            node.order(Hold(number, len(self.nodes)))

    def join(self, name: str, ranges: int = 0) -> Process:
        """One more node, whose import is over when its invite is used; it is not among `nodes`."""
        guest = Process(self._root / name)
        guest.order(Start(self.nodes[0].invite(), ranges=ranges))
        return guest

    def restart(self, index: int) -> None:
        """After its end: from its home, on other ports."""
        before = self.nodes[index]
        self.nodes[index] = after = Process(before.home)
        after.changes = [*before.changes]
        after.order(Start())
        assert after.peer() == self.peers[index]

    def await_all_alive(self) -> None:
        """Each holds every other alive. Raises `Unavailable`."""

        def are_alive() -> bool:
            return all(
                node.states.get(peer) == "ALIVE"
                for node, own in zip(self.nodes, self.peers, strict=True)
                for peer in self.peers
                if peer != own
            )

        if not wait_until(are_alive, START_S):
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
