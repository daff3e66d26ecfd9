"""Binding the control socket: leftovers go, foreign files stay."""

from __future__ import annotations

import socket
import stat

import pytest

from node.control_socket import bound_control_socket
from protocols.errors import UserError


def test_the_socket_is_its_owners_alone_and_goes_with_the_daemon(tmp_path):
    path = tmp_path / "weft.sock"
    with bound_control_socket(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_a_socket_left_by_a_crash_is_replaced(tmp_path):
    path = tmp_path / "weft.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with bound_control_socket(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_anything_else_in_the_way_is_told_and_left_alone(tmp_path, kind):
    path = tmp_path / "weft.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="in the way"), bound_control_socket(path):
        pass
    assert path.is_symlink() or path.exists()


def test_a_path_too_long_for_a_socket_is_told(tmp_path):
    with (
        pytest.raises(UserError, match="too long for a unix socket"),
        bound_control_socket(tmp_path / ("x" * 120)),
    ):
        pass
