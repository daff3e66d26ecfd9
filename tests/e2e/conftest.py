"""Three daemons with a model, started once; every test gets them whole again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.demo.local_mesh import LocalMesh
from tests.e2e.asking import DRAWN, GREEDY, MODEL, Answer, ask
from tests.e2e.holding import heal, held_ranges
from tests.inference.model.folders import tiny_config, write_tiny_folder

LAYERS = 8
CONTEXT = 512
NAMES = ("one", "two", "three")
SETTINGS = {"WEFT_WORKER_THREADS": "1"}


def write_checkpoint(folder: Path, layers: int = LAYERS) -> Path:
    """A random model that never ends its answer by itself."""
    write_tiny_folder(folder, layers=layers)
    config = tiny_config(layers) | {"max_position_embeddings": CONTEXT, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / MODEL)


class Standing:
    """A mesh that has placed the checkpoint, and what it held then."""

    def __init__(self, mesh: LocalMesh, checkpoint: Path) -> None:
        self.mesh = mesh
        mesh.start()
        with mesh.first.client() as client:
            self.plan = client.call("offer", {"path": str(checkpoint)}, within_s=120)["plan"]
        self.planned = held_ranges(mesh.first, MODEL)


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Standing]:
    with LocalMesh(tmp_path_factory.mktemp("mesh"), NAMES, SETTINGS) as mesh:
        yield Standing(mesh, checkpoint)


@pytest.fixture
def mesh(standing: Standing) -> LocalMesh:
    """The three daemons, all up and holding what was planned."""
    heal(standing.mesh, standing.planned, MODEL)
    return standing.mesh


@pytest.fixture(scope="session")
def unbroken(standing: Standing) -> dict[str, Answer]:
    """What the mesh answers when nobody disturbs it."""
    heal(standing.mesh, standing.planned, MODEL)
    first = standing.mesh.first
    return {"greedy": ask(first, **GREEDY), "drawn": ask(first, **DRAWN)}


@pytest.fixture(autouse=True)
def _no_settings_of_whoever_runs_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith("WEFT_"):
            monkeypatch.delenv(variable)
