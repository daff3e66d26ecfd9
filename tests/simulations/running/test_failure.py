"""How a failed run reads, and how a good one does."""

from __future__ import annotations

import shlex

import pytest

from simulations.running import failure
from simulations.running.failure import failure_text, failures, package_digest, run_command
from simulations.running.outcome import Violation
from simulations.running.telling import outcome_text
from tests.simulations.running.scripts import A_DETECTION, A_FALSE_DEATH, A_VIOLATION, a_request, an_outcome


def test_a_failure_tells_what_when_where_and_how_to_see_it_again(monkeypatch):
    monkeypatch.setattr(failure, "package_digest", lambda: "5eed")
    outcome = an_outcome(
        violations=(A_VIOLATION,),
        missed=("false_deaths: 2 deaths were false",),
        tail=("  12.300  n1  request 3",),
    )
    assert failure_text(outcome, "weft sim run churn --seed 17") == (
        "violated S2 at 12.340 s on n1, n4\n"
        "  The text is that of an unbroken run.\n"
        "  token 17\n"
        "  is 221\n"
        "missed false_deaths: 2 deaths were false\n"
        "last events of these nodes:\n"
        "  12.300  n1  request 3\n"
        "scenario churn, seed 17, 5 nodes, virtual time 61.500 s, digest d1ce, sources 5eed\n"
        "again:   weft sim run churn --seed 17\n"
        "smaller: weft sim shrink churn --seed 17"
    )
    assert failures(outcome) == ("S2", "false_deaths")


def test_of_each_invariant_only_the_first_violations_are_shown():
    many = [Violation("L6", "Words arrive.", float(at_s), (f"n{at_s}",), "late") for at_s in range(9)]
    text = failure_text(an_outcome(violations=(*many, A_VIOLATION)), "weft sim run churn")
    assert text.count("violated L6") == 3
    assert text.index("and 6 more of L6") < text.index("violated S2")


@pytest.mark.parametrize(
    ("asked", "command"),
    [
        (("churn", 17, 7, 2.0), "weft sim run churn --seed 17 --nodes 7 --minutes 2"),
        (("churn", 0, None, 0.1 + 0.2), "weft sim run churn --seed 0 --minutes 0.3"),
        (("my file.json",), "weft sim run 'my file.json'"),
    ],
)
def test_the_command_is_one_that_a_shell_takes(asked, command):
    assert run_command(*asked) == command
    assert shlex.split(command)[:3] == ["weft", "sim", "run"]


def test_the_digest_of_the_sources_changes_with_any_of_them(tmp_path, monkeypatch):
    def digest():
        package_digest.cache_clear()
        return package_digest()

    for package in failure.PACKAGES:
        (tmp_path / package).mkdir()
    monkeypatch.setattr(failure, "__file__", str(tmp_path / "simulations" / "running" / "failure.py"))
    seen = {digest()}
    for package in failure.PACKAGES:
        (tmp_path / package / "a.py").write_text("one")
        seen.add(digest())
    (tmp_path / "mesh" / "a.py").rename(tmp_path / "mesh" / "b.py")
    seen.add(digest())
    (tmp_path / "mesh" / "notes.txt").write_text("no source")
    again = digest()
    package_digest.cache_clear()
    assert len(seen) == 8
    assert again in seen


def test_a_run_is_told_in_a_few_lines():
    requests = (
        a_request(0, pauses=(0.5, 1.5)),
        a_request(1, pauses=(4.0,)),
        a_request(2, "failed"),
        a_request(3, "unfinished"),
    )
    outcome = an_outcome(
        requests=requests, detections=(A_DETECTION, A_FALSE_DEATH), violations=(A_VIOLATION, A_VIOLATION)
    )
    assert outcome_text(outcome).splitlines() == [
        "churn, seed 17: 5 nodes, 61.5 virtual s in 2.0 s (31 x real time), 1,234 events, digest d1ce",
        "requests    2 finished, 1 failed, 0 lost, 1 unfinished",
        "failovers   3, pause 1.50 s in the median, 4.00 s at most",
        "detections  1, after 2.50 s in the median, 2.50 s at most; 1 false",
        "violations  S2 x 2",
    ]


def test_a_run_without_anything_is_told_too():
    text = outcome_text(an_outcome(interrupted=True, missed=("exact_text: no",)))
    assert "interrupted" in text
    assert text.count(" none") == 4
    assert text.endswith("; 1 expectations missed")
    assert not an_outcome(missed=("exact_text: no",)).is_good
