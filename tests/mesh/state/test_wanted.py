"""Who is asked for what: several holders share a fetch, and none of its blobs is lost or fetched twice at a time."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from mesh.state.wanted import Want, Wanted
from protocols.ids import PeerId, TensorDigest

HOLDERS = [PeerId(name) for name in ("ann", "ben", "cat")]
ANN, BEN, _ = HOLDERS


def wants(*sizes: int) -> list[Want]:
    return [Want(f"t{place}", TensorDigest(str(place)), size) for place, size in enumerate(sizes)]


def wanted(*sizes: int) -> tuple[Wanted, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    return Wanted(wants(*sizes), lambda done, total: told.append((done, total))), told


def taken(fetch: Wanted, holder: PeerId) -> Want:
    want = fetch.take(holder)
    assert want is not None
    return want


def test_two_holders_are_never_asked_for_the_same_at_a_time() -> None:
    fetch, _ = wanted(5, 5)
    assert taken(fetch, ANN) is not taken(fetch, BEN)
    assert fetch.take(ANN) is None
    assert fetch.may_come_back()


def test_what_a_holder_lacks_is_asked_of_others_alone() -> None:
    fetch, _ = wanted(5)
    want = taken(fetch, ANN)
    fetch.stopped(want, ANN, is_lacking=True)
    assert fetch.take(ANN) is None
    assert not fetch.may_come_back()
    assert taken(fetch, BEN) is want


def test_what_was_left_unfinished_comes_first_and_keeps_its_bytes() -> None:
    fetch, told = wanted(5, 5)
    want = taken(fetch, ANN)
    fetch.advanced(want, ANN, 3)
    fetch.stopped(want, ANN)
    assert taken(fetch, BEN) is want
    fetch.resumed(want, 3)
    fetch.advanced(want, BEN, 2)
    fetch.came(want)
    assert told == [(3, 10), (5, 10)]
    assert not fetch.is_complete


def test_who_alone_gave_false_bytes_is_to_blame_and_not_asked_again() -> None:
    fetch, _ = wanted(5)
    want = taken(fetch, ANN)
    fetch.advanced(want, ANN, 5)
    assert fetch.spoilt(want, ANN)
    assert fetch.take(ANN) is None


def test_of_several_givers_none_is_to_blame_yet() -> None:
    fetch, told = wanted(5)
    want = taken(fetch, ANN)
    fetch.advanced(want, ANN, 3)
    fetch.stopped(want, ANN)
    fetch.advanced(taken(fetch, BEN), BEN, 2)
    assert not fetch.spoilt(want, BEN)
    again = taken(fetch, BEN)
    assert again is want
    fetch.advanced(again, BEN, 5)
    assert fetch.spoilt(want, BEN)
    assert told == [(3, 5), (5, 5)]  # never backwards


def test_bytes_of_an_earlier_run_acquit_who_sent_the_rest() -> None:
    fetch, _ = wanted(5)
    want = taken(fetch, ANN)
    fetch.resumed(want, 3)
    fetch.advanced(want, ANN, 2)
    assert not fetch.spoilt(want, ANN)


@given(
    st.lists(
        st.tuples(st.sampled_from(HOLDERS), st.sampled_from(["take", "came", "lacking", "stop", "spoil"]))
    )
)
def test_nothing_is_lost_whatever_the_holders_do(steps: list[tuple[PeerId, str]]) -> None:
    fetch, told = wanted(4, 4, 4)
    hands: dict[PeerId, Want] = {}
    came = 0
    for holder, step in steps:
        if step == "take":
            if holder not in hands and (want := fetch.take(holder)) is not None:
                assert want not in hands.values()
                hands[holder] = want
        elif holder in hands:
            want = hands.pop(holder)
            if step == "came":
                fetch.came(want)
                came += 1
            elif step == "spoil":
                fetch.advanced(want, holder, want.size_bytes - want.have_bytes)
                fetch.spoilt(want, holder)
            else:
                fetch.stopped(want, holder, is_lacking=step == "lacking")
        assert fetch.may_come_back() == bool(hands)
    for want in hands.values():
        fetch.stopped(want, ANN)
    fresh, left = PeerId("new"), []
    while (want := fetch.take(fresh)) is not None:
        left.append(want)
        fetch.came(want)
    assert len(set(map(id, left))) == len(left) == 3 - came
    assert fetch.is_complete
    assert told == sorted(told)
