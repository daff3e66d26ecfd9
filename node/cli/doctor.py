"""`weft doctor`: how this machine would compute, and why. It needs no daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from node.cli.options import echo_json, json_option
from node.cli.tables import rows_of, size_text
from node.machine import cores
from protocols.errors import LocalFault, TimedOut, UserError

_TIMEOUT_S: Final = 120
_MISTAKEN: Final = 2  # what the user has to mend; see inference/engine/numerics/report.py


@click.command()
@click.argument("model", required=False, default="", metavar="[MODEL_FOLDER]")
@click.option(
    "--threads", type=click.IntRange(1), help="Torch threads; otherwise as many as there are cores."
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="As worker.device; a card if torch finds one.",
)
@click.option(
    "--kv",
    type=click.Choice(["model", "int8"]),
    default="model",
    help="As worker.kv; what keys and values are kept in.",
)
@json_option
def doctor(model: str, threads: int | None, device: str, kv: str, as_json: bool) -> None:
    """Which device and kernels would serve MODEL_FOLDER in each dtype, with the times they were chosen by.

    Without a folder: a Llama of 1.1 billion weights.
    """
    folder = str(Path(model).resolve()) if model else ""
    found = _asked({"model": folder, "threads": threads or cores(), "device": device, "kv": kv})
    if as_json:
        echo_json(found)
    else:
        for line in doctor_lines(found):
            click.echo(line)


def doctor_lines(found: dict[str, Any]) -> Iterator[str]:
    """The findings as people read them."""
    yield f"device: {found['device']} ({found['device_why']})"
    if found["unserved"]:
        yield f"not served there: {', '.join(found['unserved'])}"
    if found["device"] == "cpu":
        yield f"cpu with {found['capability']}, {found['threads']} threads; times in microseconds of one product"
    for choice in found["choices"]:
        exact = "exact" if choice["is_exact"] else "not exact"
        yield ""
        yield (
            f"{choice['dtype']}: {choice['kernel']} in blocks of {choice['rows']} rows, {exact}, "
            f"{size_text(choice['weights_bytes'])} of weights, "
            f"{size_text(1000 * choice['kv_row_bytes'])} for every 1000 tokens of a session"
        )
        yield f"  why: {choice['why']}"
        if not choice["timings"]:
            continue
        heads = ("kernel", *(f"{rows} row{'s' * (rows != '1')}" for rows in choice["timings"][0]["us"]))
        rows = [(each["kernel"], *(f"{us:.0f}" for us in each["us"].values())) for each in choice["timings"]]
        yield from rows_of(heads, rows, "  ")


def _asked(question: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: the command itself never imports torch."""
    command = [sys.executable, "-P", "-m", "inference.engine.numerics.report"]
    try:
        done = subprocess.run(  # noqa: S603  (our own interpreter and module)
            command,
            input=json.dumps(question),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"the self-test has not ended within {_TIMEOUT_S} s: the machine is busy") from error
    if done.returncode == _MISTAKEN:
        raise UserError(done.stderr.strip())
    if done.returncode != 0:
        raise LocalFault(f"the self-test ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
