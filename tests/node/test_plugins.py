"""Verbs that other packages bring through the entry point group `weft.commands`."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import click
import pytest

from node.cli import plugins
from node.cli.main import run
from protocols.exit_codes import ExitCode

HERE = __name__


@click.command(short_help="says hello")
def hello():
    click.echo("hello")


NO_COMMAND = "a string"


@pytest.fixture
def brought(monkeypatch):
    """Entry points as if packages had brought them; whoever looks is counted."""
    points, looks = [], []

    def entry_points(*, group, name=None):
        assert group == "weft.commands"
        looks.append(name)
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr(plugins, "entry_points", entry_points)

    def bring(name, value):
        points.append(EntryPoint(name, value, "weft.commands"))
        return looks

    return bring


@pytest.fixture
def here(monkeypatch):
    """This module under a name that can be imported."""
    monkeypatch.setitem(sys.modules, "brought_along", sys.modules[HERE])


def test_a_verb_of_another_package_is_found_and_listed(brought, here, capsys):
    brought("hello", "brought_along:hello")
    assert run(["hello"]) == 0
    assert capsys.readouterr().out == "hello\n"
    assert run(["--help"]) == 0
    assert "\n  hello     says hello\n" in capsys.readouterr().out


def test_nobody_looks_for_a_verb_of_our_own(brought, capsys):
    looks = brought("version", "missing:nothing")
    assert run(["version"]) == 0
    assert looks == []
    assert run(["frobnicate"]) == ExitCode.USAGE
    assert looks == ["frobnicate"]
    assert capsys.readouterr().err == "weft: No such command 'frobnicate'. See 'weft --help'.\n"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("no_such_module:x", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("brought_along:missing", "AttributeError"),
        ("brought_along:NO_COMMAND", "is no command"),
        ("brought_broken:x", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_verb_is_one_line_and_breaks_no_other(
    brought, here, capsys, monkeypatch, tmp_path, value, what
):
    (tmp_path / "brought_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    brought("broken", value)
    assert run(["broken"]) == ExitCode.FAILED
    error = capsys.readouterr().err
    assert error.startswith("weft: 'broken' of an unknown package")
    assert what in error
    assert error.count("\n") == 1
    assert run(["--help"]) == 0
    assert "\n  status " in (listed := capsys.readouterr().out)
    assert "'broken' of an unknown package" in listed


def test_the_simulator_is_installed_as_one_and_its_help_imports_nothing_slow():
    script = """
import sys
from node.cli.main import run
for line in (["--help"], ["sim"], ["sim", "--help"]):
    run(line)
slow = {"torch", "trio", "libp2p", "msgspec", "structlog", "starlette", "hypercorn", "numpy", "asyncio", "rich"}
print(sorted(slow & set(sys.modules)), "simulations.cli.run" in sys.modules, file=sys.stderr)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert found.stderr == "[] False\n"
    assert "\n  sim       the mesh on a virtual clock" in found.stdout
    assert "\n  check-determinism  " in found.stdout
