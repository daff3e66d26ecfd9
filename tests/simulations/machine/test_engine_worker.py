"""The real engine under a simulated worker keeps the contract, and time passes as it is modelled."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from protocols.ids import ModelDigest
from protocols.placement import LayerRange
from protocols.seams import ShardId, ShardSpec, TensorFile
from protocols.session import Sampling
from simulations.machine.engine_worker import torch_engines, whole_answer
from simulations.machine.worker import VirtualWorker
from tests.contracts.worker_contract import PROMPT, Rig, WorkerContract
from tests.inference.model.folders import HIDDEN, tiny_tensors, write_tiny_folder
from tests.virtual_time import ON_VIRTUAL_TIME

CUTS = ((0, 1), (1, 3), (3, 4))
MEMORY_BYTES = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    """As many as before, in the end."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardSpec, ...]:
    folder = write_tiny_folder(tmp_path_factory.mktemp("model"))
    files = tuple(TensorFile(name, str(folder / "model.safetensors"), name) for name in tiny_tensors())
    config, model = (folder / "config.json").read_bytes(), ModelDigest("cd" * 32)
    return tuple(ShardSpec(ShardId(model, LayerRange(*cut)), config, files, "f32", "exact") for cut in CUTS)


@pytest.fixture
def rig(specs: tuple[ShardSpec, ...]) -> Rig:
    worker = VirtualWorker(memory_bytes=MEMORY_BYTES, layer_ms=10, row_ms=1, engines=torch_engines)
    return Rig(worker, specs, HIDDEN, worker.crash)


@ON_VIRTUAL_TIME
class TestEngineWorker(WorkerContract):
    pass


@ON_VIRTUAL_TIME
async def test_a_step_takes_the_modelled_time_and_a_hang_stops_it(rig: Rig) -> None:
    assert isinstance(rig.worker, VirtualWorker)
    await rig.load_all()
    await rig.open_all()
    began_s = trio.current_time()
    await rig.through(PROMPT, 0)
    assert trio.current_time() - began_s == pytest.approx(4 * (0.010 + len(PROMPT) * 0.001))
    rig.worker.hang()
    with trio.move_on_after(60) as waited:
        await rig.through((1,), len(PROMPT))
    assert waited.cancelled_caught


def test_an_answer_in_one_piece_is_drawn_from_its_seed() -> None:
    drawn = [
        whole_answer((5, 6, 7), 12, Sampling(temperature, 0, 1.0, seed), frozenset())
        for temperature, seed in ((0.0, 1), (0.0, 2), (2.0, 1), (2.0, 1), (2.0, 2))
    ]
    assert drawn[0] == drawn[1]
    assert drawn[2] == drawn[3] != drawn[4]
    assert set(map(len, drawn)) == {12}
    stopped = whole_answer((5, 6, 7), 12, Sampling(), frozenset({drawn[0][3]}))
    assert stopped == drawn[0][: drawn[0].index(drawn[0][3]) + 1]


def test_simulated_meshes_need_no_torch() -> None:
    code = (
        "import sys, simulations.cluster.clients; sys.exit('torch' in sys.modules or 'libp2p' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode
        == 0
    )
