"""`weft import`: a folder, a line on it, and one line for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from node.cli.main import run
from tests.inference.model.gguf.gguf_files import add_byte_tokenizer, random_model, write_gguf


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "my.model.gguf", random_model("qwen3"), describe=add_byte_tokenizer)


def test_the_folder_stands_beside_the_file_and_the_next_step_is_told(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["import", str(path)]) == 0
    said = capsys.readouterr()
    folder = path.parent / "my.model"
    assert said.out.startswith(f"{folder}: qwen3, 3 layers, ")
    assert said.out.endswith(f"\nShare it with 'weft offer {folder}'.\n")
    assert "note: the file has no chat template" in said.err
    assert (folder / "model.safetensors").exists()
    assert run(["import", str(path)]) == 1
    assert capsys.readouterr().err.endswith(
        f"weft: {folder} is there already: name another folder with --to, or remove it\n"
    )


def test_the_folder_can_be_named_and_programs_are_answered(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    assert run(["import", path.name, "--to", "here/mine", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["folder"], made["layers"]) == (str(path.parent / "here/mine"), 3)
    assert made["bytes"] > 0


def test_what_is_no_gguf_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.gguf").write_bytes(b"PK\3\4" + b"\0" * 40)
    assert run(["import", str(tmp_path / "m.gguf")]) == 1
    said = capsys.readouterr().err
    assert "weft: " in said
    assert said.splitlines()[-1].endswith("(it does not begin with GGUF): download it again")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]


def test_a_file_without_a_suffix_needs_a_name_for_its_folder(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = path.rename(path.parent / "bare")
    assert run(["import", str(bare)]) == 1
    assert "--to" in capsys.readouterr().err


def test_neither_torch_nor_the_mesh_is_imported(path: Path) -> None:
    script = (
        "import sys\n"
        "from node.cli.main import run\n"
        f"assert run(['import', {str(path)!r}]) == 0\n"
        "sys.stdout.write(','.join(sorted({'torch', 'trio', 'libp2p'} & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1].endswith("'.")  # and no module after it
