"""A folder that is being written is never taken for a model, and gives way to the next attempt."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from inference.model.gguf.new_folder import new_folder
from protocols.errors import UserError


def test_the_folder_is_there_after_the_block_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "m"
    with new_folder(target, 0) as folder:
        folder.write("config.json", b"{}")
        assert not target.exists()
    assert [entry.name for entry in target.iterdir()] == ["config.json"]
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, OSError])
def test_nothing_is_left_where_it_was_broken_off(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises((KeyboardInterrupt, UserError)), new_folder(tmp_path / "m", 0) as folder:
        folder.write("model.safetensors", b"half")
        raise error("out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_import_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / "m.importing"
    left.mkdir()
    (left / "model-00001-of-00002.safetensors").write_bytes(b"half")
    (left / "config.json").write_bytes(b"old")
    with new_folder(tmp_path / "m", 0) as folder:
        folder.write("config.json", b"new")
    assert [(entry.name, entry.read_bytes()) for entry in (tmp_path / "m").iterdir()] == [
        ("config.json", b"new")
    ]


def test_a_folder_of_somebody_else_by_that_name_is_left_alone(tmp_path: Path) -> None:
    left = tmp_path / "m.importing"
    left.mkdir()
    (left / "thesis.txt").write_text("years")
    with (
        pytest.raises(UserError, match=r"thesis.txt was not left by an import"),
        new_folder(tmp_path / "m", 0),
    ):
        pass
    assert (left / "thesis.txt").read_text() == "years"


def test_two_imports_to_one_place_do_not_meet(tmp_path: Path) -> None:
    with new_folder(tmp_path / "m", 0) as folder:
        folder.write("config.json", b"{}")
        with pytest.raises(UserError, match="another import writes"), new_folder(tmp_path / "m", 0):
            pass
    assert (tmp_path / "m/config.json").exists()


def test_a_place_that_is_taken_is_refused_also_at_the_last_moment(tmp_path: Path) -> None:
    target = tmp_path / "m"
    with pytest.raises(UserError, match="is there already"), new_folder(target, 0):
        target.mkdir()
    with pytest.raises(UserError, match="is there already"), new_folder(target, 0):
        pass
    target.rmdir()
    target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is there already"), new_folder(target, 0):
        pass


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text("theirs")
    (tmp_path / "m.importing").symlink_to(elsewhere)
    with pytest.raises(UserError, match="cannot be written"), new_folder(tmp_path / "m", 0):
        pass
    assert (elsewhere / "config.json").read_text() == "theirs"


def test_a_disk_without_room_is_told_beforehand(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"needs 1000000.0 GB, and .* are free"),
        new_folder(tmp_path / "m", 10**15),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_goes_with_the_process(tmp_path: Path) -> None:
    left = tmp_path / "m.importing"
    left.mkdir()
    lock = os.open(left, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another import"), new_folder(tmp_path / "m", 0):
        pass
    os.close(lock)
    with new_folder(tmp_path / "m", 0):
        pass
