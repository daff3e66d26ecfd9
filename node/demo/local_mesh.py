"""Real daemons as processes on loopback, each with its own home, identity and ports.

    with LocalMesh(folder, ["one", "two", "three"]) as mesh:
        mesh.start()
        mesh["two"].kill()
        mesh["two"].start()

Leaving the context ends them all. The demo, the end-to-end tests and the benchmarks stand on this.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from node.control_client import ControlClient, NoDaemon
from node.folders import Folders, find_folders
from protocols.errors import LocalFault, TimedOut, WeftError

READY_S: Final = 60.0  # a busy machine takes several seconds to import libp2p, and torch in the worker
POLL_S: Final = 0.05
ANY_PORT: Final = "/ip4/127.0.0.1/tcp/0"

ResultT = TypeVar("ResultT")


class LocalNode:
    """One daemon. `log` holds what it printed, over all its lives."""

    def __init__(self, name: str, home: Path, settings: Mapping[str, str]) -> None:
        self.name = name
        self.home = home
        self.log = home / "daemon.log"
        self.folders: Folders = find_folders({}, str(home))
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, join: str | None = None) -> None:
        """Returns at once; see `wait_ready`."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        # -P: a folder called node where the user happens to stand is not ours.
        command = [
            sys.executable,
            "-P",
            "-m",
            "node.cli.main",
            "up",
            "--home",
            str(self.home),
            "--name",
            self.name,
        ]
        command += ["--control-listen", ANY_PORT, "--data-listen", ANY_PORT, "--http", "127.0.0.1:0"]
        command += ["--join", join] if join else []
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("WEFT_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and our own arguments)
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=inherited | dict(self._settings),
                start_new_session=True,
            )  # fmt: skip

    def client(self) -> ControlClient:
        return ControlClient(self.folders.socket)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        with self.client() as client:
            return client.call(method, params)

    def status(self) -> dict[str, Any]:
        return self.call("status")

    def wait_ready(self, within_s: float = READY_S) -> dict[str, Any]:
        """The status of the ready daemon; raises `LocalFault` with the end of its log if it ended."""

        def is_ready() -> dict[str, Any] | None:
            if not self.is_running:
                raise LocalFault(f"the daemon {self.name!r} ended: {self._last_words()}")
            try:
                status = self.status()
            except (NoDaemon, WeftError):
                return None
            return status if status["state"] == "ready" else None

        try:
            return wait_until(is_ready, within_s, "")
        except TimedOut:
            raise TimedOut(
                f"the daemon {self.name!r} is not ready after {within_s:g} s: {self._last_words()}"
            ) from None

    def kill(self) -> None:
        """SIGKILL: no goodbye to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal and return at once."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, within_s: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait_ended(within_s)

    def wait_ended(self, within_s: float = 20.0) -> int:
        """The exit code of a daemon that was told to end; raises `TimedOut` and kills it if it does not."""
        assert self._process is not None
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimedOut(f"the daemon {self.name!r} did not end within {within_s:g} s") from None

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        except FileNotFoundError:
            return "it printed nothing"
        return lines[-1][:500] if lines else "it printed nothing"


class LocalMesh:
    """Daemons by name; the first creates the network and the others join it with an invite each."""

    def __init__(self, folder: Path, names: Sequence[str], settings: Mapping[str, str] | None = None) -> None:
        self.nodes = {name: LocalNode(name, folder / name, settings or {}) for name in names}

    def __getitem__(self, name: str) -> LocalNode:
        return self.nodes[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = [node for node in self.nodes.values() if node.is_running]
        try:
            for node in running:
                node.send_signal(signal.SIGTERM)
            for node in running:
                with suppress(TimedOut):  # killed by then
                    node.wait_ended()
        finally:
            for (
                node
            ) in running:  # whoever interrupts this is in a hurry, and leaves nothing behind all the same
                node.kill()

    @property
    def first(self) -> LocalNode:
        return next(iter(self.nodes.values()))

    def start(self) -> None:
        """Returns when all are ready and see each other."""
        self.first.start()
        self.first.wait_ready()
        others = list(self.nodes.values())[1:]
        for node in others:
            node.start(join=self.first.call("invite", uses=1)["invite"])
        for node in others:
            node.wait_ready()
        self.wait_connected()

    def wait_connected(self, within_s: float = READY_S) -> None:
        """Until every running daemon has every other one as a member that is up."""
        running = [node for node in self.nodes.values() if node.is_running]

        def are_connected() -> bool:
            return all(
                sum(member["up"] for member in node.status()["members"]) >= len(running) - 1
                for node in running
            )

        wait_until(are_connected, within_s, "the daemons do not see each other")

    def by_peer(self) -> dict[str, LocalNode]:
        """Running daemons by their peer ids."""
        return {node.status()["peer"]: node for node in self.nodes.values() if node.is_running}


def wait_until(condition: Callable[[], ResultT | None], within_s: float, message: str) -> ResultT:
    """What `condition` gives once it is true; raises `TimedOut` with `message`."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if found := condition():
            return found
        time.sleep(POLL_S)
    raise TimedOut(f"{message} (after {within_s:g} s)")
