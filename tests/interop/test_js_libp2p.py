"""js-libp2p and weft, both ways: Noise XX, our yamux, identify, ping, and an echo of 300 kB.

`make interop` installs its packages from their lock file and runs this; without them there is nothing to run.
"""

from __future__ import annotations

import shutil

import pytest
import trio

from mesh.host.foreign.peers import ForeignPeers
from mesh.host.foreign.streams import PROTOCOLS
from tests.interop.js_peer import FOLDER, JsPeer, js_peer
from tests.mesh.host.foreign.foreign_hosts import address_of, echoed, foreign, foreign_peers

BODY_BYTES = 300_000
WITHIN_S = 30.0

needs_js = pytest.mark.skipif(
    shutil.which("node") is None or not (FOLDER / "node_modules").is_dir(),
    reason="js-libp2p is not installed: run make interop, which needs Node.js 20 or newer",
)
pytestmark = needs_js


async def test_js_dials_weft() -> None:
    async with foreign() as node, js_peer() as js:
        with trio.fail_after(WITHIN_S):
            made = await js.do("dial", address_of(node))
            assert made == {"security": "/noise", "muxer": "/yamux/1.0.0"}
            told = await js.do("identify", address_of(node))
            assert told["agent"].startswith("weft/")
            assert sorted(told["protocols"]) == sorted(PROTOCOLS)
            assert told["observed"].startswith("/ip4/127.0.0.1/tcp/")
            for _ in range(3):
                assert (await js.do("ping", address_of(node)))["ms"] < 5000
            assert await js.do("echo", address_of(node), bytes=BODY_BYTES) == {
                "same": True,
                "got": BODY_BYTES,
            }
        assert not node.faults


async def test_weft_dials_js() -> None:
    node = foreign_peers(1)
    async with js_peer() as js:
        with trio.fail_after(WITHIN_S):
            found = await node.ping(js.address, 3)
            assert found.peer == js.peer
            assert "js-libp2p" in found.agent
            assert len(found.rtts_ms) == 3
            body = bytes(at * 31 & 255 for at in range(BODY_BYTES))
            async with node.dial(js.address) as connection:
                assert await echoed(connection, body) == body
        assert not node.faults


async def test_both_have_several_streams_to_each_other_at_once() -> None:
    async with foreign() as node, js_peer() as js:
        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_echo_from_js, js, node)
                for number in range(2, 6):
                    nursery.start_soon(_echo_from_weft, js, foreign_peers(number))
        assert not node.faults


async def _echo_from_js(js: JsPeer, node: ForeignPeers) -> None:
    for _ in range(3):
        assert (await js.do("echo", address_of(node), bytes=BODY_BYTES))["same"]


async def _echo_from_weft(js: JsPeer, node: ForeignPeers) -> None:
    async with node.dial(js.address) as connection:
        for _ in range(3):
            assert await echoed(connection, bytes(BODY_BYTES)) == bytes(BODY_BYTES)
