"""Promises held against outcomes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from simulations.running.expectations import missed, name_of
from simulations.running.outcome import Detection
from simulations.scenarios.script import Expectations
from tests.simulations.running.scripts import A_DETECTION, A_FALSE_DEATH, a_request, a_script


def found(requests=(), detections=(), **promised):
    return missed(a_script(expect=Expectations(**promised)), tuple(requests), tuple(detections))


def test_nothing_promised_is_nothing_missed_but_a_wrong_text():
    requests = [a_request(0, "failed", pauses=(99.0,)), a_request(1, is_exact=False)]
    assert found(requests, [A_FALSE_DEATH]) == (
        "exact_text: other text than an unbroken run was given to request 1",
    )
    assert found(requests, [A_FALSE_DEATH], exact_text=False) == ()


@pytest.mark.parametrize(
    ("statuses", "promised", "is_kept"),
    [
        (["finished"] * 9 + ["failed"], 0.9, True),
        (["finished"] * 9 + ["failed"], 0.91, False),
        (["finished", "unfinished"], 0.9, False),
        (["finished", "lost", "lost"], 1.0, True),  # their entry node died
        (["finished", "cancelled"], 1.0, True),  # they left
        (["lost"], 1.0, True),
        ([], 1.0, True),
    ],
)
def test_the_share_that_finished_counts_those_whose_entry_was_there(statuses, promised, is_kept):
    requests = [a_request(index, status) for index, status in enumerate(statuses)]
    assert (found(requests, finished_share=promised) == ()) is is_kept


def test_a_miss_says_what_was_found_and_what_was_promised():
    requests = [a_request(0), a_request(1, "failed", pauses=(0.5, 4.25))]
    told = found(
        requests,
        [A_DETECTION, Detection("n2", 5.0, 6.0, 6.0), A_FALSE_DEATH],
        finished_share=0.99,
        failover_max_s=4.0,
        detection_max_s=2.0,
        false_deaths=0,
    )
    assert told == (
        "finished_share: 1 of 2 requests finished (50.0%), and 99.0% were promised",
        "failover_max_s: request 1 paused for 4.25 s, and at most 4 s were promised",
        "detection_max_s: n1 was called dead after 2.50 s, and 2 s were promised",
        "false_deaths: 1 deaths were false (n3), and at most 0 were promised",
    )
    assert name_of(told[1]) == "failover_max_s"


@pytest.mark.parametrize(
    ("status", "tokens_at_s", "is_kept"),
    [
        ("failed", (), False),
        ("failed", (4.0,), False),
        ("failed", (4.0, 8.5), True),
        ("finished", (), True),
        ("unfinished", (), True),
        ("lost", (), True),
    ],
)
def test_a_request_that_fails_is_told_so_soon_after_its_last_token(status, tokens_at_s, is_kept):
    request = replace(a_request(3, status), began_s=0.0, ended_s=10.0, token_at_s=tokens_at_s)
    told = found([request, a_request(4)], failed_max_s=1.5)
    assert (told == ()) is is_kept
    if not is_kept:
        assert told[0].startswith("failed_max_s: request 3 had waited for")


def test_what_is_as_good_as_promised_is_kept():
    promised = {"failover_max_s": 4.25, "detection_max_s": 2.5, "false_deaths": 1, "finished_share": 1.0}
    assert found([a_request(pauses=(4.25,))], [A_DETECTION, A_FALSE_DEATH], **promised) == ()
