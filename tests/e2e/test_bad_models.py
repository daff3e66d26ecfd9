"""Models that cannot be shared and requests that cannot be answered: one line with the next step, and the daemon lives."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.demo.local_mesh import LocalMesh
from tests.e2e.commands import complaint, weft
from tests.e2e.conftest import CONTEXT, SETTINGS, write_checkpoint
from tests.inference.model.folders import write_tiny_folder

SMALL_MB = "2"
TOO_MANY_LAYERS = 96
REFUSES = "[worker]\naccept_offers = false\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Iterator[LocalMesh]:
    """Two daemons with little memory; the second accepts no offers."""
    settings = SETTINGS | {"WEFT_WORKER_MEMORY_MB": SMALL_MB}
    with LocalMesh(tmp_path_factory.mktemp("pair"), ["small", "stubborn"], settings) as mesh:
        mesh["stubborn"].home.mkdir(mode=0o700)
        (mesh["stubborn"].home / "config.toml").write_text(REFUSES)
        mesh.start()
        yield mesh


@pytest.fixture
def home(pair: LocalMesh) -> Iterator[Path]:
    """Of the first daemon, which is the same one before and after the test."""
    pid = pair.first.status()["pid"]
    yield pair.first.home
    assert [node.status()["state"] for node in pair.nodes.values()] == ["ready", "ready"]
    assert pair.first.status()["pid"] == pid


def lose_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def lose_a_part(folder: Path) -> None:
    write_tiny_folder(folder, files=3)
    (folder / "model.safetensors").unlink()
    (folder / "model-00002-of-00003.safetensors").unlink()


def become_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def become_a_stranger(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    (folder / "config.json").write_text(json.dumps(config))


def claim_a_huge_header(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", 1 << 60) + weights.read_bytes()[8:])


def lose_the_end(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def garble_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def lose_a_layer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 99}))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lose_tokenizer, "has no tokenizer.json: give the folder of a complete Hugging Face model"),
        (lose_a_part, "which is missing: download the rest of the model"),
        (
            become_a_pickle,
            "is a pickle, which can run code when it is opened: convert the model to safetensors",
        ),
        (become_a_stranger, "MambaForCausalLM"),
        (claim_a_huge_header, "is not a sound safetensors file"),
        (lose_the_end, "is not a sound safetensors file"),
        (garble_config, "config.json"),
        (lose_a_layer, "which its config.json calls for: download the model again"),
    ],
)
def test_a_model_folder_that_cannot_be_used(home: Path, tmp_path, spoil: Callable[[Path], None], expected):
    folder = write_checkpoint(tmp_path / "model", layers=2)
    spoil(folder)
    for verb in ("offer", "plan"):
        said = complaint(weft(verb, home, str(folder)))
        assert expected in said
        assert ": " in said  # what to do comes behind what is wrong


def test_a_model_folder_that_is_not_there(home: Path, tmp_path):
    said = complaint(weft("offer", home, str(tmp_path / "nothing")))
    assert said.endswith("give the folder of a downloaded model")


def test_a_model_name_that_nobody_knows(home: Path):
    assert "give the path of a model folder" in complaint(weft("offer", home, "gpt-17"))
    assert "weft offer" in complaint(weft("run", home, "gpt-17", "hello"))


def test_a_model_that_is_too_big_for_the_mesh(home: Path, pair: LocalMesh, tmp_path):
    folder = write_checkpoint(tmp_path / "big", layers=TOO_MANY_LAYERS)
    said = complaint(weft("offer", home, str(folder)))
    assert "MiB" in said
    assert "weft invite" in said
    assert all(node.status()["shards"] == [] for node in pair.nodes.values())


def test_a_plan_goes_around_a_node_that_accepts_no_offers(home: Path, pair: LocalMesh, tmp_path):
    folder = write_checkpoint(tmp_path / "little", layers=2)
    done = weft("offer", home, str(folder), "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert {(each["holder_name"], each["standby"]) for each in plan["ranges"]} == {("small", None)}
    assert pair["stubborn"].status()["shards"] == []
    assert weft("run", pair["stubborn"].home, "little", "hello", "--max-tokens", "3", "--raw").returncode == 0

    said = complaint(weft("run", home, "little", "x" * CONTEXT, "--raw"))
    assert f"the prompt has {CONTEXT} tokens and little takes {CONTEXT} with its answer: shorten it." in said
    said = complaint(weft("offer", home, str(folder), "--on", "stubborn"))
    assert "the 1 node asked has 0.00 MiB free" in said
    assert "set worker.accept_offers where it is off" in said
    assert "weft status" in complaint(weft("offer", home, str(folder), "--on", "nobody"))
