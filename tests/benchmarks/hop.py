"""The hop: from the moment a worker has its output rows to the moment the next worker has them as input.

Measured on real daemons in real processes, whose torch workers note when a step begins and ends (`stamped_worker`); the
monotonic clock is one for the whole machine. In it are both socketpairs, both daemons, Noise, yamux and TCP on loopback, and
nothing of the arithmetic. The model's rows are 8 KiB wide.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from node.demo.local_mesh import ANY_PORT, LocalMesh, LocalNode
from protocols.errors import Unavailable
from tests.benchmarks.figures import Figure, figure_of
from tests.benchmarks.model import WIDE, model_folder
from tests.benchmarks.request import Answer, Request, ask
from tests.benchmarks.ring import offer_evenly
from tests.benchmarks.stamped_worker import STAMPS_VARIABLE, Stamp

NAMES: Final = ("hop-one", "hop-two", "hop-three")
TOKENS: Final = 400
PROMPT_ROWS: Final = 16
ROW_BYTES: Final = 8192
STAMPS_NAME: Final = "stamps.jsonl"

Say = Callable[[str], None]


class StampedNode(LocalNode):
    """A daemon as users run it, but for its worker, which notes times."""

    def start(self, join: str | None = None) -> None:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.benchmarks.stamped_node", "up", "--home", str(self.home)]
        command += ["--name", self.name, "--http", "127.0.0.1:0"]
        command += ["--control-listen", ANY_PORT, "--data-listen", ANY_PORT]
        command += ["--join", join] if join else []
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("WEFT_")}
        environment = inherited | dict(self._settings) | {STAMPS_VARIABLE: str(self.home / STAMPS_NAME)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )


def measure_hop(root: Path, settings: dict[str, str], say: Say) -> Figure:
    """Decode rows between neighbours of a chain of three, over one answer."""
    mesh = LocalMesh(root, (), settings)
    nodes = [StampedNode(name, root / name, settings) for name in NAMES]
    mesh.nodes = {node.name: node for node in nodes}
    assert WIDE.hidden_size * 2 == ROW_BYTES
    folder = model_folder("wide-rows", WIDE)
    request = Request.drawn(Random(4), PROMPT_ROWS, WIDE.vocab_size, TOKENS, temperature=1)
    with mesh:
        mesh.start()
        offer_evenly(mesh, folder, say)
        ask(mesh.first, folder.name, request, Answer())  # the first one opens the streams
        answer = Answer()
        ask(mesh.first, folder.name, request, answer)
    if answer.reroutes:
        raise Unavailable("a stage was lost while hops were measured: the machine is too busy, try again.")
    names = [stage["name"] for stage in answer.route]
    stamps = [_last_session(root / name / STAMPS_NAME) for name in names]
    hops = [
        (arrived.began_s - left.ended_s) * 1000
        for before, behind in itertools.pairwise(stamps)
        for left, arrived in zip(before, behind, strict=True)
        if left.position >= PROMPT_ROWS
    ]
    say(
        f"{len(hops)} hops of {ROW_BYTES} bytes along {' > '.join(names)}, {answer.tokens_per_s:.0f} tokens/s"
    )
    return figure_of("hop_ms_p50", hops, 0.5, "ms")


def _last_session(path: Path) -> list[Stamp]:
    """The steps of the session that ended last, by position."""
    stamps = msgspec.json.decode(path.read_bytes().splitlines()[-1], type=list[Stamp])
    return sorted(stamps, key=lambda stamp: stamp.position)
