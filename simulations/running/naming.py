"""Which nodes the parts of a script name, and a script without some of its nodes. Pure."""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from simulations.scenarios.checks import nodes_named
from simulations.scenarios.faults import Fault, Partition
from simulations.scenarios.script import Script


def strangers(script: Script) -> tuple[str, ...]:
    """What a script names and does not have, sorted."""
    known = {node.name for node in script.nodes}
    named = {node for fault in script.faults for node in nodes_named(fault)}
    named |= {request.entry for request in script.requests} | {*script.core, *script.offer_on}
    return tuple(sorted(named - known))


def without(script: Script, gone: Collection[str]) -> Script:
    """The script of the nodes that are left: what names one that is gone goes with it, and a partition loses a member."""
    return replace(
        script,
        nodes=tuple(node for node in script.nodes if node.name not in gone),
        links=tuple(link for link in script.links if not {link.one, link.two} & set(gone)),
        requests=tuple(request for request in script.requests if request.entry not in gone),
        faults=tuple(left for fault in script.faults if (left := _without(fault, gone)) is not None),
        core=tuple(node for node in script.core if node not in gone),
        offer_on=tuple(node for node in script.offer_on if node not in gone),
    )


def _without(fault: Fault, gone: Collection[str]) -> Fault | None:
    if isinstance(fault, Partition):
        groups = tuple(tuple(node for node in group if node not in gone) for group in fault.groups)
        if not groups[0] and fault.one_way:
            return None
        groups = tuple(group for group in groups if group)
        return replace(fault, groups=groups) if len(groups) > 1 else None
    return None if any(node in gone for node in nodes_named(fault)) else fault
