"""A member is revoked with the command, and does not get in again."""

from __future__ import annotations

from pathlib import Path

from node.demo.local_mesh import LocalMesh, wait_until
from tests.e2e.commands import complaint, weft


def test_whoever_is_revoked_is_gone_and_stays_out(tmp_path: Path) -> None:
    with LocalMesh(tmp_path, ["anna", "bert"]) as mesh:
        mesh.start()
        anna, bert = mesh["anna"], mesh["bert"]
        peer = bert.status()["peer"]
        assert "no member is called 'nobody'" in complaint(weft("revoke", anna.home, "nobody"))
        assert "founded this network" in complaint(weft("revoke", bert.home, "anna"), code=4)
        done = weft("revoke", anna.home, "bert")
        assert (done.returncode, done.stderr) == (0, "")
        assert "is no member any more" in done.stdout
        wait_until(lambda: not anna.status()["connections"] or None, 10.0, "bert is still connected")
        assert anna.status()["members"] == []
        bert.stop()
        bert.start()
        bert.wait_ready()
        wait_until(
            lambda: "its membership was revoked" in bert.log.read_text() or None, 20.0, "bert is not told why"
        )
        wait_until(
            lambda: "its membership was revoked" in anna.log.read_text() or None,
            20.0,
            "anna does not log why",
        )
        assert peer not in {each["peer"] for each in anna.status()["connections"]}
