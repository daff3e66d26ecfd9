from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocols.errors import UserError
from simulations.running.store import FILE, Broken, Result, header_of, open_store, read_store
from tests.simulations.running.outcomes import HEADER, eventful, outcome

RESULTS: tuple[Result, ...] = (eventful(3), Broken(4, 'its process "died" \n twice'), outcome(5))


def written(folder: Path) -> bytes:
    with open_store(folder, HEADER) as store:
        for result in RESULTS:
            store.append(result)
    return (folder / FILE).read_bytes()


def test_what_was_appended_is_there_again(tmp_path: Path) -> None:
    data = written(tmp_path)
    assert data.count(b"\n") == 1 + len(RESULTS)
    with open_store(tmp_path, HEADER) as store:
        assert list(store.results.values()) == list(RESULTS)
        assert store.note == ""
    assert (tmp_path / FILE).read_bytes() == data
    assert read_store(tmp_path).results == store.results


def test_a_later_line_of_a_seed_counts(tmp_path: Path) -> None:
    written(tmp_path)
    with open_store(tmp_path, HEADER) as store:
        store.append(outcome(4))
    assert read_store(tmp_path).results[4] == outcome(4)


@given(st.data())
def test_a_file_that_ends_anywhere_is_gone_on_with(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        whole = written(folder)
        at = data.draw(st.integers(0, len(whole)))
        (folder / FILE).write_bytes(whole[:at])
        ended = max(whole[:at].count(b"\n") - 1, 0)
        is_cut = at > 0 and whole[at - 1] != ord("\n")
        with open_store(folder, HEADER) as store:
            assert list(store.results.values()) == list(RESULTS[:ended])
            assert ("cut short" in store.note) == is_cut
            for result in RESULTS[ended:]:
                store.append(result)
        assert (folder / FILE).read_bytes() == whole


def test_reading_changes_nothing_of_a_file_that_is_being_written(tmp_path: Path) -> None:
    whole = written(tmp_path)
    (tmp_path / FILE).write_bytes(whole[:-10])
    store = read_store(tmp_path)
    assert list(store.results.values()) == list(RESULTS[:-1])
    assert "cut short" in store.note
    assert (tmp_path / FILE).read_bytes() == whole[:-10]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"scenario": "wan"}, "is of scenario churn"),
        ({"scenario_digest": "0000"}, "another text of that scenario"),
        ({"nodes": None}, "is of a sweep with --nodes 5"),
        ({"minutes": 3.0}, "is of a sweep with --minutes 2"),
        ({"package_digest": "ffff"}, r"other code \(package c0de\)"),
    ],
)
def test_outcomes_of_something_else_are_not_mixed_in(
    tmp_path: Path, other: dict[str, object], says: str
) -> None:
    data = written(tmp_path)
    wanted = replace(HEADER, **other)
    with (
        pytest.raises(UserError, match=f"{says}: name another folder with --out, or begin anew with --fresh"),
        open_store(tmp_path, wanted),
    ):
        pass
    assert (tmp_path / FILE).read_bytes() == data
    with open_store(tmp_path, wanted, fresh=True) as store:
        assert store.results == {}
    assert read_store(tmp_path).header == wanted


def test_a_header_without_outcomes_is_in_nobodys_way(tmp_path: Path) -> None:
    with open_store(tmp_path, HEADER):
        pass
    wanted = replace(HEADER, scenario="wan", minutes=None)
    with open_store(tmp_path, wanted) as store:
        store.append(outcome(3))
        assert list(store.results) == [3]
    store = read_store(tmp_path)
    assert (store.header, list(store.results)) == (wanted, [3])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"format":2}\n', "has format 2 and this release writes 1"),
        (b"a,b,c\n1,2,3\n", "is no file of a sweep"),
        (b"GIF89a", "is no file of a sweep"),
        (b'{"format":1}\n', "is no file of a sweep"),
        (msgspec.json.encode(HEADER) + b'\nrubbish\n{"seed":1,"broken":""}\n', "is damaged at line 2"),
        (msgspec.json.encode(HEADER) + b"\n\xff\n", "is damaged at line 2"),
    ],
)
def test_a_file_that_can_not_be_gone_on_with_is_left_alone(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(UserError, match=says), open_store(tmp_path, HEADER):
        pass
    assert (tmp_path / FILE).read_bytes() == data


def test_two_sweeps_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with (
        open_store(tmp_path, HEADER),
        pytest.raises(UserError, match="another sweep is writing"),
        open_store(tmp_path, HEADER, fresh=True),
    ):
        pass
    with open_store(tmp_path, HEADER):
        pass


def test_a_folder_that_can_not_be_and_one_without_a_sweep_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't hold a sweep"), open_store(tmp_path / "file" / "in", HEADER):
        pass
    with pytest.raises(UserError, match=r"'weft sim sweep SCENARIO --out .*' makes one"):
        read_store(tmp_path)
    (tmp_path / FILE).touch()
    with pytest.raises(UserError, match="not even a header"):
        read_store(tmp_path)


def test_a_header_tells_the_text_and_the_command() -> None:
    header = header_of("mine", "my files/mine.toml", "format = 1", 7, 0.5)
    assert header.scenario_digest != header_of("mine", "mine.toml", "format = 2").scenario_digest
    assert header.command(3) == "weft sim run 'my files/mine.toml' --seed 3 --nodes 7 --minutes 0.5"
    assert header_of("wan", "wan", "").command(0) == "weft sim run wan --seed 0"
