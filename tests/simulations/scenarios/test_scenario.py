from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from inference.model.tiny import MODEL_DIR
from protocols.errors import NotFound, UserError
from simulations.scenarios.drawing import draw
from simulations.scenarios.scenario import load, names

SHIPPED = (
    "churn",
    "clocks",
    "disk",
    "entry-death",
    "flapping-node",
    "half-half",
    "liars",
    "mass-crash",
    "one-way-link",
    "overload",
    "rolling-restart",
    "slow-node",
    "steady",
    "swarm",
    "upgrade",
    "volunteer",
    "wan",
    "zone-loss",
)

GOOD = """
format = 1
summary = "A sentence."
duration_s = 30
settled_at_s = 20
[nodes]
count = 3
zones = ["a", "b"]
[workload]
rest_s = 5
"""


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_every_kind_of_day_that_is_promised_ships() -> None:
    assert set(SHIPPED) <= names().keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_scenario_has_a_summary_and_becomes_a_script(name: str) -> None:
    scenario = load(name)
    script = draw(scenario, 7)
    assert scenario.name == script.scenario == name
    assert names()[name].endswith(".")
    assert script.requests, "nobody would notice"
    assert script.faults or name in {"steady", "overload"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_scenario_can_be_had_larger_and_longer(name: str) -> None:
    script = draw(load(name), 7, nodes=12, minutes=5)
    assert len(script.nodes) == 12
    assert script.duration_s == 300
    assert all(fault.at_s < (script.settled_at_s or 300) for fault in script.faults)
    assert max(request.at_s for request in script.requests) > 200


def test_a_scenario_of_ones_own_is_called_what_its_file_is_called(tmp_path: Path) -> None:
    assert load(written(tmp_path, GOOD)).name == "mine"


def test_an_unknown_scenario_is_refused_with_those_there_are() -> None:
    with pytest.raises(NotFound, match=r"No scenario is called 'steddy': take one of churn, .*steady"):
        load("steddy")


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't be read .No such file"):
        load(str(tmp_path / "none.toml"))


REFUSED = {
    "an unknown key": (GOOD + 'colour = "red"', "unknown field 'colour' at workload"),
    "an unknown key at the top": ('colour = "red"' + GOOD, "unknown field 'colour'"),
    "another format": (GOOD.replace("format = 1", "format = 2"), "of format 2, this weft reads 1"),
    "no format": (GOOD.replace("format = 1", ""), "of format none, this weft reads 1"),
    "no TOML": ("format = ", "is not TOML"),
    "a name": ('name = "other"' + GOOD, "take it out"),
    "a share above one": (GOOD + "[expect]\nfinished_share = 1.5", "<= 1.0 at expect.finished_share"),
    "a detection that can't be": (GOOD + "[expect]\ndetection_max_s = 0.1", "raise expect.detection_max_s"),
    "answers that nobody asks for": (
        GOOD + "sessions = 0\n[expect]\nfinished_share = 1.0",
        "nobody asks: add a workload",
    ),
    "questions to machines alone": ('level = "world"' + GOOD, "nobody asks at level 'world'"),
    "layers that weft-tiny has not": ('engine = "torch"' + GOOD, "not 12 layers: set layers to 8"),
    "one node": (GOOD.replace("count = 3", "count = 1"), ">= 2 at nodes.count"),
    "no node": (GOOD.replace("count = 3", "count = 0"), ">= 2 at nodes.count"),
    "no machines": (GOOD.replace("[workload]", "machines = []\n[workload]"), "length >= 1 at nodes.machines"),
    "a stranger": (GOOD + '[[faults]]\nkind = "crash"\nat_s = 3\nnode = "n3"', "no node 'n3' among n0 to n2"),
    "a strange core": ('core = ["n9"]' + GOOD, "no node 'n9'"),
    "a strange entry": (GOOD + 'entries = ["n7"]', "no node 'n7'"),
    "a strange link": (GOOD + '[[links]]\none = "n8"', "a link names 'n8'"),
    "a strange zone": (GOOD + '[[links]]\none = "zone:c"', "a link names 'zone:c'"),
    "a fault after the end": (
        GOOD + '[[faults]]\nkind = "crash"\nat_s = 31\nnode = "n0"',
        "comes after the end at 30 s",
    ),
    "a core that crashes after it has settled": (
        'core = ["n0", "n1"]' + GOOD + '[[faults]]\nkind = "crash"\nat_s = 25\nnode = "n1"',
        "befalls n1 of the core after it has settled at 20 s",
    ),
    "anything after it has settled": (
        'core = ["n0", "n1"]' + GOOD + '[[faults]]\nkind = "crash"\nat_s = 25\nnode = "n2"',
        "comes after it has settled at 20 s",
    ),
    "a settling after the end": (
        GOOD.replace("settled_at_s = 20", "settled_at_s = 30"),
        "settles at 30 s and ends at 30 s",
    ),
    "an unknown fault": (GOOD + '[[faults]]\nkind = "flood"\nat_s = 3', "Invalid value 'flood' at faults"),
    "an unknown key of a fault": (
        GOOD + '[[faults]]\nkind = "crash"\nat_s = 3\nnode = "n0"\nhow = "hard"',
        "unknown field 'how' at faults",
    ),
    "a node in two groups": (
        GOOD + '[[faults]]\nkind = "partition"\nat_s = 3\nfor_s = 1\ngroups = [["n0"], ["n0", "n1"]]',
        "a node in two groups",
    ),
    "a draw of no fault": (
        GOOD + '[[draws]]\ndraw = "some"\ncount = 1\nat_s = 3\nfault = { kind = "pause" }',
        "the draw 'some' has a fault that is none .*missing required field 'for_s'",
    ),
    "a draw that fixes what is drawn": (
        GOOD + '[[draws]]\ndraw = "some"\ncount = 1\nat_s = 3\nfault = { kind = "crash", node = "n1" }',
        "sets 'node' of its fault, which is drawn",
    ),
    "a draw of how many": (
        GOOD + '[[draws]]\ndraw = "some"\nat_s = 3\nfault = { kind = "crash" }',
        "names neither 'count' nor 'share'",
    ),
    "a draw after it has settled": (
        GOOD + '[[draws]]\ndraw = "each"\nfrom_s = 20\nevery_s = 1\nfault = { kind = "crash" }',
        "begins at 20 s",
    ),
    "a draw that ends before it begins": (
        GOOD
        + '[[draws]]\ndraw = "churn"\nfrom_s = 9\nuntil_s = 4\nshare_per_min = 1\nfault = { kind = "crash" }',
        "swap them",
    ),
    "a draw of a strange zone": (
        GOOD + '[[draws]]\ndraw = "zone"\nzone = "c"\nat_s = 3\nfault = { kind = "crash" }',
        "names the zone 'c'",
    ),
    "a range that is upside down": (GOOD + "tokens = [9, 3]", "tokens goes from 9 to 3"),
    "a range of three": (GOOD + "tokens = [1, 2, 3]", "length <= 2 at workload.tokens"),
    "no tokens": (GOOD + "tokens = 0", "workload.tokens may be 0"),
    "a rest that is all": (GOOD.replace("rest_s = 5", "rest_s = 30"), "lower workload.rest_s"),
}


@pytest.mark.parametrize(("text", "complaint"), REFUSED.values(), ids=REFUSED.keys())
def test_what_can_not_be_is_refused_in_one_line(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        load(written(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "`" not in str(caught.value)


def test_the_real_engine_has_as_many_layers_as_the_model_that_comes_with_weft(tmp_path: Path) -> None:
    layers = json.loads((MODEL_DIR / "config.json").read_bytes())["num_hidden_layers"]
    assert load(written(tmp_path, f'engine = "torch"\nlayers = {layers}' + GOOD)).layers == layers


def test_a_scenario_can_not_be_had_with_fewer_nodes_than_it_names() -> None:
    with pytest.raises(UserError, match="flapping-node can't be had with 4 nodes: ask for at least 5"):
        draw(load("flapping-node"), 1, nodes=4)


def test_a_scenario_can_not_be_had_in_less_than_it_takes_to_settle() -> None:
    with pytest.raises(UserError, match=r"churn needs more than 0.5 minutes"):
        draw(load("churn"), 1, minutes=0.2)


def test_reading_scenarios_outlives_a_collection_of_rubbish_at_any_moment() -> None:
    """msgspec ends the process for some types if the collector runs just while it looks at them."""
    assert gc.isenabled()
    code = "import gc; gc.set_threshold(1); from simulations.scenarios.scenario import load; load('wan')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
