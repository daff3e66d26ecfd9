"""Three daemons, one model, one answer, whoever is asked and however."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import openai
import pytest

from inference.model.text import Text
from node.demo.local_mesh import LocalMesh, LocalNode, wait_until
from tests.e2e.asking import GREEDY, MODEL, ask
from tests.e2e.commands import COMMAND_S, complaint, weft
from tests.e2e.conftest import NAMES

MESSAGES = [{"role": "user", "content": "Who is where?"}]


def test_every_range_has_a_holder_and_a_standby_elsewhere(standing):
    ranges = standing.plan["ranges"]
    assert len(ranges) >= 2
    assert {each["holder_name"] for each in ranges} == set(NAMES)
    assert all(each["standby"] not in {None, each["holder"]} for each in ranges)
    assert len(standing.planned) == 2 * len(ranges)


def peers_on(connections: list[dict[str, Any]], plane: str) -> set[str]:
    return {each["peer"] for each in connections if each["plane"] == plane}


@pytest.mark.parametrize("name", NAMES)
def test_a_node_is_connected_to_all_others_on_both_planes_by_noise_xk(mesh: LocalMesh, name):
    def connections() -> list[dict[str, Any]]:
        found = mesh[name].status()["connections"]
        return found if all(len(peers_on(found, plane)) == 2 for plane in ("control", "data")) else []

    found = wait_until(connections, 20, "not everybody is connected on both planes")
    assert {each["security"] for each in found} == {"/weft/noise-xk/1"}


def test_whichever_node_is_asked_the_answer_is_that_of_one_process(mesh: LocalMesh, checkpoint, unbroken):
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.suffix == ".json"}
    prompt = Text(files).encode(GREEDY["prompt"])
    question = {"model": str(checkpoint), "prompt_ids": prompt, "max_tokens": GREEDY["max_tokens"]}
    alone = subprocess.run(
        [sys.executable, "-P", "-m", "inference.engine.reference"],
        input=json.dumps(question), capture_output=True, text=True, timeout=COMMAND_S, check=True,
    )  # fmt: skip
    assert unbroken["greedy"].tokens == json.loads(alone.stdout)["token_ids"]
    assert len({stage["peer"] for stage in unbroken["greedy"].route}) == len(NAMES)
    for name in NAMES:
        assert ask(mesh[name], **GREEDY | {"max_tokens": 40}).tokens == unbroken["greedy"].tokens[:40]


def test_a_prompt_that_is_asked_again_is_answered_alike_and_kept_where_it_ran(mesh: LocalMesh):
    long = {
        "prompt": "Once upon a time there was a mill. " * 8,
        "max_tokens": 20,
        "temperature": 1.0,
        "seed": 5,
    }
    before = {name: memory(mesh[name])["worker"]["prefix_bytes"] for name in NAMES}
    first = ask(mesh["two"], **long)
    assert len(first.route) >= 2
    for stage in first.route:
        assert memory(mesh[stage["name"]])["worker"]["prefix_bytes"] > before[stage["name"]]
    assert ask(mesh["two"], **long).tokens == ask(mesh["three"], **long).tokens == first.tokens
    assert not any(memory(mesh[name])["caches"] for name in NAMES)


def memory(node: LocalNode) -> dict[str, Any]:
    """As `weft memory` has it, once no session is left that has only just ended."""

    def told() -> dict[str, Any]:
        found: dict[str, Any] = node.call("memory")
        return found if not found["caches"] else {}

    return wait_until(told, 10, "a session that has ended is kept")


def entry_without_the_first_range(mesh: LocalMesh, standing) -> LocalNode:
    first = {name for layers, _, name in standing.planned if layers.startswith("0-")}
    return next(node for name, node in mesh.nodes.items() if name not in first)


def test_the_openai_client_is_answered_by_a_node_without_the_first_layers(mesh: LocalMesh, standing):
    node = entry_without_the_first_range(mesh, standing)
    asked = {"model": MODEL, "messages": MESSAGES, "max_tokens": 40, "temperature": 0}
    url = f"http://{node.status()['http']}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        whole = client.chat.completions.create(**asked)
        with client.chat.completions.create(**asked, stream=True) as stream:
            chunks = [chunk.choices[0] for chunk in stream if chunk.choices]
    text = "".join(choice.delta.content or "" for choice in chunks)
    told = ask(node, messages=MESSAGES, max_tokens=40)
    assert whole.choices[0].message.content == text == told.text
    assert whole.usage.completion_tokens == 40
    assert (chunks[-1].finish_reason, whole.choices[0].finish_reason) == ("length", "length")


def test_the_command_line_prints_the_answer_and_nothing_else(mesh: LocalMesh):
    told = ask(mesh["two"], messages=[{"role": "user", "content": "Who is where?"}], max_tokens=30)
    given = weft("run", mesh["two"].home, MODEL, "Who is where?", "--max-tokens", "30")
    piped = weft("run", mesh["two"].home, MODEL, "--max-tokens", "30", stdin="Who is where?")
    empty = weft("run", mesh["two"].home, MODEL)
    assert "Standard input is empty" in complaint(empty, code=2)
    for done in (given, piped):
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.removesuffix("\n") == told.text.removesuffix("\n")


def test_reading_commands_print_json_that_agrees(mesh: LocalMesh):
    home = mesh["three"].home
    for verb in ("status", "models", "ps"):
        done = weft(verb, home, "--json")
        assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    for verb in ("status", "models"):
        assert MODEL in weft(verb, home).stdout
    assert weft("status", home, "--quiet").stdout == ""
