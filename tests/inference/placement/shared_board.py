"""The board of a test mesh without gossip: what a node publishes is heard at once by those who are connected to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from mesh.members.membership import MemberDown, MemberUp
from protocols.placement import Claims

if TYPE_CHECKING:
    from tests.inference.placement.mesh_of_nodes import Node


class SharedBoard:
    """Implements `inference.placement.board.ClaimBoard` for one node."""

    def __init__(self, own: Node) -> None:
        self.own = own
        self.said: Claims | None = None

    def listen(self, hear, down) -> None:
        self.hear, self.down = hear, down

    def publish(self, own: Claims) -> None:
        self.said = own
        for other in self.own.mesh.nodes.values():
            if other.is_up and self.own.peer in other.members.up:
                other.board.hear(self.own.peer, own)

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        with self.own.members.subscribe() as events:
            for peer in self.own.members.up:
                self.read(peer)
            task_status.started()
            async for event in events:
                match event:
                    case MemberUp(peer):
                        self.read(peer)
                    case MemberDown(peer):
                        self.down(peer)

    def read(self, peer) -> None:
        said = self.own.mesh.nodes[peer].board.said
        if said is not None:
            self.hear(peer, said)
