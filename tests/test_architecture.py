"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.orders import lines_with_order

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("protocols", "mesh", "inference", "evolution", "node", "simulations")
TOP_LEVEL = {*PACKAGES, "tests"}

# Files that implement a seam, or stand at the edge of a process: here the world comes in.
EDGES = (
    "node/clock.py",
    "node/disk.py",
    "node/folders.py",
    "node/machine.py",
    "node/main.py",
    "node/processes.py",
    "node/lifecycle.py",
    "node/control_client.py",
    "node/control_socket.py",
    "node/control.py",
    "node/http/",
    "node/cli/",
    "node/demo/",
    "mesh/host/",
    "mesh/state/files.py",
    "inference/engine/",
    "inference/model/tiny/",
    "simulations/chance.py",
    "simulations/cli/",
    "simulations/running/",
)
BANNED_MODULES = {
    "time",
    "random",
    "secrets",
    "socket",
    "uuid",
    "subprocess",
    "threading",
    "asyncio",
    "pickle",
}
BANNED_CALLS = {"open", "print", "input", "exec", "eval"}
BANNED_ATTRIBUTES = {("os", "urandom"), ("datetime", "now"), ("torch", "load")}
THREADS = (
    "node/library.py",  # names the `Offload` of a real node
    "node/opening.py",  # imports libp2p, before there is anything to overtake
)
ORDERS_ALLOWED: dict[
    str, str
] = {}  # paths, each with the reason why the order of its sets counts for nothing
MACHINES = (
    "protocols/",
    "inference/engine/batching/batch.py",
    "inference/engine/batching/cost_curve.py",
    "inference/engine/batching/gaps.py",
    "inference/engine/batching/rotation.py",
    "inference/engine/batching/waiting.py",
    "inference/sessions/session.py",
    "inference/sessions/stage.py",
    "inference/sessions/events.py",
    "inference/sessions/journal.py",
    "inference/sessions/completion.py",
    "inference/sessions/routing.py",
    "inference/placement/planning/planner.py",
    "inference/placement/planning/plan.py",
    "inference/placement/planning/chain_changes.py",
    "inference/placement/planning/chain_path.py",
    "inference/placement/planning/chain_search.py",
    "inference/placement/planning/chains.py",
    "inference/placement/planning/costs.py",
    "inference/placement/planning/exact_chain.py",
    "inference/placement/planning/reasons.py",
    "inference/placement/planning/room.py",
    "inference/placement/planning/sharing.py",
    "inference/placement/planning/shortage.py",
    "inference/placement/planning/standbys.py",
    "inference/placement/claims.py",
    "inference/placement/holding/grants.py",
    "inference/placement/proposal.py",
    "inference/placement/replacing.py",
    "mesh/host/wire/inbox.py",
    "mesh/host/wire/outbox.py",
    "mesh/host/wire/substream.py",
    "mesh/host/wire/yamux.py",
    "mesh/gossip/dissemination.py",
    "mesh/gossip/events.py",
    "mesh/gossip/intake.py",
    "mesh/gossip/machine.py",
    "mesh/gossip/publishing.py",
    "mesh/gossip/rates.py",
    "mesh/gossip/repair.py",
    "mesh/gossip/table.py",
    "mesh/gossip/views.py",
    "mesh/gossip/voice.py",
    "mesh/members/membership.py",
    "mesh/directory/address_book.py",
    "mesh/directory/records.py",
    "mesh/directory/bootstrap.py",
    "mesh/host/addresses/interfaces.py",
    "mesh/host/addresses/announcement.py",
    "mesh/admission/invites.py",
    "mesh/members/dialling.py",
    "mesh/admission/certificates.py",
    "mesh/admission/revocations.py",
    "mesh/admission/door.py",
    "mesh/host/handshake/half_open.py",
    "mesh/host/admission.py",
    "mesh/liveness/ring.py",
    "mesh/liveness/standing.py",
    "mesh/liveness/probing.py",
    "mesh/liveness/suspicion_events.py",
    "mesh/liveness/suspicion.py",
    "mesh/picture/health.py",
    "mesh/picture/reputation.py",
    "mesh/picture/evidence.py",
    "mesh/picture/hearsay.py",
    "mesh/picture/observations.py",
    "inference/engine/memory/orphans.py",
    "inference/engine/memory/pressure.py",
    "inference/engine/worker/books.py",
)
TORCH = ("inference/model/", "inference/engine/", "evolution/")
BROAD_CATCHES = {
    "mesh/host/guard.py",
    "node/http/guard.py",
    "simulations/cluster/process.py",  # a simulated daemon that ends by an exception is a finding, and ends no other
}


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the product, by its path in the repository."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8"))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The top-level packages that a module imports, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0], node.lineno


def functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Every function with the lines of its body, docstring left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_nothing_unpredictable_comes_in_but_through_a_seam() -> None:
    found = []
    for path, tree in sources().items():
        if path.startswith(EDGES):
            continue
        found += [f"{path}:{line} {name}" for name, line in imported(tree) if name in BANNED_MODULES]
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in BANNED_CALLS
            ):
                found.append(f"{path}:{node.lineno} {node.func.id}()")
            match node:
                case ast.Attribute(ast.Name(owner), attribute) if (owner, attribute) in BANNED_ATTRIBUTES:
                    found.append(f"{path}:{node.lineno} {owner}.{attribute}")
    assert found == []


def test_no_order_of_a_set_reaches_behaviour() -> None:
    """It differs from process to process, and no run could be repeated."""
    rules = {path: tree for path, tree in sources().items() if not path.startswith(EDGES)}
    assert [f"{path}:{line}" for path, line in lines_with_order(rules) if path not in ORDERS_ALLOWED] == []


def test_nothing_depends_on_addresses_or_on_how_this_process_hashes() -> None:
    found = []
    for path, tree in sources().items():
        of_equality = {
            id(node)
            for function, _ in functions(tree)
            if function.name in {"__hash__", "__eq__"}
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            match node:
                case ast.Call(ast.Name("id" | "hash" as name)) if id(node) not in of_equality:
                    found.append(f"{path}:{node.lineno} {name}()")
    assert [place for place in found if not place.startswith(EDGES)] == []


def test_threads_are_started_at_the_edges_alone() -> None:
    """On virtual time a thread is overtaken by the clock: rules take an `Offload`."""
    found = []
    for path, tree in sources().items():
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(ast.Name("trio"), "to_thread" | "from_thread"):
                    found.append(path)
    assert [path for path in found if not path.startswith((*EDGES, *THREADS))] == []


def test_machines_know_no_trio() -> None:
    found = [
        path
        for path, tree in sources().items()
        if path.startswith(MACHINES) and any(name == "trio" for name, _ in imported(tree))
    ]
    assert found == []
    for machine in MACHINES:
        assert (ROOT / machine).exists(), f"{machine} has moved: name its new place"


@pytest.mark.parametrize(
    ("library", "places"), [("libp2p", ("mesh/host/",)), ("torch", TORCH), ("noise", ("mesh/host/",))]
)
def test_a_library_stays_in_its_place(library: str, places: tuple[str, ...]) -> None:
    found = [
        path
        for path, tree in sources().items()
        if not path.startswith(places) and any(name == library for name, _ in imported(tree))
    ]
    assert found == []


def test_broad_catches_stand_in_three_places() -> None:
    found = set()
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None
                or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})
            ):
                found.add(path)
    assert found == BROAD_CATCHES


def test_functions_are_short() -> None:
    lengths = {
        f"{path}:{node.lineno} {node.name}": lines
        for path, tree in sources().items()
        for node, lines in functions(tree)
    }
    assert [f"{name}: {lines}" for name, lines in lengths.items() if lines > 70] == []
    short = sum(lines <= 30 for lines in lengths.values()) / len(lengths)
    assert short >= 0.9, f"{short:.0%} of the functions have at most 30 lines"


def test_a_file_holds_one_idea() -> None:
    assert [path for path in sources() if len((ROOT / path).read_text("utf-8").splitlines()) > 400] == []


def test_no_file_is_a_drawer() -> None:
    drawers = {"utils", "util", "common", "helpers", "manager", "base", "misc"}
    assert [path for path in sources() if Path(path).stem in drawers] == []


def test_every_module_says_what_it_is() -> None:
    assert [path for path, tree in sources().items() if not ast.get_docstring(tree)] == []


def test_nothing_is_left_for_later_and_no_path_of_a_machine_is_named() -> None:
    pattern = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|/(?:root|work)/[a-z]")
    found = []
    for path in sources():
        for number, line in enumerate((ROOT / path).read_text("utf-8").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path}:{number} {line.strip()}")
    assert found == []


def test_the_top_level_is_what_the_design_says() -> None:
    folders = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir()
        and not path.name.startswith(".")
        and any(path.rglob("*.py"))
        and path.name != "build"
    }
    assert folders == TOP_LEVEL
