"""`weft demo`: three daemons on this machine share a model, one of them is killed, and the answer does not change."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from node.demo import story
from node.demo.local_mesh import LocalMesh
from protocols.exit_codes import ExitCode

NAMES: Final = ("one", "two", "three")
XK: Final = "noise-xk"


@click.command()
@click.option("--once", is_flag=True, help="End after the story; otherwise the mesh stays up until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="The last line on stdout is one JSON object.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Keep the homes of the daemons here."
)
@click.pass_context
def demo(ctx: click.Context, once: bool, as_json: bool, folder: Path | None) -> None:
    """Three daemons, one answer, one of them killed in the middle: twice."""
    signal.signal(signal.SIGTERM, _interrupt)
    began_s = time.monotonic()
    with ExitStack() as stack:
        root = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weft-demo-")))
        asked = story.ask_twice()
        references = [story.Reference(one) for _, one in asked]
        for reference in references:
            stack.callback(reference.end)
        mesh = stack.enter_context(LocalMesh(root, NAMES, {"WEFT_WORKER_THREADS": "1"}))
        plan, runs, security = _tell(mesh, asked)
        for run, reference in zip(runs, references, strict=True):
            run.is_identical = run.tokens == reference.token_ids()
        seconds = time.monotonic() - began_s
        succeeded = _conclude(plan, runs, security, seconds)
        if not once and succeeded:
            _bring_back(mesh, runs[-1].killed, plan)
            _stay(mesh)
    if as_json:
        click.echo(json.dumps(_summary(plan, runs, security, seconds)))
    ctx.exit(ExitCode.OK if succeeded else ExitCode.FAILED)


def _tell(mesh: LocalMesh, asked: Any) -> tuple[dict[str, Any], list[story.Run], list[str]]:
    click.echo("Starting three daemons on loopback; two of them join with an invite each …")
    mesh.start()
    click.echo("Offering weft-tiny to the mesh …")
    plan = story.offer(mesh, click.echo)
    security = story.security_of(mesh)
    runs: list[story.Run] = []
    for number, (label, one) in enumerate(asked):
        if number:
            _bring_back(mesh, runs[-1].killed, plan)
            security += story.security_of(mesh)
        click.echo(f"\n> {one.prompt.prompt}   [{label}]")
        runs.append(story.generate(mesh, label, one, _write))
        click.echo("")
        _report(runs[-1])
    return plan, runs, security


def _bring_back(mesh: LocalMesh, killed: str, plan: dict[str, Any]) -> None:
    click.echo(f"\nStarting {killed} again …")
    back_s = story.bring_back(mesh, mesh[killed], len(plan["ranges"]))
    click.echo(f"  {killed} is back with its ranges after {back_s:.1f} s")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _report(run: story.Run) -> None:
    click.echo(f"  {run.killed} was killed (SIGKILL) after {run.killed_after} of {len(run.tokens)} tokens")
    for reroute in run.reroutes:
        click.echo(
            f"  layers {reroute['range']} moved from {reroute['lost_name']} to {reroute['to_name']}: "
            f"{reroute['replayed_rows']} rows replayed there, and nowhere else"
        )
    click.echo(
        f"  the pause was {run.pause_ms:.0f} ms; first token after {run.finished['ttft_ms']:.0f} ms, "
        f"{run.finished['tokens_per_s']:.0f} tokens/s"
    )


def _conclude(plan: dict[str, Any], runs: list[story.Run], security: list[str], seconds: float) -> bool:
    click.echo("\nWho held what:")
    for planned in plan["ranges"]:
        click.echo(
            f"  layers {planned['range']:<6} {planned['holder_name']:<6} standby {planned['standby_name']}"
        )
    checks = [
        *((f"{run.label}: equal to an unbroken run in one process", run.is_identical) for run in runs),
        *((f"{run.label}: the answer is right", run.is_right) for run in runs),
        *((f"{run.label}: rebuilt on another node in mid-generation", run.was_rebuilt) for run in runs),
        *(
            (f"{run.label}: at least {story.TOKENS_MIN} tokens", len(run.tokens) >= story.TOKENS_MIN)
            for run in runs
        ),
        (
            f"all {len(security)} connections are Noise XK",
            bool(security) and all(XK in one for one in security),
        ),
    ]
    for what, holds in checks:
        click.echo(f"  {'ok ' if holds else 'NOT'} {what}")
    click.echo(f"{seconds:.1f} s in all")
    succeeded = all(holds for _, holds in checks)
    if not succeeded:
        click.echo(
            "weft: the demo failed: repeat it with --folder FOLDER, which keeps the daemons' logs.", err=True
        )
    return succeeded


def _summary(
    plan: dict[str, Any], runs: list[story.Run], security: list[str], seconds: float
) -> dict[str, Any]:
    return {
        "nodes": len(NAMES),
        "ranges": [planned["range"] for planned in plan["ranges"]],
        "tokens": min(len(run.tokens) for run in runs),
        "failover_ms": round(max(run.pause_ms for run in runs), 1),
        "identical": all(run.is_identical for run in runs),
        "right": all(run.is_right for run in runs),
        "rebuilt_on": [reroute["to_name"] for run in runs for reroute in run.reroutes],
        "replayed_rows": sum(run.replayed_rows for run in runs),
        "ttft_ms": round(runs[0].finished["ttft_ms"], 1),
        "tokens_per_s": round(runs[0].finished["tokens_per_s"], 1),
        "seconds": round(seconds, 1),
        "security": security,
    }


def _stay(mesh: LocalMesh) -> None:
    home = mesh.first.home
    click.echo("\nThe mesh stays up until Ctrl-C. From a second terminal:")
    click.echo(f"  weft status --home {home}")
    click.echo(f"  weft run weft-tiny --home {home} 'Sort: 5 2 9'")
    try:
        signal.pause()
    except KeyboardInterrupt:
        click.echo("\nStopping the daemons …")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
