"""SIGKILL in mid-generation, again and again, with the pauses that a client sees and the tokens that came out wrong.

The pause of a kill is the longest wait for a token from the kill to the end of the answer, at the client's end of the control
socket: detection, re-route, replay on the standby, and the step of the token itself are all in it. A kill falls on a random
moment after a random token, not on the instant at which that token was shown. Tokens are held against those of the same request
in one process without a mesh, which runs while the killed daemon comes back, so that nothing is measured beside it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from node.demo.local_mesh import LocalMesh, LocalNode, wait_until
from protocols.errors import WeftError
from tests.benchmarks.figures import Figure, figure_of
from tests.benchmarks.model import LLAMA_100M
from tests.benchmarks.request import ANSWER_S, Answer, Reference, Request, ask

KILLS: Final = 20
SEED: Final = 20
TOKENS: Final = 110
PROMPT_ROWS: Final = (8, 136)  # with the tokens 246 rows at most, of a context of 256
KILL_AFTER: Final = (1, 100)  # tokens
WITHIN_A_TOKEN_S: Final = 0.03  # about the time of one
RETURN_S: Final = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Kill:
    """What is drawn before a run: the request, the stage to lose, and when."""

    request: Request
    stage: int
    after_tokens: int
    delay_s: float

    @classmethod
    def drawn(cls, rng: Random, number: int, stages: int) -> Kill:
        """Greedy and sampled by turns; never the first stage, which is the entry's own."""
        rows = rng.randint(*PROMPT_ROWS)
        request = Request.drawn(rng, rows, LLAMA_100M.vocab_size, TOKENS, temperature=number % 2)
        return cls(
            request, rng.randrange(1, stages), rng.randint(*KILL_AFTER), rng.uniform(0, WITHIN_A_TOKEN_S)
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    pause_s: float
    wrong_tokens: int
    replayed_rows: int
    failure: str  # empty, or why the answer broke off


def measure_failover(mesh: LocalMesh, model: str, folder: Path, say: Say) -> Iterator[Figure]:
    """Needs the model on the mesh, every range with a standby."""
    rng, nodes, outcomes = Random(SEED), mesh.by_peer(), list[Outcome]()
    for number in range(KILLS):
        kill = Kill.drawn(rng, number, len(nodes))
        outcome = _lose_a_stage(mesh, model, folder, kill, nodes)
        outcomes.append(outcome)
        say(
            f"kill {number + 1}/{KILLS}: stage {kill.stage} after {kill.after_tokens} tokens, "
            f"pause {outcome.pause_s:.3f} s, {outcome.replayed_rows} rows replayed, {outcome.wrong_tokens} wrong"
            + (f"; broke off: {outcome.failure}" if outcome.failure else "")
        )
    pauses = [outcome.pause_s for outcome in outcomes]
    yield figure_of("failover_s_p50", pauses, 0.5, "s")
    yield figure_of("failover_s_max", pauses, 1.0, "s")
    yield Figure("failover_wrong_tokens", sum(outcome.wrong_tokens for outcome in outcomes), "tokens", KILLS)


def _lose_a_stage(
    mesh: LocalMesh, model: str, folder: Path, kill: Kill, nodes: dict[str, LocalNode]
) -> Outcome:
    answer = Answer()
    victims: list[LocalNode] = []
    timers: list[threading.Timer] = []

    def on_token() -> None:
        if len(answer.tokens) == kill.after_tokens:
            victims.append(nodes[answer.route[kill.stage]["peer"]])
            timers.append(threading.Timer(kill.delay_s, victims[0].kill))
            timers[0].start()

    failure = ""
    try:
        ask(mesh.first, model, kill.request, answer, on_token)
    except WeftError as error:
        failure = str(error)
    for timer in timers:
        timer.join()
    with ExitStack() as stack:
        reference = stack.enter_context(Reference(folder, kill.request))
        for victim in victims:
            bring_back(mesh, victim, model)
        expected = reference.token_ids()
    # An answer that broke off kept its client waiting for good: the limit stands for it, and what is missing is wrong.
    pause_s = ANSWER_S if failure else max(answer.gaps_s(kill.after_tokens))
    return Outcome(pause_s, count_wrong(answer.tokens, expected), _replayed(answer), failure)


def count_wrong(tokens: list[int], expected: list[int]) -> int:
    """Places at which the two differ, those that only one of them has included."""
    differing = sum(told != right for told, right in zip(tokens, expected, strict=False))
    return differing + abs(len(tokens) - len(expected))


def _replayed(answer: Answer) -> int:
    return sum(reroute["replayed_rows"] for reroute in answer.reroutes)


def bring_back(mesh: LocalMesh, node: LocalNode, model: str) -> None:
    """Start a killed daemon again and wait until every range has its holder and its standby as before."""
    node.start()
    node.wait_ready()
    wait_until(lambda: is_whole(mesh, model), RETURN_S, f"{node.name} did not come back with its ranges")
    mesh.wait_connected()


def is_whole(mesh: LocalMesh, model: str) -> bool:
    served: list[dict[str, Any]] = mesh.first.call("models")["models"]
    held = [claim for one in served if one["name"] == model for claim in one["ranges"]]
    primaries = {claim["range"] for claim in held if not claim["standby"]}
    standbys = {claim["range"] for claim in held if claim["standby"]}
    return len(primaries) == len(standbys) == len(mesh.nodes)
