"""Who holds what, as the daemons tell it, and waiting until all is held again."""

from __future__ import annotations

import signal
from typing import Any, Final

from node.demo.local_mesh import LocalMesh, LocalNode, wait_until
from protocols.errors import WeftError

WHOLE_S: Final = 60.0


def held_ranges(node: LocalNode, model: str) -> list[tuple[str, bool, str]]:
    """Every claim that the node knows of: the layers, whether it is a standby, and who holds them."""
    models = node.call("models")["models"]
    ranges: list[dict[str, Any]] = next((each["ranges"] for each in models if each["name"] == model), [])
    return sorted((each["range"], each["standby"], each["name"]) for each in ranges)


def own_shards(node: LocalNode) -> list[tuple[str, bool]]:
    """What the node's own worker holds."""
    return sorted((shard["range"], shard["standby"]) for shard in node.status()["shards"])


def open_stages(node: LocalNode) -> int:
    """Of sessions that entered anywhere."""
    return sum(shard["sessions"] for shard in node.status()["shards"])


def wait_idle(mesh: LocalMesh, within_s: float = 20.0) -> None:
    """Until no daemon has a session or a stage of one."""

    def is_idle() -> bool:
        return not any(open_stages(node) or node.call("ps")["sessions"] for node in running(mesh))

    wait_until(is_idle, within_s, "sessions or stages are left over")


def running(mesh: LocalMesh) -> list[LocalNode]:
    return [node for node in mesh.nodes.values() if node.is_running]


def heal(mesh: LocalMesh, planned: list[tuple[str, bool, str]], model: str) -> None:
    """Start what has ended, let what was stopped go on, and wait until every daemon sees all that was planned."""
    for node in mesh.nodes.values():
        if node.is_running:
            node.send_signal(signal.SIGCONT)
        else:
            node.start()
    for node in mesh.nodes.values():
        node.wait_ready()
    mesh.wait_connected()

    def is_whole() -> bool:
        try:
            return all(held_ranges(node, model) == planned for node in mesh.nodes.values())
        except WeftError:
            return False

    wait_until(is_whole, WHOLE_S, "not every range is held again")
    wait_idle(mesh)
