"""One run of a script, from nothing to its outcome."""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio
import trio.testing

from simulations.cluster.clients import Client, Clients
from simulations.cluster.cluster import Cluster
from simulations.running.outcome import Outcome, RequestOutcome
from simulations.scenarios.script import Script
from simulations.trace import Trace


def run_script(script: Script, trace: Trace | None = None) -> Outcome:
    """Runs it to its end on virtual time, in this thread."""
    trace = trace or Trace()
    with tempfile.TemporaryDirectory(prefix="weft-sim-") as root:
        return trio.run(_run, script, Path(root), trace, clock=trio.testing.MockClock(autojump_threshold=0))


async def _run(script: Script, root: Path, trace: Trace) -> Outcome:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(script, root, trace, nursery)
        await cluster.start()
        clients = Clients(cluster)
        nursery.start_soon(clients.run)
        await trio.sleep_until(cluster.started_at_s + script.duration_s)
        outcome = Outcome(
            script.scenario,
            script.seed,
            len(script.nodes),
            trio.current_time(),
            0.0,
            trace.events,
            trace.digest,
            requests=tuple(_told(client) for client in clients.all),
        )
        nursery.cancel_scope.cancel()
    return outcome


def _told(client: Client) -> RequestOutcome:
    tokens = client.tokens
    return RequestOutcome(
        client.index,
        client.request.entry,
        client.status or "unfinished",
        client.began_s,
        client.ended_s or trio.current_time(),
        client.detail,
        tuple(at_s for at_s, _ in tokens),
        is_exact=[token.token for _, token in tokens] == client.expected[: len(tokens)],
    )
