"""The control protocol over a real unix socket, with a fake node behind it."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager

import pytest
import trio

from node.clock import SystemClock
from node.control import ControlServer
from node.control_socket import bound_control_socket
from node.lifecycle import Lifecycle, State
from protocols import limits
from tests.node.fake_node import DIGEST, PEER, FakeNode


class Client:
    """Raw lines, so that wrong ones can be sent."""

    def __init__(self, stream):
        self.stream = stream
        self._pending = b""

    async def send(self, **request):
        await self.stream.send_all(json.dumps(request).encode() + b"\n")

    async def receive(self):
        with trio.fail_after(5):
            while b"\n" not in self._pending:
                chunk = await self.stream.receive_some()
                if not chunk:
                    return None
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    async def ask(self, method, **params):
        await self.send(id=1, method=method, params=params)
        return await self.receive()


class Served:
    """A control server in a nursery; `node` None: still starting."""

    def __init__(self, path, node=None, uid=None):
        self.path = path
        self.node = node
        self.lifecycle = Lifecycle("/home/anna", SystemClock())
        self.uid = os.geteuid() if uid is None else uid
        if node is not None:
            self.lifecycle.ready(node)

    @asynccontextmanager
    async def running(self):
        with bound_control_socket(self.path) as listener:
            self.server = ControlServer(listener, self.lifecycle, self.uid)
            async with trio.open_nursery() as nursery:
                await nursery.start(self.server.run)
                yield self
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def client(self):
        async with await trio.open_unix_socket(str(self.path)) as stream:
            yield Client(stream)


@pytest.fixture
async def served(tmp_path):
    async with Served(tmp_path / "s", FakeNode()).running() as served:
        yield served


@pytest.fixture
async def client(served):
    async with served.client() as client:
        yield client


async def test_a_starting_daemon_answers_status_and_refuses_the_rest(tmp_path):
    async with Served(tmp_path / "s").running() as served, served.client() as client:
        status = (await client.ask("status"))["result"]
        assert status["state"] == "starting"
        assert status["pid"] == os.getpid()
        assert "peer" not in status
        for method in ("models", "ps"):
            error = (await client.ask(method))["error"]
            assert "still starting" in error["message"]
            assert error["code"] == 1
        assert (await client.ask("run", model="tiny", prompt="a"))["error"]["code"] == 1


async def test_status_tells_state_and_node(client):
    status = (await client.ask("status"))["result"]
    assert status["state"] == "ready"
    assert status["peer"] == PEER
    assert [member["up"] for member in status["members"]] == [True, False]
    assert status["connections"][0]["security"] == "/weft/noise-xk/1"
    assert status["addresses"]["data"] == ["/ip4/127.0.0.1/tcp/4748"]


async def test_models_ps_plan_invite_and_version_answer(client):
    assert (await client.ask("models"))["result"]["models"][0]["digest"] == DIGEST
    assert (await client.ask("ps"))["result"] == {"sessions": []}
    assert (await client.ask("plan", model="tiny"))["result"]["ranges"][1]["standby"] is None
    assert (await client.ask("invite", uses=3))["result"]["invite"] == "weft1.3.86400"
    assert (await client.ask("version"))["result"]["version"]


async def test_a_run_streams_its_events_and_ends_with_the_whole(client, served):
    await client.send(id=7, method="run", params={"model": "moved", "prompt": "one two", "max_tokens": 2})
    replies = [await client.receive() for _ in range(5)]
    assert [reply["event"]["kind"] for reply in replies[:4]] == ["started", "token", "rerouted", "token"]
    assert replies[4]["result"]["text"] == "one two"
    assert replies[4]["result"]["reason"] == "length"
    assert {reply["id"] for reply in replies} == {7}
    assert served.node.requests[0].temperature == 0


async def test_an_offer_streams_progress_and_ends_with_the_plan(client):
    await client.send(id=1, method="offer", params={"path": "weft-tiny"})
    phases = [(await client.receive())["event"]["phase"] for _ in range(4)]
    assert phases == ["fetching", "fetching", "loading", "claimed"]
    assert (await client.receive())["result"]["plan"]["layers"] == 8


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"nonsense", "not a request"),
        (b"[]", "not a request"),
        (b'{"method": "status"}', "not a request"),
        (b'{"id": "x", "method": "status"}', "not a request"),
        (b'{"id": 1, "method": "\xff"}', "not a request"),
        (b'{"id": 1, "method": "explode"}', "unknown method 'explode'"),
        (b'{"id": 1, "method": "invite", "params": {"uses": 0}}', "invite: Expected `int` >= 1"),
        (b'{"id": 1, "method": "invite", "params": {"user": 1}}', "unknown field `user`"),
        (b'{"id": 1, "method": "run", "params": {"model": "tiny"}}', "either a prompt or messages"),
        (b'{"id": 1, "method": "status", "params": [1]}', "not a request"),
        (b"[" * 100_000, "not a request"),
    ],
)
async def test_a_wrong_line_is_answered_and_the_connection_goes_on(client, line, said):
    await client.stream.send_all(line + b"\n\n")
    error = (await client.receive())["error"]
    assert said in error["message"]
    assert error["code"] == 2
    assert "result" in await client.ask("status")


async def test_a_line_past_the_limit_is_answered_and_ends_the_connection(client, served):
    await client.stream.send_all(b"x" * (limits.CONTROL_LINE_BYTES_MAX + 1))
    assert "exceeds" in (await client.receive())["error"]["message"]
    assert await client.receive() is None
    async with served.client() as another:
        assert "result" in await another.ask("status")


@pytest.mark.parametrize(
    ("model", "code"),
    [("unknown", 1), ("refused", 4), ("timed-out", 124), ("no-route", 1), ("late-no-route", 1)],
)
async def test_an_error_of_the_node_becomes_a_message_and_an_exit_code(client, model, code):
    reply = await client.ask("run", model=model, prompt="a b")
    while "event" in reply:
        reply = await client.receive()
    assert reply["error"]["code"] == code
    assert reply["error"]["message"]


async def test_a_cancel_request_cancels_one_call_and_leaves_the_others(client, served):
    await client.send(id=1, method="run", params={"model": "hold", "prompt": "a b"})
    await client.send(id=2, method="run", params={"model": "slow", "prompt": "c d"})
    for _ in range(4):
        assert "event" in await client.receive()
    await client.send(id=3, method="cancel", params={"id": 1})
    replies = [await client.receive() for _ in range(2)]
    by_id = {reply["id"]: reply for reply in replies}
    assert by_id[3]["result"] == {"cancelled": True}
    assert by_id[1]["error"]["code"] == 130
    assert served.node.cancelled.is_set()
    served.node.release.set()
    assert (await client.receive())["event"]["text"] == " d"
    assert (await client.receive())["result"]["text"] == "c d"
    await client.send(id=4, method="cancel", params={"id": 2})
    assert (await client.receive())["result"] == {"cancelled": False}


async def test_an_id_in_use_is_refused(client):
    await client.send(id=1, method="run", params={"model": "hold", "prompt": "a"})
    assert "event" in await client.receive()
    assert "event" in await client.receive()
    assert "under way" in (await client.ask("status"))["error"]["message"]


async def test_closing_the_connection_cancels_what_runs_on_it(served):
    async with served.client() as client:
        await client.send(id=1, method="run", params={"model": "hold", "prompt": "a b"})
        await client.receive()
        await client.receive()
        assert served.node.running == 1
    with trio.fail_after(5):
        await trio.to_thread.run_sync(served.node.cancelled.wait)
    async with served.client() as client:
        assert (await client.ask("ps"))["result"]["sessions"] == []


async def test_too_many_clients_are_told(served, monkeypatch):
    monkeypatch.setattr(limits, "CONTROL_CLIENTS_MAX", 1)
    async with served.client() as first, served.client() as second:
        assert "result" in await first.ask("status")
        assert "too many clients" in (await second.receive())["error"]["message"]
        assert await second.receive() is None


async def test_too_many_calls_are_told(client, monkeypatch):
    monkeypatch.setattr(limits, "CONTROL_CALLS_MAX", 1)
    await client.send(id=5, method="run", params={"model": "hold", "prompt": "a"})
    assert "event" in await client.receive()
    assert "event" in await client.receive()
    assert "let one end" in (await client.ask("status"))["error"]["message"]


async def test_another_user_is_turned_away(tmp_path):
    async with (
        Served(tmp_path / "s", FakeNode(), uid=os.geteuid() + 1).running() as served,
        served.client() as client,
    ):
        assert await client.receive() is None


async def test_down_asks_the_daemon_to_end(client, served):
    assert (await client.ask("down"))["result"] == {"state": "draining"}
    assert served.lifecycle.stopping.is_set()
    assert served.lifecycle.state is State.DRAINING


async def test_taking_the_node_down_ends_calls_with_an_answer(client, served):
    await client.send(id=1, method="run", params={"model": "hold", "prompt": "a b"})
    await client.receive()
    await client.receive()
    served.lifecycle.stop()
    served.lifecycle.withdraw()
    with trio.fail_after(5):
        await served.server.end_calls()
    assert "going down" in (await client.receive())["error"]["message"]
    assert served.node.running == 0
    assert "going down" in (await client.ask("models"))["error"]["message"]


async def test_a_call_cancelled_in_mid_stream_never_tears_a_line(client):
    """A long stream to a client that does not read, then a cancel: every line must still be whole."""
    await client.send(id=1, method="run", params={"model": "tiny", "prompt": "word " * 60_000})
    await trio.testing.wait_all_tasks_blocked()
    await client.send(id=2, method="cancel", params={"id": 1})
    seen = set()
    while len(seen) < 2:
        reply = await client.receive()
        if "event" not in reply:
            seen.add(reply["id"])
    assert seen == {1, 2}
