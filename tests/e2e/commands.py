"""The `weft` command as a process of its own, as a user runs it without a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

COMMAND_S: Final = 90.0


def arguments_of(verb: str, home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "node.cli.main", verb, "--home", str(home), *arguments]


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WEFT_")}
    return inherited | dict(settings)


def weft(
    verb: str, home: Path, *arguments: str, stdin: str = "", settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        arguments_of(verb, home, *arguments),
        input=stdin, capture_output=True, text=True, timeout=COMMAND_S, check=False,
        env=clean_environment(settings or {}),
    )  # fmt: skip


def weft_up(
    home: Path, *arguments: str, settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A daemon on free ports that is expected to end by itself."""
    free = (
        "--control-listen",
        "/ip4/127.0.0.1/tcp/0",
        "--data-listen",
        "/ip4/127.0.0.1/tcp/0",
        "--http",
        "0",
    )
    return weft("up", home, *free, *arguments, settings=settings)


def complaint(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """The one line that a failed command printed, checked for its form; progress of an offer may precede it."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    *progress, last = done.stderr.splitlines()
    assert all(line.endswith("iB") and ": reading, " in line for line in progress), done.stderr
    assert last.startswith("weft: "), done.stderr
    return last.removeprefix("weft: ")
