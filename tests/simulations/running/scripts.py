"""Scripts and outcomes for tests that run nothing."""

from __future__ import annotations

from hypothesis import strategies as st

from simulations.running.outcome import Detection, Failover, Outcome, RequestOutcome, Violation
from simulations.scenarios.faults import Crash, Partition, Pause, Reset, SlowLink
from simulations.scenarios.script import LinkSpec, NodeSpec, Request, Script

NAMES = ("n0", "n1", "n2", "n3", "n4")


def a_script(**changes):
    """Five nodes, a link, three requests and five faults that name most of them."""
    fields = {
        "scenario": "churn",
        "seed": 17,
        "duration_s": 60.0,
        "nodes": tuple(NodeSpec(name) for name in NAMES),
        "links": (LinkSpec("n1", "n2", 40.0), LinkSpec("zone:here", "*", 5.0)),
        "requests": tuple(Request(at_s, f"n{at_s:.0f}", "hi", 40) for at_s in (1.0, 2.0, 3.0)),
        "faults": (
            Crash(5.0, "n1", restart_s=4.0),
            Partition(10.0, (("n0", "n1"), ("n2", "n3")), 8.0),
            Pause(20.0, "n2", 3.0),
            Reset(25.0, "n3", "n4"),
            SlowLink(30.0, "n4", 6.0),
        ),
        "settled_at_s": 40.0,
        "core": ("n0", "n2"),
    }
    return Script(**(fields | changes))


def an_outcome(**changes):
    fields = {"scenario": "churn", "seed": 17, "nodes": 5, "virtual_s": 61.5, "wall_s": 2.0, "events": 1234}
    return Outcome(**(fields | {"digest": "d1ce"} | changes))


def a_request(index=0, status="finished", pauses=(), is_exact=True):
    failovers = tuple(Failover(3.0, "n1", "n2", pause_s, "closed") for pause_s in pauses)
    return RequestOutcome(index, "n0", status, 1.0, 5.0, failovers=failovers, is_exact=is_exact)


A_VIOLATION = Violation("S2", "The text is that of an unbroken run.", 12.34, ("n1", "n4"), "token 17\nis 221")
A_DETECTION = Detection("n1", 5.0, 7.5, 9.0)
A_FALSE_DEATH = Detection("n3", None, 8.0, None)

names = st.sampled_from(NAMES)
seconds = st.integers(0, 100).map(float)
lengths = st.integers(1, 64).map(float)


@st.composite
def partitions(draw):
    order = draw(st.permutations(NAMES))
    cut = draw(st.integers(1, len(NAMES) - 1))
    groups = tuple(order[:cut]), tuple(order[cut:])
    return Partition(draw(seconds), groups, draw(lengths), draw(st.booleans()))


faults = st.one_of(
    st.builds(Crash, seconds, names, st.none() | lengths),
    st.builds(Pause, seconds, names, lengths),
    st.builds(Reset, seconds, names, names),
    st.builds(SlowLink, seconds, names, lengths, st.none() | names),
    partitions(),
)
scripts = st.builds(
    a_script,
    faults=st.lists(faults, max_size=12, unique=True).map(tuple),
    requests=st.lists(
        st.builds(Request, seconds, names, st.just("hi"), st.integers(1, 64)), max_size=6, unique=True
    ).map(tuple),
    core=st.lists(names, unique=True).map(tuple),
)
