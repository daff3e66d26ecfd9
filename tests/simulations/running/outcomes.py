"""Outcomes that tests make up: everything in them is fixed by the seed."""

from __future__ import annotations

from simulations.running.outcome import Detection, Failover, Mark, Outcome, RequestOutcome, Violation
from simulations.running.store import Header

HEADER = Header("churn", "churn", 'summary = "Nodes come and go."\n', "c0de", "5ce0", 5, 2.0)
TWICE = Violation("S1", "A client sees every token once.", 33.2, ("n1",), "request 0 saw position 17 twice")


def request(
    index: int = 0, status: str = "finished", pauses_s: tuple[float, ...] = (), *, is_exact: bool = True
) -> RequestOutcome:
    failovers = tuple(Failover(10.0 + n, "n1", "n2", pause_s, "crash") for n, pause_s in enumerate(pauses_s))
    times_s = tuple(5.0 + 0.25 * n for n in range(40))
    return RequestOutcome(index, "n0", status, 4.0, 20.0, "", times_s, failovers, is_exact)  # type: ignore[arg-type]


def outcome(seed: int, *requests: RequestOutcome, **fields: object) -> Outcome:
    known: dict[str, object] = {"requests": requests or (request(),)}
    return Outcome("churn", seed, 5, 120.0, 2.0, 1000 + seed, f"{seed:032x}", **(known | fields))  # type: ignore[arg-type]


def eventful(seed: int) -> Outcome:
    """One of everything."""
    return outcome(
        seed,
        request(0, "finished", (1.25, 0.75)),
        request(1, "failed"),
        request(2, "lost"),
        request(3, "cancelled", (2.0,)),
        violations=(TWICE,),
        missed=("failover_max_s: request 3 paused for 2.00 s, and at most 1 s were promised",),
        detections=(
            Detection("n1", 10.0, 11.5, 12.5),
            Detection("n2", 20.0, 20.5, None),
            Detection("n3", 30.0, 32.0, 33.0),
            Detection("n4", None, 40.0, 41.0),
        ),
        marks=(Mark(10.0, 10.0, "crash of n1"), Mark(30.0, 55.0, "half <b>and</b> half")),
    )
