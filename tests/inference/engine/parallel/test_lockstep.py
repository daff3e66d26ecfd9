"""Whatever sessions do, a rank that follows has the caches and the prompts that the leader has; both in one process here."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.memory.kv_cache import KvBudget
from inference.engine.parallel.following import FollowingEngines
from inference.engine.parallel.leading import LeadingEngine, LeadingEngines
from inference.engine.parallel.orders import (
    Answer,
    CacheKey,
    Close,
    Open,
    Order,
    RankLost,
    encoded,
    receive_order,
)
from inference.engine.parallel.slices import Slice, ranks_bytes
from inference.engine.worker.settings import WorkerSettings
from inference.engine.worker.wire import Failed
from protocols.errors import Malformed, Overloaded, WeftError
from protocols.ids import ModelDigest, PeerId, SessionId
from protocols.limits import PREFILL_CHUNK_ROWS as CHUNK
from protocols.seams import CacheSpec, ShardId, ShardSpec
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Header, Kind, Numerics
from tests.inference.engine.checkpoints import save_checkpoint
from tests.inference.engine.parallel.threads import PATIENCE_S, Table, ThreadExchange

ROW_BYTES = 3 * 2 * 2 * 16 * 4  # layers, keys and values, heads, dim, f32
PROMPTS = [tuple((seed + 7 * at) % 97 for at in range(2 * CHUNK + 9)) for seed in range(3)]
ROOM_ROWS = 9 * CHUNK


class OneFollower:
    """Stands where the leader has its `Followers`; orders go through their bytes."""

    def __init__(self, engines: FollowingEngines, threads: ThreadPoolExecutor) -> None:
        self.engines = engines
        self.told: list[Order] = []
        self._ours, self._theirs = socket.socketpair()
        self._obeyed, self._settled = threading.Semaphore(0), 0
        self._answers: queue.Queue[Answer] = queue.Queue()
        self._running = threads.submit(self._run)

    def tell(self, order: Order) -> None:
        if self._running.done():
            self._running.result()
        self.told.append(order)
        self._ours.sendall(encoded(order))

    def loaded(self) -> list[Failed]:
        answer = self._answers.get(timeout=PATIENCE_S)
        return [answer] if isinstance(answer, Failed) else []

    def settle(self) -> None:
        """Until all orders are obeyed."""
        while self._settled < len(self.told):
            if not self._obeyed.acquire(timeout=PATIENCE_S):
                self._running.result(0)
            self._settled += 1

    def end(self) -> None:
        self._ours.close()
        self._running.result(PATIENCE_S)
        self._theirs.close()

    def _run(self) -> None:
        while True:
            try:
                order = receive_order(self._theirs)
            except EOFError:
                return
            answer = self.engines.obey(order, lambda _done, _total: None)
            if answer is not None:
                self._answers.put(answer)
            self._obeyed.release()


@dataclass
class Pair:
    leader: LeadingEngines
    engine: LeadingEngine
    follower: OneFollower

    def assert_in_step(self) -> None:
        self.follower.settle()
        ours, theirs = self.leader._budget, self.follower.engines._budget
        ((shard, _),) = self.follower.engines._shards.values()
        leading = self.engine._engine
        assert {key: shard.rows(key) for key in shard._opened} == {
            key: leading.rows(key) for key in leading._opened
        }
        assert kept(theirs) == kept(ours)
        assert (theirs.bytes_max, theirs.reserved_bytes) == (ours.bytes_max, ours.reserved_bytes)

    def fill(self, key: CacheKey, rows: Sequence[int], at: int) -> None:
        header = Header(
            Kind.PREFILL, key[0], 0, 0, at, len(rows), 0, at, Numerics.EXACT, DType.F32, sample=False
        )
        (result,) = self.engine.step_together([(key, Frame(header, tuple(rows), b""))], lambda: None)
        assert not isinstance(result, WeftError)


def kept(budget: KvBudget) -> list[tuple[PeerId, bytes]]:
    """What prompts there are blocks of, the longest unused first."""
    return [(peer, name) for _, peer, name in budget.prefixes._blocks]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    checkpoint = save_checkpoint(tmp_path_factory.mktemp("model"))
    config = (checkpoint.folder / "config.json").read_bytes()
    spec = ShardSpec(
        ShardId(ModelDigest("cd" * 32), checkpoint.config.whole), config, checkpoint.tensors, "f32", "exact"
    )
    memory_bytes = ranks_bytes(checkpoint.config, checkpoint.config.whole, "f32", 2) + ROOM_ROWS * ROW_BYTES
    table = Table(2)
    with ThreadPoolExecutor(1) as threads:
        settings = WorkerSettings(1, memory_bytes, prefix_share=0.5)
        following = FollowingEngines(Slice(1, 2), ThreadExchange(table, 1), settings)
        follower = OneFollower(following, threads)
        leader = LeadingEngines(follower, Slice(0, 2), ThreadExchange(table, 0), settings, lambda: 0.0)
        yield Pair(leader, leader.load(spec, lambda _done, _total: None), follower)
        follower.end()


Action = tuple[str, int, int, int]
actions = st.lists(
    st.tuples(
        st.sampled_from(["open", "open", "open", "refused", "fill", "fill", "cut", "close", "drop"]),
        st.integers(0, 3),  # session
        st.integers(0, 2),  # prompt
        st.sampled_from([20, 120, 240]),  # rows beyond it
    ),
    min_size=6,
    max_size=24,
)


@settings(max_examples=25, deadline=None)
@given(acts=actions)
def test_a_follower_has_the_caches_and_prompts_of_the_leader_whatever_sessions_do(
    pair: Pair, acts: list[Action]
) -> None:
    pair.leader.drop_prefixes()
    for key in list(pair.engine._engine._opened):
        pair.engine.close_cache(key)
    opened: dict[CacheKey, tuple[int, ...]] = {}
    for act, session, number, more in acts:
        key, prompt = (SessionId(f"{session:032x}"), 0), PROMPTS[number]
        names = tuple(bytes(prompt[: end * CHUNK]) for end in (1, 2))
        asked = CacheSpec(len(prompt), len(prompt) + more, Sampling(seed=3), PeerId("ada"), prefix=names)
        if act == "open" and key not in opened:
            with suppress(Overloaded):  # there is room for some of them
                pair.engine.open_cache(key, asked)
                opened[key] = prompt
        elif act == "refused" and key not in opened:
            with pytest.raises(Malformed):
                pair.engine.open_cache(key, replace(asked, rows_max=1))
            with pytest.raises(Malformed):
                pair.engine.open_cache(key, replace(asked, sampling=Sampling(grammar="{}")))
        elif act == "fill" and key in opened:
            at = pair.engine.rows(key)
            if rows := opened[key][at : at + CHUNK]:
                pair.fill(key, rows, at)
        elif act == "cut" and key in opened and pair.engine.rows(key):
            pair.fill(key, opened[key][:CHUNK], 0)
        elif act == "close" and opened.pop(key, None):
            pair.engine.close_cache(key)
        elif act == "drop":
            pair.leader.drop_prefixes()
        pair.assert_in_step()


def test_a_follower_that_finds_another_beginning_than_the_leader_ends(pair: Pair) -> None:
    key = (SessionId("0e" * 16), 0)
    asked = CacheSpec(10, 20, Sampling())
    number = pair.engine._number
    engines = pair.follower.engines
    with pytest.raises(RankLost, match="0 rows of a prompt of which the first rank has 128"):
        engines.obey(Open(number, key, asked, 128), lambda _done, _total: None)
    engines.obey(Close(number, key), lambda _done, _total: None)
    with pytest.raises(RankLost, match="cannot open"):
        engines.obey(Open(number, key, replace(asked, rows_max=1), 0), lambda _done, _total: None)


def test_what_is_refused_before_prompts_are_looked_for_is_told_to_nobody(pair: Pair) -> None:
    key, asked = (SessionId("0e" * 16), 0), CacheSpec(10, 20, Sampling())
    told = len(pair.follower.told)
    for wrong in (replace(asked, rows_max=1), replace(asked, sampling=Sampling(grammar="{}"))):
        with pytest.raises(Malformed):
            pair.engine.open_cache(key, wrong)
    assert len(pair.follower.told) == told
    with pytest.raises(Overloaded):
        for stage in range(9):
            pair.engine.open_cache((key[0], stage), CacheSpec(10, 400, Sampling()))
    assert isinstance(pair.follower.told[-1], Open)
    assert pair.follower.told[-1].rows is None
    pair.assert_in_step()
