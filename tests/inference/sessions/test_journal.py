"""A journal gives back exactly what was sent, or says that it can't."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference.sessions.journal import Journal
from protocols import limits
from protocols.ids import SessionId
from protocols.tensor import DType, Frame, Header, Kind, Numerics

WIDTH = 2


def frame(position: int, rows: int, kind: Kind = Kind.DECODE) -> Frame:
    header = Header(
        kind,
        SessionId("00" * 16),
        1,
        1,
        position,
        rows,
        WIDTH,
        position,
        Numerics.EXACT,
        DType.F32,
        sample=True,
    )
    body = b"".join(
        row.to_bytes(header.body_bytes // rows, "little") for row in range(position, position + rows)
    )
    return Frame(header, tuple(range(position, position + rows)), body)


def filled(sizes: list[int], prompt_frames: int = 1, bytes_max: int = limits.JOURNAL_BYTES_MAX) -> Journal:
    journal = Journal(bytes_max)
    for at, rows in enumerate(sizes):
        journal.append(frame(journal.rows, rows, Kind.PREFILL if at < prompt_frames else Kind.DECODE))
    return journal


sizes = st.lists(st.integers(1, 5), min_size=1, max_size=40)


@given(sizes, st.data(), st.booleans())
def test_a_replay_is_the_rows_that_were_kept_in_order(
    sizes: list[int], data: st.DataObject, merge: bool
) -> None:
    journal = filled(sizes)
    keep = data.draw(st.integers(sizes[0], sum(sizes)))
    journal.truncate(keep)
    frames = list(journal.replay(sizes[0], merge=merge))
    assert [token for replayed in frames for token in replayed.tokens] == list(range(keep))
    assert b"".join(bytes(replayed.body) for replayed in frames) == bytes(frame(0, keep).body)
    assert all(replayed.header.kind is Kind.REPLAY and not replayed.header.sample for replayed in frames)
    assert all(replayed.header.position == replayed.header.truncate_to for replayed in frames)
    assert frames[0].header.rows == sizes[0]


@given(sizes)
def test_rows_that_were_not_merged_are_replayed_as_they_were_sent(sizes: list[int]) -> None:
    frames = filled(sizes).replay(sizes[0], merge=False)
    assert [replayed.header.rows for replayed in frames] == sizes


def test_merged_frames_stay_within_a_chunk() -> None:
    frames = list(filled([3, *[1] * 300]).replay(3, merge=True))
    assert [replayed.header.rows for replayed in frames] == [3, 128, 128, 44]


def test_past_its_quota_a_journal_frees_everything_and_says_so() -> None:
    journal = filled([1] * 10, bytes_max=3 * frame(0, 1).size_bytes)
    assert not journal.reaches(1)
    journal.append(frame(99, 1))
    assert not list(journal.replay(1, merge=True))
    journal.clear()
    journal.append(frame(0, 1))
    assert journal.reaches(1)


@given(st.integers(1, 9), sizes, st.data())
def test_a_journal_that_begins_later_replays_from_there(
    begin: int, sizes: list[int], data: st.DataObject
) -> None:
    journal = Journal()
    journal.clear(begin)
    for rows in sizes:
        journal.append(frame(journal.rows, rows))
    keep = data.draw(st.integers(0, begin + sum(sizes)))
    journal.truncate(keep)
    replayed = [token for each in journal.replay(0, merge=True) for token in each.tokens]
    assert replayed == list(range(begin, keep))
    assert journal.rows == keep
    journal.append(frame(keep, 2))  # goes on from wherever it was cut
    assert journal.reaches(keep + 2)
