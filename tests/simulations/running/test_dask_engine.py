from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Iterator

import pytest

from protocols.errors import UserError
from simulations.running.dask_engine import DaskEngine
from simulations.running.engines import Done, Failed
from simulations.running.task import Task
from tests.simulations.running.hostile import behave
from tests.simulations.running.outcomes import outcome
from tests.simulations.running.test_engines import all_ended

needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="Dask is not installed: it is the extra 'cluster'"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask and what it brings along


@pytest.fixture
def scheduler() -> Iterator[str]:
    """Of two worker processes with one thread each, on this machine."""
    import distributed

    before = signal.getsignal(signal.SIGINT)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        yield cluster.scheduler_address
    signal.signal(signal.SIGINT, before)


def test_without_dask_the_next_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install 'weft\[cluster\]'"):
        DaskEngine("tcp://127.0.0.1:1", behave)


@needs_dask
def test_tasks_end_on_a_cluster_as_they_do_here(scheduler: str) -> None:
    tasks = [Task(n, scenario=kind, seed=n) for n, kind in enumerate(("", "raises", "", "dies"))]
    with DaskEngine(scheduler, behave) as engine:
        ended = all_ended(engine, tasks)
    assert ended == {
        0: Done(0, outcome(0)),
        1: Failed(1, "it raised ValueError: no such layer"),
        2: Done(2, outcome(2)),
        3: Failed(3, "its workers died (out of memory?)"),
    }


@needs_dask
def test_a_task_that_takes_too_long_is_let_go(scheduler: str) -> None:
    with DaskEngine(scheduler, behave, limit_s=1.0) as engine:
        ended = all_ended(engine, [Task(0, scenario="hangs"), Task(1, seed=1)])
    assert ended[1] == Done(1, outcome(1))
    assert isinstance(ended[0], Failed)
    assert "restart its worker" in ended[0].why


@needs_dask
def test_a_scheduler_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.running.dask_engine.CONNECT_S", 0.5)
    with pytest.raises(UserError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1"):
        DaskEngine("tcp://127.0.0.1:1", behave)
