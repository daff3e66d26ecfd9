"""What dies in the middle of an answer, and what the reader gets nevertheless."""

from __future__ import annotations

import os
import signal

import pytest

from node.control_client import CallFailed
from node.demo.local_mesh import LocalMesh, LocalNode, wait_until
from tests.e2e.asking import DRAWN, GREEDY, MODEL, Answer, ask
from tests.e2e.commands import complaint, weft
from tests.e2e.holding import own_shards, wait_idle

PAUSE_S_MAX = 3.0
STOPPED_PAUSE_S_MAX = 6.0  # silence has to last before it is taken for death
BACK_S = 60.0
SAMPLING = {"greedy": GREEDY, "drawn": DRAWN}


def holder_of_the_middle(answer: Answer, mesh: LocalMesh) -> LocalNode:
    """Of the route as it is, and never the entry."""
    names = [stage["name"] for stage in answer.route if stage["name"] != mesh.first.name]
    return mesh[names[0]]


def assert_rebuilt_elsewhere(answer: Answer, lost: LocalNode) -> None:
    """Every range of the lost node went to its standby, and only its rows were replayed."""
    assert [range_ for range_, _, _ in answer.moved] == [
        stage["range"] for stage in answer.route if stage["name"] == lost.name
    ]
    for each in answer.reroutes:
        assert each["lost_name"] == lost.name != each["to_name"]
        assert each["replayed_rows"] > 0


@pytest.mark.parametrize("sampling", ["greedy", "drawn"])
def test_the_answer_goes_on_when_the_middle_is_killed_and_the_killed_one_comes_back(mesh, unbroken, sampling):
    victims = []

    def kill(answer: Answer) -> None:
        victims.append((holder_of_the_middle(answer, mesh), own_shards(holder_of_the_middle(answer, mesh))))
        victims[0][0].kill()

    answer = ask(mesh.first, 40, kill, **SAMPLING[sampling])
    (victim, shards) = victims[0]
    assert answer.tokens == unbroken[sampling].tokens
    assert_rebuilt_elsewhere(answer, victim)
    assert answer.pause_s < PAUSE_S_MAX
    assert ask(mesh.first, **GREEDY).tokens == unbroken["greedy"].tokens

    victim.start()  # without an invite or an offer
    victim.wait_ready()
    wait_until(lambda: own_shards(victim) == shards, BACK_S, "it did not come back with its ranges")


def test_the_answer_goes_on_when_a_holder_stands_still(mesh: LocalMesh, unbroken):
    stopped = []

    def stop(answer: Answer) -> None:
        stopped.append(holder_of_the_middle(answer, mesh))
        stopped[0].send_signal(signal.SIGSTOP)

    try:
        answer = ask(mesh.first, 40, stop, **GREEDY)
    finally:
        for node in stopped:
            node.send_signal(signal.SIGCONT)
    assert answer.tokens == unbroken["greedy"].tokens
    assert_rebuilt_elsewhere(answer, stopped[0])
    assert answer.pause_s < STOPPED_PAUSE_S_MAX


def test_the_answer_goes_on_when_a_worker_is_killed_and_its_shards_come_back(mesh: LocalMesh, unbroken):
    killed = []

    def kill(answer: Answer) -> None:
        node = holder_of_the_middle(answer, mesh)
        killed.append((node, own_shards(node), node.status()["worker"]["pid"]))
        os.kill(killed[0][2], signal.SIGKILL)

    answer = ask(mesh.first, 40, kill, **GREEDY)
    node, shards, pid = killed[0]
    assert answer.tokens == unbroken["greedy"].tokens
    assert_rebuilt_elsewhere(answer, node)
    assert answer.pause_s < PAUSE_S_MAX
    assert node.is_running
    wait_until(lambda: own_shards(node) == shards, BACK_S, "the shards did not come back")
    assert node.status()["worker"]["pid"] not in {None, pid}


def test_without_a_standby_the_request_ends_with_a_reason_and_the_daemon_lives(mesh: LocalMesh):
    def kill_all_others(answer: Answer) -> None:
        for name in ("two", "three"):
            mesh[name].kill()

    with pytest.raises(CallFailed, match="no standby is left for layers") as raised:
        ask(mesh.first, 40, kill_all_others, **GREEDY)
    assert "\n" not in str(raised.value)
    assert "offer the model again" in str(raised.value)
    assert mesh.first.status()["state"] == "ready"
    said = complaint(weft("run", mesh.first.home, MODEL, "hello"))
    assert "no live node holds layers" in said
    assert "offer the model again" in said
    wait_idle(mesh)
