"""What an observer sees of one process: the whole of it, private parts included, and only by reading.

The rule of the file: this is the one place that reaches into what the product keeps to itself. It calls nothing that
changes anything or waits; what it names is named here once, so that a change inside the product is followed in one place.
"""

# ruff: noqa: SLF001  (to see everything is what an observer is for)

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from inference.engine.worker.wire import CloseCache, OpenCache
from inference.placement.gossiping import GossipBoard
from inference.placement.holding.grants import Grant
from inference.placement.holding.holdings import Holding
from inference.sessions.relay import Outlet, StageKey
from inference.sessions.session import Session
from inference.sessions.stage import Stage
from mesh.admission.revocations import RevocationTable
from mesh.directory.address_book import AddressBook
from mesh.liveness.standing import Standing
from mesh.liveness.suspicion import Suspicion
from mesh.picture.evidence import Record
from mesh.picture.hearsay import Report
from node.daemon import Daemon
from protocols import limits
from protocols.certificates import Chain
from protocols.gossip import BundleId, Topic
from protocols.ids import ModelDigest, PeerId, SessionId
from protocols.placement import Claim, ModelNote
from protocols.session import OpenStage
from protocols.streams import Plane
from protocols.tensor import Header
from simulations.machine.arithmetic import PREFIX_BYTES_MAX, ArithmeticEngine, ArithmeticEngines
from simulations.network.connection import End

if TYPE_CHECKING:
    from mesh.gossip.table import Table
    from mesh.gossip.views import Views
    from simulations.cluster.node import SimulatedNode


class Sight:
    """One process, `run` of its machine. Good until it ends."""

    def __init__(self, node: SimulatedNode, daemon: Daemon) -> None:
        assert node.peer is not None
        assert node.network is not None
        self.node = node
        self.name = node.name
        self.daemon = daemon
        self.peer = node.peer
        self.run = node.starts
        self.disk_was_full = False
        self.steps_out_of_epoch: list[str] = []
        self.computed_last: dict[StageKey, int] = {}  # the epoch of the last step of each stage
        node.worker.witness = self._watch_step

    # Liveness --------------------------------------------------------------------------------------------------------

    @cached_property
    def detector(self) -> Suspicion:
        return self.daemon.members.watch._machine

    @cached_property
    def standings(self) -> Mapping[PeerId, Standing]:
        """Of all that this node has heard of."""
        return self.detector._standings

    @property
    def ring(self) -> list[PeerId]:
        """Among whom it sees the monitors and their subjects."""
        return [peer for _, peer in self.detector._ring._places]

    @property
    def errands(self) -> int:
        """Of the detector, as it counts them."""
        return self.daemon.members.watch._errands

    @property
    def errands_waiting(self) -> int:
        """Of those, the ones that have no task yet, with a few that are not counted."""
        return len(self.daemon.members.watch._todo)

    @property
    def pinged(self) -> Collection[PeerId]:
        """For whom there is a stream of pings, or is to be one."""
        return self.daemon.members.watch._pingers.keys()

    @property
    def awaited(self) -> Collection[PeerId]:
        """Whose answers to pings it would know."""
        return self.daemon.members.watch._pinged.keys()

    @property
    def measured(self) -> Collection[PeerId]:
        """Whose round trip time it tells."""
        return self.daemon.members.watch.rtts_ms.keys()

    def boot_of(self, peer: PeerId) -> bytes:
        """Which run of a peer this node has heard of last; of itself, which one it is."""
        return self.daemon.members.watch.boot_of(peer)

    def is_linked(self, peer: PeerId, plane: Plane) -> bool:
        """Whether it is connected with a member on that plane."""
        return peer in self.daemon.members._machine._linked[plane]

    def is_up(self, peer: PeerId) -> bool:
        return peer in self.daemon.members._machine._up

    # Admission -------------------------------------------------------------------------------------------------------

    @property
    def chain(self) -> Chain:
        return self.daemon.members._papers.chain

    @cached_property
    def revocations(self) -> RevocationTable:
        return self.daemon.members._papers._table

    @property
    def chains(self) -> int:
        """Verified chains that are kept."""
        return len(self.daemon.members._papers.door._chains)

    @property
    def book(self) -> AddressBook:
        return self.daemon.members._file.book

    @property
    def static_keys(self) -> tuple[bytes, ...]:
        return tuple(key.public for key in self.daemon.members._identity.statics)

    # Gossip ----------------------------------------------------------------------------------------------------------

    @cached_property
    def table(self) -> Table:
        return self.daemon.members.gossip._machine._table

    @cached_property
    def views(self) -> Views:
        return self.daemon.members.gossip._machine._views

    @property
    def branches(self) -> set[PeerId]:
        """Over whose links it pushes the words of any author."""
        return set[PeerId]().union(*self.daemon.members.gossip._machine._tree._branches.values())

    @property
    def recent_ids(self) -> Mapping[BundleId, object]:
        return self.daemon.members.gossip._machine._tree._recent

    @property
    def missing_ids(self) -> Mapping[BundleId, object]:
        return self.daemon.members.gossip._machine._tree._missing

    @property
    def linked(self) -> Collection[PeerId]:
        """With whom there is a gossip link, or is to be one."""
        return self.daemon.members.gossip._links

    @property
    def rated_peers(self) -> int:
        return len(self.daemon.members.gossip._machine._rates)

    @property
    def link_bytes(self) -> int:
        """Waiting for the slowest gossip link."""
        links = self.daemon.members.gossip._links.values()
        return max((link._waiting_bytes for link in links), default=0)

    # What is thought of peers ----------------------------------------------------------------------------------------

    @property
    def records(self) -> Mapping[PeerId, Record]:
        return self.daemon.picture._ledger._records

    @property
    def reports(self) -> Mapping[PeerId, Mapping[PeerId, Report]]:
        return self.daemon.picture._hearsay._reports

    def health_heard_s(self, peer: PeerId) -> float | None:
        """When the last digest of a peer came, None if none ever did."""
        heard = self.daemon.picture._health.get(peer)
        return heard[0] if heard else None

    @property
    def health_known(self) -> int:
        return len(self.daemon.picture._health)

    # Placement -------------------------------------------------------------------------------------------------------

    @property
    def grants(self) -> tuple[Grant, ...]:
        return tuple(self.daemon.placement._holder.grants)

    @property
    def ranks(self) -> Mapping[ModelDigest, tuple[int, PeerId]]:
        """The highest (term, proposer) granted of each model."""
        return self.daemon.placement._holder.grants._highest

    @property
    def holdings(self) -> tuple[Holding, ...]:
        return tuple(self.daemon.placement._holder.holdings.values())

    @property
    def coming(self) -> Collection[Grant]:
        """That are being loaded, or wait for their turn to be loaded again."""
        holder = self.daemon.placement._holder
        return {*holder._stops, *holder._reloading._waiting}

    @property
    def stoppable(self) -> Collection[Grant]:
        """Whose load would be stopped if they were taken back."""
        return self.daemon.placement._holder._stops.keys()

    @property
    def told(self) -> Iterator[str]:
        """The keys of all that it tells the others of as held."""
        board = self.daemon.placement._board
        assert isinstance(board, GossipBoard)
        return (key for topic, key in board._said if topic is Topic.CLAIMS)

    @property
    def notes(self) -> Mapping[ModelDigest, ModelNote]:
        return self.daemon.placement._holder.notes

    @property
    def folders(self) -> tuple[str, ...]:
        """Paths of the models that were offered here."""
        return tuple(sorted({each.path for each in self.daemon._library._folders.values()}))

    @property
    def believed(self) -> list[Claim]:
        """What counts here as held, by anybody; in the order in which it was heard, since to sort it costs far more."""
        table = self.daemon.placement.claims
        told_by = [each for each in table._told.items() if each[1].claims]  # as a rule few of many
        return [claim for holder, told in told_by if holder not in table._down for claim in told.claims]

    @property
    def claim_holders(self) -> int:
        return len(self.daemon.placement.claims._told)

    # Sessions --------------------------------------------------------------------------------------------------------

    @cached_property
    def entered(self) -> Mapping[SessionId, Session]:
        """Sessions that enter here."""
        return self.daemon.entry.running

    @property
    def requests(self) -> Mapping[SessionId, object]:
        """That count as under way here."""
        return self.daemon.generation.running

    @cached_property
    def opened(self) -> Mapping[StageKey, OpenStage]:
        """Stages that are open here, or being opened."""
        return self.daemon.server.sessions

    @cached_property
    def _deliverers(self) -> Mapping[StageKey, object]:
        return self.daemon.relay._stages

    def entry_of(self, key: StageKey) -> PeerId | None:
        """Who has opened that stage."""
        entry = self.daemon.server._entries.get(key)
        return entry[0] if entry else None

    @property
    def owned(self) -> tuple[StageKey, ...]:
        """Stages of which it knows who has opened them."""
        return tuple(self.daemon.server._entries)

    @property
    def registered(self) -> tuple[StageKey, ...]:
        """For which stages frames are taken."""
        return tuple(self._deliverers)

    def stages(self) -> Iterator[tuple[StageKey, Stage]]:
        """The machines of the stages that take frames."""
        for key, deliver in self._deliverers.items():
            machine = getattr(getattr(deliver, "__self__", None), "_machine", None)
            if isinstance(machine, Stage):
                yield key, machine

    def _watch_step(self, header: Header) -> None:
        """A step begins: of which epoch, and in which its stage is. No look comes often enough to see that."""
        key = (header.session, header.stage)
        self.computed_last[key] = header.epoch
        machine = getattr(getattr(self._deliverers.get(key), "__self__", None), "_machine", None)
        if isinstance(machine, Stage) and machine.epoch != header.epoch:
            self.steps_out_of_epoch.append(
                f"stage {header.stage} of session {header.session[:8]} is in epoch {machine.epoch}, and computed rows "
                f"from {header.position} on of epoch {header.epoch}"
            )

    @property
    def opened_streams(self) -> int:
        """Of rows: those that still count as being opened, though nobody opens them."""
        return sum(not lock.locked() for lock in self.daemon.relay._opening.values())

    @property
    def outlets(self) -> tuple[Outlet, ...]:
        return tuple(self.daemon.relay._outlets.values())

    # The machine -----------------------------------------------------------------------------------------------------

    def caches(self) -> Iterator[StageKey]:
        """For which stages of which sessions the worker keeps KV."""
        yield from ((cache.session, cache.stage) for cache in self.node.worker.memory().caches)

    def cached_rows(self) -> dict[StageKey, int]:
        """How many rows of each, where the engine is the arithmetic one. Only good right after `caches`."""
        engines = self.node.worker._process._server._shards.values()
        return {
            key: len(cache.chains[0])
            for engine in engines
            if isinstance(engine, ArithmeticEngine)
            for key, cache in engine._caches.items()
        }

    def makers(self) -> dict[StageKey, frozenset[PeerId]]:
        """Whose sessions computed the rows that each took over from earlier ones, where the engine is the arithmetic one."""
        engines = self.node.worker._process._server._shards.values()
        return {
            key: cache.makers
            for engine in engines
            if isinstance(engine, ArithmeticEngine)
            for key, cache in engine._caches.items()
        }

    @property
    def prefix_bytes(self) -> tuple[int, int]:
        """What the worker keeps of prompts, and what it may keep: nothing without a shard."""
        memory = self.node.worker.memory()
        is_arithmetic = isinstance(self.node.worker._process._server._engines, ArithmeticEngines)
        share_bytes = int(limits.KV_PREFIX_SHARE * memory.budget_bytes)
        bytes_max = PREFIX_BYTES_MAX if is_arithmetic else share_bytes
        return memory.prefix_bytes, bytes_max if memory.shards else 0

    @property
    def worker_stands_still(self) -> bool:
        """By a fault, or because it is down."""
        worker = self.node.worker
        return worker.pid is None or worker._processor._hangs

    @property
    def pending(self) -> frozenset[StageKey]:
        """For which stages the worker is to make room for KV, or to let go of it, as soon as it has done what it was asked before."""
        asked = (job.what for job in self.node.worker._processor._jobs)
        return frozenset(
            (each.session, each.stage) for each in asked if isinstance(each, OpenCache | CloseCache)
        )

    @property
    def late_s(self) -> tuple[tuple[float, float], ...]:
        """When the event loop was late lately, and by how much."""
        return tuple(self.daemon._lag._late)

    @property
    def disk_is_slow(self) -> bool:
        return self.node.disk.write_s > 0

    @property
    def faults(self) -> Mapping[str, int]:
        assert self.node.network is not None
        return self.node.network.faults

    @property
    def connections(self) -> list[End]:
        """Its ends of those that are up."""
        assert self.node.network is not None
        return [end for end in self.node.network._connections if end.is_up]

    def task_names(self) -> list[str]:
        """Of all tasks of the process."""
        root = self.node.root_task
        tasks = [root] if root is not None else []
        for task in tasks:  # which grows meanwhile
            for nursery in task._child_nurseries:
                tasks.extend(nursery._children)
        return [task.name for task in tasks]


def replay_of(session: Session) -> tuple[int, int]:
    """The row at which all stages of a session went on in its present epoch, and how many rows were replayed for that."""
    return session._resume_at, session._replayed_rows
