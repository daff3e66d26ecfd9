"""A real daemon that lets foreign peers in: `weft ping` there and back, status, and js-libp2p where it is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from mesh.host.foreign.streams import PROTOCOLS
from node.demo.local_mesh import LocalMesh, LocalNode
from tests.e2e.commands import complaint, weft
from tests.interop.js_peer import js_peer
from tests.interop.test_js_libp2p import needs_js
from tests.mesh.host.foreign.foreign_hosts import ANYWHERE, address_of, echoed, foreign, foreign_peers
from tests.mesh.host.wires import identity

WITHIN_S = 30.0
SETTINGS = {"WEFT_WORKER_THREADS": "1", "WEFT_MESH_MDNS": "false", "WEFT_MESH_FOREIGN_LISTEN": ANYWHERE}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNode]:
    with LocalMesh(tmp_path_factory.mktemp("foreign"), ["one"], SETTINGS) as mesh:
        mesh.start()
        yield mesh.first


def told_address(node: LocalNode) -> str:
    status = node.status()
    (address,) = status["addresses"]["foreign"]
    assert address.startswith("/ip4/127.0.0.1/tcp/")
    assert address.endswith(f"/p2p/{status['peer']}")
    return str(address)


async def weft_ping(node: LocalNode, address: str) -> dict[str, Any]:
    """`weft ping` as a process, while this one answers."""
    done = await trio.to_thread.run_sync(lambda: weft("ping", node.home, address, "-c", "2", "--json"))
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_a_daemon_and_a_foreign_peer_reach_each_other(node: LocalNode) -> None:
    address = told_address(node)
    with trio.fail_after(WITHIN_S):
        async with foreign(2) as peer:
            found = await weft_ping(node, address_of(peer))
            assert (found["peer"], len(found["rtts_ms"])) == (identity(2).peer, 2)
            assert (await peer.ping(address, 2)).agent.startswith("weft/")
        async with foreign_peers(3).dial(address) as connection:
            assert await echoed(connection, bytes(300_000)) == bytes(300_000)
    assert node.status()["connections"] == []  # those are of members


def test_status_for_people_shows_the_address(node: LocalNode) -> None:
    assert f"foreign  {told_address(node)}\n" in weft("status", node.home).stdout


@pytest.mark.parametrize(
    "address", ["nonsense", "/ip4/127.0.0.1/tcp/1", f"/ip4/127.0.0.1/tcp/1/p2p/{identity(2).peer}"]
)
def test_a_ping_that_fails_says_so_in_a_line(node: LocalNode, address: str) -> None:
    assert complaint(weft("ping", node.home, address))


@needs_js
async def test_a_daemon_and_js_reach_each_other(node: LocalNode) -> None:
    address = told_address(node)
    async with js_peer() as js:
        with trio.fail_after(WITHIN_S):
            assert (await weft_ping(node, js.address))["agent"].startswith("js-libp2p")
            assert sorted((await js.do("identify", address))["protocols"]) == sorted(PROTOCOLS)
            assert (await js.do("ping", address))["ms"] < 5000
            assert (await js.do("echo", address, bytes=300_000))["same"]
