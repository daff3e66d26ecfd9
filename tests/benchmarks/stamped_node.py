"""The `weft` command with another worker: `python -m tests.benchmarks.stamped_node up ...`."""

from __future__ import annotations

from unittest.mock import patch

from inference.engine.worker.client import Spawn
from node.cli.main import main
from node.processes import python_child


def stamped_worker(threads: int, memory_bytes: int, *_rest: object) -> Spawn:
    return python_child("-m", "tests.benchmarks.stamped_worker", str(threads), str(memory_bytes))


if __name__ == "__main__":
    with patch("node.opening.torch_worker", stamped_worker):
        main()
