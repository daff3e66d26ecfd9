"""Daemons that cannot start: one line that names the next step, and what runs already is not disturbed."""

from __future__ import annotations

import time

import msgspec
import pytest

from mesh.admission.belonging import decide_network
from mesh.admission.identity import load_identity
from node.demo.local_mesh import LocalMesh, wait_until
from node.disk import FolderDisk, SystemRandomness
from node.folders import find_folders
from protocols.membership import parse_invite
from tests.e2e.commands import complaint, weft, weft_up


@pytest.fixture(autouse=True)
def _the_mesh_lives_on(mesh: LocalMesh):
    pids = {name: node.pid for name, node in mesh.nodes.items()}
    yield
    for name, node in mesh.nodes.items():
        status = node.status()
        assert (status["state"], status["pid"], node.is_running) == ("ready", pids[name], True)
        assert sum(member["up"] for member in status["members"]) >= 2


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def port_of(mesh: LocalMesh, plane: str) -> str:
    return mesh.first.status()["addresses"][plane][0].rpartition("/")[2]


def invite(mesh: LocalMesh, **params) -> str:
    return mesh.first.call("invite", **params)["invite"]


def test_a_second_daemon_on_one_home(mesh: LocalMesh):
    said = complaint(weft_up(mesh.first.home))
    assert f"another daemon runs on this home (pid {mesh.first.pid}): stop it with 'weft down'" in said


@pytest.mark.parametrize("plane", ["control", "data"])
def test_a_port_that_is_taken(mesh: LocalMesh, home, plane):
    port = port_of(mesh, plane)
    said = complaint(weft_up(home, f"--{plane}-listen", f"/ip4/127.0.0.1/tcp/{port}"))
    assert f"Port {port} on 127.0.0.1 is taken" in said
    assert f"mesh.{plane}_listen" in said


def test_an_http_port_that_is_taken(mesh: LocalMesh, home):
    said = complaint(weft_up(home, "--http", mesh.first.status()["http"]))
    assert "choose another with '--http HOST:PORT'" in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[worker]\nthraeds = 1\n", "did you mean worker.threads?"),
        ("[worker]\nthreads = 'many'\n", "expected is a whole number, 0 or more. Change it"),
        ("[wroker]\nthreads = 1\n", "did you mean worker?"),
        ("[worker\n", "is not valid TOML"),
        ("[http]\nhost = '0.0.0.0'\n", "set http.api_key, or use 127.0.0.1"),
    ],
)
def test_a_configuration_that_says_what_nobody_knows(home, text, expected):
    home.mkdir()
    (home / "config.toml").write_text(text)
    said = complaint(weft("up", home))
    assert expected in said
    assert str(home / "config.toml") in said


def test_a_variable_or_a_flag_of_the_wrong_type(home):
    assert "$WEFT_WORKER_THREADS" in complaint(weft_up(home, settings={"WEFT_WORKER_THREADS": "-1"}))
    said = complaint(weft("up", home, "--control-listen", "127.0.0.1:4747"))
    assert "a listen address such as /ip4/0.0.0.0/tcp/4747" in said


def test_an_invite_that_is_damaged(mesh: LocalMesh, home):
    for damaged in (invite(mesh)[:-5], "weft1.", "hello"):
        assert "weft invite" in complaint(weft_up(home, "--join", damaged))


def test_an_invite_that_nobody_made(mesh: LocalMesh, home):
    forged = msgspec.structs.replace(parse_invite(invite(mesh)), secret=bytes(16))
    said = complaint(weft_up(home, "--join", forged.to_text()), code=4)
    assert "does not know this invite" in said
    assert "make a new one there with 'weft invite'" in said


def test_an_invite_that_has_expired(mesh: LocalMesh, home):
    made_s, text = time.time(), invite(mesh, ttl_s=0.5)
    wait_until(lambda: time.time() > made_s + 2, 10, "time stands still")
    said = complaint(weft_up(home, "--join", text), code=4)
    assert said == "The invite has expired: make a new one there with 'weft invite'."


def test_an_invite_that_is_spent(mesh: LocalMesh, home, tmp_path):
    text = invite(mesh, uses=1)
    joining = LocalMesh(tmp_path, ["guest"])
    with joining:
        joining.first.start(join=text)
        joining.first.wait_ready()
        said = complaint(weft_up(home, "--join", text), code=4)
    assert "spent" in said
    assert "make a new one there with 'weft invite'" in said


def test_an_invite_of_a_network_to_which_this_home_does_not_belong(mesh: LocalMesh, home):
    folders = find_folders({}, str(home))
    folders.make()
    disk, randomness = FolderDisk(folders.state), SystemRandomness()
    decide_network(disk, load_identity(disk, randomness, 0.0), randomness, 0.0, None)
    said = complaint(weft_up(home, "--join", invite(mesh)))
    assert "the invite to another: start a second node with a home of its own (WEFT_HOME)" in said
