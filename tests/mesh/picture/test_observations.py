"""Observations on the wire: golden bytes, what is refused, and how often they are told."""

from __future__ import annotations

import msgpack
import pytest

from mesh.picture.evidence import Ledger
from mesh.picture.observations import TOLD_AT_ONCE_MAX, Announcements, decode_observations, observations_of
from protocols import limits
from protocols.errors import Dishonest, Malformed, RemoteFault
from protocols.gossip import Heard, Topic
from protocols.observations import OBSERVATIONS_CODEC, Evidence, Facet, Observations, Outcome, Tally
from tests.mesh.picture.words import GOOD, claim, peer

AUTHOR, SUBJECT = peer(1), peer(2)
MEANS = [
    SUBJECT,
    1_800_000_000_000,
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    [[60.0, 0.5], [1.0, 2.0], [0.0, 0.0], [3.0, 4.0]],
]
GOLDEN = (
    "94d934" + SUBJECT.encode().hex() + "cf000001a3185c5000"
    "97cb3ff0000000000000cb4000000000000000cb4008000000000000cb4010000000000000"
    "cb4014000000000000cb4018000000000000cb401c000000000000"
    "9492cb404e000000000000cb3fe000000000000092cb3ff0000000000000cb4000000000000000"
    "92cb0000000000000000cb000000000000000092cb4008000000000000cb4010000000000000"
)  # fmt: skip
MESSAGE = Observations(
    SUBJECT, 1_800_000_000_000, Tally(1, 2, 3, 4, 5, 6, 7),
    (Evidence(60, 0.5), Evidence(1, 2), Evidence(0, 0), Evidence(3, 4)),
)  # fmt: skip


def heard(body: bytes, key: str = SUBJECT, author: str = AUTHOR, made_ms: int = 1_800_000_000_000) -> Heard:
    return Heard(author, Topic.OBSERVATIONS, key, body, made_ms, 1)


def test_observations_are_written_and_read_as_their_golden_bytes():
    assert msgpack.packb(MEANS).hex() == GOLDEN
    assert OBSERVATIONS_CODEC.decode(bytes.fromhex(GOLDEN)) == MESSAGE
    assert msgpack.unpackb(OBSERVATIONS_CODEC.encode(MESSAGE)) == MEANS


def test_fields_and_facets_of_a_later_minor_are_passed_over():
    later = [*MEANS[:2], [*MEANS[2], 8.0], [*MEANS[3], [1.0, 1.0, 1.0]], "more"]
    told = decode_observations(heard(msgpack.packb(later)))
    assert told is not None
    assert told.facets[: len(Facet)] == MESSAGE.facets


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, "nobody"),
        (1, -1),
        (2, [-1.0]),
        (2, [float("nan")]),
        (3, [[1.0, 1.0]] * 3),
        (3, [[1.0, 1.0]] * 17),
        (3, [[60.1, 0.0]] * 4),
        (3, [[0.0, -1.0]] * 4),
        (3, [[0.0, 1e7]] * 4),
        (3, [[0.0, float("inf")]] * 4),
    ],
)
def test_figures_past_their_bounds_are_malformed(at, value):
    means = list(MEANS)
    means[at] = value
    with pytest.raises(Malformed):
        decode_observations(heard(msgpack.packb(means)))


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        (heard(OBSERVATIONS_CODEC.encode(MESSAGE), key=peer(3)), Malformed),
        (heard(OBSERVATIONS_CODEC.encode(claim(AUTHOR, GOOD)), key=AUTHOR), Dishonest),
        (heard(b"nonsense"), Malformed),
    ],
)
def test_praise_of_oneself_and_words_under_a_wrong_key_are_refused(told, fault):
    with pytest.raises(fault) as raised:
        decode_observations(told)
    assert isinstance(raised.value, RemoteFault)


def test_a_date_up_to_two_minutes_after_the_bundles_own_is_taken_and_any_before_it():
    body, skew_ms = OBSERVATIONS_CODEC.encode(MESSAGE), int(1000 * limits.OBSERVATION_SKEW_S)
    for later_ms in (-skew_ms, 0, 100_000_000):
        assert decode_observations(heard(body, made_ms=MESSAGE.made_ms + later_ms)) == MESSAGE
    with pytest.raises(Dishonest, match="121 s after"):
        decode_observations(heard(body, made_ms=MESSAGE.made_ms - skew_ms - 1000))


def test_an_empty_body_takes_it_back():
    assert decode_observations(heard(b"")) is None


def test_what_is_told_is_what_the_ledger_says_now():
    ledger = Ledger()
    for outcome in (Outcome.SERVED, Outcome.FAILED):
        ledger.observe(SUBJECT, outcome, "", 0, 0)
    told = observations_of(SUBJECT, ledger, 28 * 86_400.0, 5.0)
    assert (told.made_ms, told.facets[Facet.LIVENESS].bad) == (5000, pytest.approx(0.5))
    assert told.tally.served == pytest.approx(1 / 16)
    assert OBSERVATIONS_CODEC.decode(OBSERVATIONS_CODEC.encode(told)) == told


def seen(*subjects: str) -> Ledger:
    ledger = Ledger()
    for subject in subjects:
        ledger.observe(subject, Outcome.SERVED, "", 0, 0)
    return ledger


def test_bad_news_travels_every_five_seconds_good_news_every_minute_and_no_news_rarely():
    ledger, announcements = seen(SUBJECT), Announcements()
    for outcome, pause_s in (
        (Outcome.FAILED, limits.OBSERVATIONS_S),
        (Outcome.SERVED, limits.OBSERVATIONS_GOOD_S),
        (None, limits.OBSERVATIONS_TTL_S / 2),
    ):
        told_s = pause_s * 1000
        announcements = Announcements([SUBJECT])
        assert announcements.due(ledger, told_s) == [SUBJECT]
        if outcome is not None:
            announcements.changed(SUBJECT, outcome)
        assert announcements.due(ledger, told_s + pause_s - 0.1) == []
        assert announcements.due(ledger, told_s + pause_s) == [SUBJECT]
        assert announcements.due(ledger, told_s + pause_s) == []


def test_a_whole_ledger_is_told_little_by_little_and_what_it_dropped_not_at_all():
    subjects = [peer(number) for number in range(2, 2 + TOLD_AT_ONCE_MAX + 5)]
    announcements = Announcements(subjects)
    ledger = seen(*subjects[1:])
    assert announcements.due(ledger, 0) == subjects[1 : TOLD_AT_ONCE_MAX + 1]
    assert announcements.due(ledger, 1) == subjects[TOLD_AT_ONCE_MAX + 1 :]
