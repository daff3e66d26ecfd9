"""A daemon process from its lock to its exit code, with a fake node in it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from node.cli.main import run
from node.control_client import ControlClient
from node.folders import find_folders
from protocols.errors import Disconnected

WAIT_S = 30


@contextmanager
def process(home, *arguments, ready=True, **environment):
    """`weft up` in a process of its own, past its announcement."""
    command = [sys.executable, "-m", "tests.node.fake_daemon", "--home", str(home), "--http", "0", *arguments]
    with subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            if ready:
                await_line(started, "invite others")
            yield started
        finally:
            started.kill()


def await_line(started, beginning):
    for line in started.stdout:
        if line.strip().startswith(beginning):
            return
    pytest.fail(f"it ended without saying {beginning!r}: {started.stderr.read()}")


def status_of(home, capsys):
    code = run(["status", "--home", str(home), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_it_answers_while_it_starts_and_is_ready_afterwards(tmp_path, capsys):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with process(tmp_path, ready=False, FAKE_DAEMON_GATE=str(gate)) as started:
        # The pipe opens for writing once the daemon, its socket bound, has come to read it.
        with gate.open("w"):
            code, status = status_of(tmp_path, capsys)
            assert (code, status["state"], status["pid"]) == (1, "starting", started.pid)
            assert run(["models", "--home", str(tmp_path)]) == 1
            assert "still starting" in capsys.readouterr().err
        await_line(started, "invite others")
        code, status = status_of(tmp_path, capsys)
        assert (code, status["state"]) == (0, "ready")
        host, _, port = status["http"].rpartition(":")
        with socket.create_connection((host, int(port))):
            pass


def test_down_while_it_starts_ends_it(tmp_path, capsys):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with process(tmp_path, ready=False, FAKE_DAEMON_GATE=str(gate)) as started:
        with gate.open("w"), ControlClient(find_folders({}, str(tmp_path)).socket) as client:
            assert client.call("down") == {"state": "draining"}
        assert started.wait(WAIT_S) == 0


def test_down_ends_it_and_leaves_nothing_behind(tmp_path, capsys):
    with process(tmp_path) as started:
        assert run(["down", "--home", str(tmp_path)]) == 0
        assert started.wait(WAIT_S) == 0
    assert not (tmp_path / "run/weft.sock").exists()
    assert run(["down", "--home", str(tmp_path)]) == 3
    with process(tmp_path):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_mid_generation_drains_and_exits_0(tmp_path, number):
    with process(tmp_path) as started, ControlClient(find_folders({}, str(tmp_path)).socket) as client:
        events = []

        def on_event(event):
            events.append(event)
            if event["kind"] == "token" and len(events) == 2:
                started.send_signal(number)

        finished = client.call("run", {"model": "slow", "prompt": "one two three"}, on_event)
        assert finished["text"] == "one two three"
        assert started.wait(WAIT_S) == 0


def test_a_second_signal_ends_it_at_once(tmp_path):
    with process(tmp_path) as started, ControlClient(find_folders({}, str(tmp_path)).socket) as client:

        def on_event(event):
            if event["kind"] == "token":
                started.send_signal(signal.SIGTERM)
                # Draining has begun when status says so; only then is the next one the second.
                with ControlClient(find_folders({}, str(tmp_path)).socket) as other:
                    while other.call("status")["state"] != "draining":
                        pass
                started.send_signal(signal.SIGTERM)

        with pytest.raises(Disconnected):
            client.call("run", {"model": "hold", "prompt": "one two"}, on_event)
        assert started.wait(WAIT_S) == 130


def test_a_second_daemon_on_one_home_is_told_the_first(tmp_path):
    with process(tmp_path) as first, process(tmp_path, ready=False) as second:
        assert second.wait(WAIT_S) == 1
        assert second.stderr.read() == (
            f"weft: another daemon runs on this home (pid {first.pid}): "
            "stop it with 'weft down' or set WEFT_HOME.\n"
        )
        assert run(["status", "-q", "--home", str(tmp_path)]) == 0


def test_a_killed_daemon_leaves_a_home_that_starts_again(tmp_path):
    with process(tmp_path) as first:
        first.kill()
        first.wait(WAIT_S)
        assert (tmp_path / "run/weft.sock").exists()
        with process(tmp_path):
            assert run(["status", "-q", "--home", str(tmp_path)]) == 0


def test_an_http_port_taken_is_told_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with process(tmp_path, "--http", f"127.0.0.1:{port}", ready=False) as started:
            assert started.wait(WAIT_S) == 1
            assert f"HTTP can't listen on 127.0.0.1:{port}" in started.stderr.read()


def test_a_daemon_that_cannot_open_says_so_in_one_line(tmp_path):
    with process(tmp_path, "--join", "weft1.x", ready=False) as started:
        assert started.wait(WAIT_S) == 1
        assert started.stderr.read() == "weft: The inviter can't be reached: is it up?\n"


def test_a_foreign_file_in_the_sockets_place_is_told_and_kept(tmp_path):
    folders = find_folders({}, str(tmp_path))
    folders.make()
    folders.socket.write_text("precious")
    with process(tmp_path, ready=False) as started:
        assert started.wait(WAIT_S) == 1
        assert "in the way" in started.stderr.read()
    assert folders.socket.read_text() == "precious"


def test_a_wrong_configuration_is_told_in_one_line(tmp_path):
    (tmp_path / "config.toml").write_text("[worker]\nthraeds = 2\n")
    with process(tmp_path, ready=False) as started:
        assert started.wait(WAIT_S) == 1
        assert started.stderr.read().endswith("did you mean worker.threads?\n")


def test_logs_are_json_lines_when_nobody_watches(tmp_path):
    with process(tmp_path) as started:
        started.terminate()
        assert started.wait(WAIT_S) == 0
        lines = [json.loads(line) for line in started.stderr]
    assert [line["event"] for line in lines] == ["ready", "draining", "down"]
    assert set(lines[0]) == {"ts", "level", "event", "logger"}
