"""Answers that are left early, and daemons that are told to end in the middle of one."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import pytest

from node.control_client import CallFailed
from node.demo.local_mesh import LocalMesh, wait_until
from tests.e2e.asking import GREEDY, MODEL, Answer, ask, leave
from tests.e2e.commands import arguments_of, clean_environment, complaint, weft
from tests.e2e.holding import open_stages, running, wait_idle

LONG = GREEDY | {"max_tokens": 450}  # more than is generated before the test has done its part


def drainable(unbroken: dict[str, Answer]) -> dict[str, Any]:
    """A request of some three seconds at the pace of this machine: to be ended in its middle, and within the time to drain."""
    pace = unbroken["greedy"].finished["tokens_per_s"]
    return GREEDY | {"max_tokens": min(GREEDY["max_tokens"], max(30, int(3 * pace)))}


def assert_busy(mesh: LocalMesh) -> None:
    wait_until(lambda: all(open_stages(node) for node in running(mesh)), 20, "not every hop has a stage")


def test_a_client_that_leaves_frees_its_session_on_every_hop(mesh: LocalMesh, unbroken):
    answer = leave(mesh["two"], 10, **LONG)
    assert answer.finished == {}
    wait_idle(mesh)
    assert ask(mesh["two"], **GREEDY).tokens == unbroken["greedy"].tokens


def test_ctrl_c_frees_the_session_on_every_hop_and_exits_130(mesh: LocalMesh):
    command = arguments_of("run", mesh["three"].home, MODEL, GREEDY["prompt"], "--raw")
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment({}),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)  # it generates
        assert_busy(mesh)
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == 130
    assert complaints == b"\n"  # after the ^C that a terminal shows
    wait_idle(mesh)


def test_a_cancelled_call_is_answered_and_the_connection_goes_on(mesh: LocalMesh):
    with mesh.first.client() as client:
        client._send({"id": 1, "method": "run", "params": {"model": MODEL, **LONG}})
        client._last_id = 1
        assert_busy(mesh)
        client.cancel()
        assert client.call("ps") == {"sessions": []}
    wait_idle(mesh)


def test_an_entry_told_to_end_finishes_the_answer_first(mesh: LocalMesh, unbroken):
    def terminate(answer: Answer) -> None:
        mesh.first.send_signal(signal.SIGTERM)
        wait_until(lambda: mesh.first.status()["state"] == "draining", 20, "it does not drain")
        with pytest.raises(CallFailed, match="going down: ask another"):
            ask(mesh.first, **GREEDY)

    answer = ask(mesh.first, 10, terminate, **drainable(unbroken))
    assert answer.tokens == unbroken["greedy"].tokens[: len(answer.tokens)]
    assert answer.finished["reason"] == "length"
    assert mesh.first.wait_ended() == 0


def test_a_stage_holder_told_to_end_does_no_harm(mesh: LocalMesh, unbroken):
    leaving = []

    def terminate(answer: Answer) -> None:
        leaving.extend(mesh[stage["name"]] for stage in answer.route if stage["name"] != mesh.first.name)
        leaving[0].send_signal(signal.SIGTERM)

    answer = ask(mesh.first, 10, terminate, **drainable(unbroken))
    assert answer.tokens == unbroken["greedy"].tokens[: len(answer.tokens)]
    assert answer.finished["reason"] == "length"
    assert leaving[0].wait_ended() == 0
    assert ask(mesh.first, **GREEDY).tokens == unbroken["greedy"].tokens


def test_down_waits_until_the_daemon_has_gone(mesh: LocalMesh):
    done = weft("down", mesh["three"].home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "weft: down.\n")
    assert mesh["three"].wait_ended() == 0
    assert "Start one with 'weft up'" in complaint(weft("status", mesh["three"].home), code=3)
