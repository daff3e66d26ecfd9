"""Folders, their modes, and the lock of a home."""

from __future__ import annotations

import os
import stat

import pytest

from node.folders import find_folders, is_locked, only_daemon
from protocols.errors import UserError


def test_the_flag_wins_over_weft_home_which_wins_over_xdg(tmp_path):
    environment = {"WEFT_HOME": str(tmp_path / "a"), "XDG_STATE_HOME": "/x", "HOME": "/h"}
    assert find_folders(environment, str(tmp_path / "b")).socket == tmp_path / "b/run/weft.sock"
    assert find_folders(environment).lock_file == tmp_path / "a/state/weft.lock"


def test_without_weft_home_the_xdg_folders_are_used():
    found = find_folders({"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/1", "XDG_DATA_HOME": "/d"})
    assert str(found.config_file) == "/h/.config/weft/config.toml"
    assert str(found.socket) == "/run/user/1/weft/weft.sock"
    assert str(found.data) == "/d/weft"
    assert str(find_folders({"HOME": "/h"}).socket) == "/h/.local/state/weft/run/weft.sock"


def test_folders_are_made_for_their_owner_alone_even_if_they_were_open(tmp_path):
    folders = find_folders({}, str(tmp_path))
    folders.runtime.mkdir(mode=0o755)
    folders.make()
    for folder in (folders.state, folders.data, folders.cache, folders.runtime):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "state").write_text("")
    with pytest.raises(UserError, match="Set WEFT_HOME"):
        find_folders({}, str(tmp_path)).make()


def test_a_second_daemon_is_told_the_pid_of_the_first(tmp_path):
    folders = find_folders({}, str(tmp_path))
    folders.make()
    with only_daemon(folders):
        assert is_locked(folders)
        with (
            pytest.raises(UserError, match=rf"another daemon runs on this home \(pid {os.getpid()}\)"),
            only_daemon(folders),
        ):
            pass
    assert not is_locked(folders)
    with only_daemon(folders):
        pass


def test_an_unreadable_config_is_told(tmp_path):
    folders = find_folders({}, str(tmp_path))
    assert folders.read_config() is None
    folders.config_file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="can't be read"):
        folders.read_config()
