"""Script files: what is written is read again, and whatever else a file holds is told in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import NotFound, UserError
from simulations.running.corpus import Kept, decode, encode, load_all, read
from simulations.scenarios.faults import Crash
from simulations.scenarios.script import NodeSpec
from tests.simulations.running.scripts import a_script, scripts


@given(scripts)
def test_a_script_is_read_as_it_was_written(script):
    assert decode(encode(script), "file") == Kept(script)
    kept = Kept(script, "tombstone-forgotten", "S8")
    assert decode(encode(kept), "file") == kept


def test_a_corpus_is_every_json_file_of_a_folder_by_name(tmp_path):
    (tmp_path / "b.json").write_bytes(encode(Kept(a_script(), "bug b", "S1")))
    (tmp_path / "a.json").write_bytes(encode(a_script(seed=3)))
    (tmp_path / "notes.md").write_text("none of it")
    found = load_all(tmp_path)
    assert list(found) == ["a", "b"]
    assert (found["a"].script.seed, found["b"].bug) == (3, "bug b")


WRITTEN = encode(Kept(a_script(), "bug", "S1"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is no script"),
        (b"\xff\xfe", "is no script"),
        (b"[]", "is no script"),
        (b'{"script": {}}', "missing required field"),
        (b"{}", "missing required field"),
        (b'{"format": 2, "anything": 1}', "of format 2; this release reads 1"),
        (b'{"format": 0}', "of format 0; this release reads 1"),
        (WRITTEN.replace(b'"format": 1', b'"format": 2'), "of format 2; this release reads 1"),
        (WRITTEN.replace(b'"seed"', b'"sead"', 1), "unknown field `sead`"),
        (WRITTEN.replace(b'"bug"', b'"bag"'), "unknown field `bag`"),
        (WRITTEN.replace(b'"crash"', b'"crush"'), "crush"),
        (encode(a_script(faults=(Crash(1.0, "n9"),))), "names n9, and there is no such node"),
        (encode(a_script(nodes=(NodeSpec("n0"), NodeSpec("n0")))), "two nodes are called n0"),
    ],
)
def test_what_is_no_script_of_this_release_is_told_in_a_line_with_the_next_step(data, says):
    with pytest.raises(UserError) as error:
        decode(data, "old.json")
    line = str(error.value)
    assert line.startswith("old.json")
    assert says in line
    assert "\n" not in line
    assert line.endswith(".")


@given(st.binary(max_size=200))
def test_whatever_bytes_a_file_has_the_error_is_the_operators(data):
    with pytest.raises(UserError):
        decode(data, "file")


def test_files_that_can_not_be_read_are_told_apart(tmp_path):
    with pytest.raises(NotFound, match="there is no file"):
        read(tmp_path / "missing.json")
    with pytest.raises(UserError, match="can't be read"):
        read(tmp_path)
