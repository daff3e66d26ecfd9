"""What members tell all others of themselves over gossip: their records, and whose membership they have ended.

The rule of the file: a validator only says whether a word holds, and what it was good for happens when the word is read, because
gossip asks validators in the middle of an event.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial

import structlog
import trio

from mesh.admission.credentials import Credentials
from mesh.admission.signatures import IsStatement
from mesh.directory.own_record import OwnRecordKeeper
from mesh.directory.records import RecordJudge
from mesh.gossip.driver import Gossip
from mesh.gossip.intake import Validator
from protocols import limits
from protocols.errors import LocalFault, Malformed, Overloaded, Oversized
from protocols.gossip import Heard, Topic
from protocols.ids import NetworkId
from protocols.records import NodeRecord, SignedRecord, decode_record, decode_signed, encode_signed
from protocols.seams import Clock

log = structlog.get_logger()

TakeRecord = Callable[[NodeRecord, SignedRecord], None]


class News:
    """Of one node in one network. `gossip` is bound before `run`, since it needs the validators first."""

    def __init__(
        self,
        network_id: NetworkId,
        clock: Clock,
        papers: Credentials,
        own_record: OwnRecordKeeper,
        is_statement: IsStatement,
    ) -> None:
        self._clock = clock
        self._papers = papers
        self._own_record = own_record
        self._judge = RecordJudge(
            network_id, lambda chain, _network, peer, _now: papers.door.know(peer, chain), is_statement
        )
        self._gossip: Gossip | None = None

    @property
    def validators(self) -> Mapping[Topic, Validator]:
        return {Topic.RECORD: self._check_record, Topic.REVOCATION: self._check_revocations}

    def bind(self, gossip: Gossip) -> None:
        self._gossip = gossip

    async def run(
        self,
        take_record: TakeRecord,
        revoked: Callable[[], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Say what is to be said and hear the others, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_records, take_record)
            nursery.start_soon(self._read_revocations, revoked)
            await nursery.start(partial(self._own_record.run, self._publish_record))
            task_status.started()

    def publish_revocations(self) -> None:
        """This node's own list, if it has one: again with every record, so that it is always to be had."""
        if (body := self._papers.revocations()) and self._gossip is not None:
            self._gossip.publish(Topic.REVOCATION, "", body, limits.RECORD_TTL_S)

    def _publish_record(self, signed: SignedRecord) -> None:
        if self._gossip is not None and self._papers.is_member:
            self._gossip.publish(Topic.RECORD, "", encode_signed(signed), limits.RECORD_TTL_S)
        self.publish_revocations()

    # Validators ----------------------------------------------------------------------------------------------------

    def _check_record(self, heard: Heard) -> None:
        """Makes its author a member at the door, if it holds."""
        _check_key(heard)
        self._judge.judge(decode_signed(heard.body), self._clock.wall(), author=heard.author)

    def _check_revocations(self, heard: Heard) -> None:
        _check_key(heard)
        try:
            self._papers.take_revocations(heard.body)
        except Overloaded as error:
            raise Oversized(str(error), heard.author) from error
        except LocalFault:
            log.exception("revocations can't be kept, and count until this node ends")

    # Reading -------------------------------------------------------------------------------------------------------

    async def _read_records(self, take: TakeRecord) -> None:
        async for heard in self._words(Topic.RECORD):
            signed = decode_signed(heard.body)
            take(decode_record(signed.record), signed)

    async def _read_revocations(self, revoked: Callable[[], None]) -> None:
        async for _ in self._words(Topic.REVOCATION):
            revoked()

    async def _words(self, topic: Topic) -> AsyncIterator[Heard]:
        """All that stand, and then what is new; from the start again if this node could not keep up."""
        gossip = self._gossip
        assert gossip is not None, "bind comes first"
        while True:
            with gossip.subscribe(topic) as news:
                for heard in gossip.items(topic):
                    yield heard
                try:
                    async for heard in news:
                        if heard.body:
                            yield heard
                except Overloaded:
                    log.warning("news of members were missed, all are read again", topic=topic.name)
                else:
                    return


def _check_key(heard: Heard) -> None:
    if heard.key:
        raise Malformed(f"a word on {heard.topic.name} under the key {heard.key!r}", heard.author)
