"""Stands in for `node.opening` in processes of the tests: `python -m tests.node.fake_daemon --home ...`.

With FAKE_DAEMON_GATE in the environment, importing it waits until that pipe is written to, as torch and libp2p would take
their time.
"""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from protocols.errors import Unavailable
from tests.node.fake_node import FakeNode

if __name__ != "__main__" and "FAKE_DAEMON_GATE" in os.environ:
    Path(os.environ["FAKE_DAEMON_GATE"]).read_text()


@asynccontextmanager
async def open_daemon(config, folders):
    if config.mesh.join:
        raise Unavailable("The inviter can't be reached: is it up?")
    yield FakeNode()


if __name__ == "__main__":
    # `weft up`, but for the name of the module that it imports.
    import node.main
    from node.cli.main import run

    node.main.serve = partial(node.main.serve, daemon="tests.node.fake_daemon")
    sys.exit(run(["up", *sys.argv[1:]]))
