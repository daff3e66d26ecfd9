"""What dies in the middle of an answer, and what the reader gets nevertheless."""

from __future__ import annotations

import os
import signal

import pytest

from node.demo.local_mesh import LocalMesh, LocalNode, wait_until
from tests.e2e.asking import DRAWN, GREEDY, Answer, ask
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


def test_standbys_are_mapped_and_one_that_takes_over_is_loaded_first(mesh: LocalMesh, unbroken):
    def kinds() -> set[str]:
        ranges = mesh.first.call("models")["models"][0]["ranges"]
        return {held["kind"] for held in ranges if held["standby"]}

    # One that has taken over before is mapped again once its primary is back.
    wait_until(lambda: kinds() == {"mapped"}, 30.0, "a standby stays loaded")
    victims = []

    def kill(answer: Answer) -> None:
        victims.append(holder_of_the_middle(answer, mesh))
        victims[0].kill()

    answer = ask(mesh.first, 40, kill, **DRAWN)
    assert answer.tokens == unbroken["drawn"].tokens
    assert answer.text == unbroken["drawn"].text
    assert_rebuilt_elsewhere(answer, victims[0])
    assert answer.pause_s < PAUSE_S_MAX


def test_what_nobody_else_holds_any_more_the_entry_serves_itself(mesh: LocalMesh, unbroken):
    def kill_all_others(answer: Answer) -> None:
        for name in ("two", "three"):
            mesh[name].kill()

    answer = ask(mesh.first, 40, kill_all_others, **GREEDY)
    assert answer.tokens == unbroken["greedy"].tokens
    assert {each["to_name"] for each in answer.reroutes} == {mesh.first.name}
    assert mesh.first.status()["state"] == "ready"
    assert ask(mesh.first, **GREEDY).tokens == unbroken["greedy"].tokens
    wait_idle(mesh)
