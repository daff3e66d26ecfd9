"""`weft sim`: what the commands print and exit with, without runs and with small ones."""

from __future__ import annotations

import io
import json
import os
import re
import signal
from types import SimpleNamespace

import click
import pytest

from node.cli.main import run
from protocols.exit_codes import ExitCode
from simulations.cli import run as run_command
from simulations.cli import shrink as shrink_command
from simulations.cli.main import COMMANDS, sim
from simulations.cli.progress_line import ProgressLine
from simulations.running.corpus import decode, encode, read
from simulations.running.run import Progress
from simulations.scenarios.faults import Crash
from simulations.scenarios.script import NodeSpec, Request, Script
from simulations.trace import Trace
from tests.simulations.running.scripts import A_VIOLATION, a_request, a_script, an_outcome

BRIEF = """
format = 1
summary = "Two nodes, one question."
duration_s = 4
[nodes]
count = 2
[workload]
sessions = 1
rest_s = 2
"""
SMALL = Script(
    "small",
    5,
    4.0,
    (NodeSpec("n0"), NodeSpec("n1")),
    layers=2,
    requests=(Request(0.5, "n1", "hi", 8),),
)


@pytest.fixture
def weft(capsys, tmp_path, monkeypatch):
    """`weft sim ARGUMENTS` in this process and an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = run(["sim", *arguments])
        said = capsys.readouterr()
        return int(code), said.out, said.err

    return call


@pytest.fixture
def runs(monkeypatch):
    """No run: the outcomes that a test put here, by what the script is; the scripts that were asked for."""

    def run_script(script, **options):
        kept.asked.append(script)
        kept.options.append(options)
        return kept.outcome(script)

    kept = SimpleNamespace(outcome=lambda script: an_outcome(), asked=[], options=[])
    monkeypatch.setattr(run_command, "run_script", run_script)
    monkeypatch.setattr(shrink_command, "run_script", run_script)
    return kept


def test_every_command_loads_and_has_help(weft):
    ctx = click.Context(sim)
    assert sim.list_commands(ctx) == list(COMMANDS)
    for name in COMMANDS:
        assert sim.get_command(ctx, name).name == name
        assert weft(name, "--help")[0] == 0
    assert weft()[:2] == (0, weft("--help")[1])


def test_scenarios_are_listed_with_what_happens_in_them(weft):
    code, out, _ = weft("list")
    assert code == 0
    assert any(line.startswith("steady ") for line in out.splitlines())
    assert "steady" in json.loads(weft("list", "--json")[1])


def test_a_good_run_exits_0_and_asks_for_what_was_asked(weft, runs):
    code, out, err = weft("run", "steady", "--seed", "7", "--nodes", "4", "--minutes", "1.5")
    (script,) = runs.asked
    assert (code, err) == (0, "")
    assert (script.scenario, script.seed, len(script.nodes), script.duration_s) == ("steady", 7, 4, 90.0)
    assert out.splitlines()[-1] == "violations  none"
    assert runs.options[0]["stop_at_first"]
    weft("run", "steady", "--keep-going")
    assert runs.asked[1].seed == 1
    assert not runs.options[1]["stop_at_first"]


def test_a_bad_run_exits_1_and_says_how_to_see_it_again(weft, runs):
    runs.outcome = lambda script: an_outcome(violations=(A_VIOLATION,))
    code, out, _ = weft("run", "steady", "--seed", "7", "--minutes", "1")
    assert code == 1
    assert "violated S2" in out
    assert "again:   weft sim run steady --seed 7 --minutes 1\n" in out
    runs.outcome = lambda script: an_outcome(missed=("false_deaths: one",))
    assert weft("run", "steady")[0] == 1


def test_a_run_can_be_had_as_one_object(weft, runs):
    runs.outcome = lambda script: an_outcome(requests=(a_request(),), violations=(A_VIOLATION,))
    code, out, _ = weft("run", "steady", "--json")
    told = json.loads(out)
    assert (code, told["is_good"], told["command"]) == (1, False, "weft sim run steady --seed 1")
    assert told["violations"][0]["invariant"] == "S2"
    assert told["requests"][0]["status"] == "finished"


def test_what_comes_out_only_in_the_run_is_wrong_usage_as_well(weft, tmp_path):
    """The machines alone have no workers that could crash."""
    (tmp_path / "odd.toml").write_text(
        "format = 1\nsummary = 'x'\nlevel = 'world'\nduration_s = 60\nnodes.count = 3\nworkload.sessions = 0\n"
        "[[faults]]\nkind = 'worker_crash'\nat_s = 1\nnode = 'n1'\n"
    )
    code, out, err = weft("run", "odd.toml")
    assert (code, out) == (2, "")
    assert "has no worker_crash faults: run the scenario at level 'cluster'" in err


def test_an_interrupted_run_tells_what_it_knew(weft, runs):
    runs.outcome = lambda script: an_outcome(interrupted=True)
    code, out, _ = weft("run", "steady")
    assert code == ExitCode.INTERRUPTED
    assert "interrupted" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "stedy"], "churn"),
        (["run", "missing.toml"], "missing.toml"),
        (["run", "missing.json"], "there is no file missing.json"),
        (["run", "old.json"], "of format 2; this release reads 1"),
        (["run", "odd.json"], "unknown field `sead`"),
        (["run", "odd.toml"], "odd"),
        (["run", "good.json", "--seed", "3", "--nodes", "2"], "leave out --seed and --nodes"),
        (["run", "asks.toml"], "nobody asks at level 'world'"),
        (["run", "steady", "--nodes", "1"], "at least"),
        (["run", "steady", "--minutes", "0.001"], "minutes"),
        (["run"], "Missing argument"),
        (["run", "steady", "--minutes", "0"], "--minutes"),
        (["shrink", "stedy"], "churn"),
        (["check-determinism", "one"], "one"),
        (["check-determinism", "1", "--scenario", "stedy"], "churn"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_wrong_usage_exits_2_with_one_line_and_the_next_step(weft, runs, tmp_path, arguments, says):
    good = encode(SMALL)
    (tmp_path / "good.json").write_bytes(good)
    (tmp_path / "old.json").write_bytes(good.replace(b'"format": 1', b'"format": 2'))
    (tmp_path / "odd.json").write_bytes(good.replace(b'"seed": 5', b'"sead": 5'))
    (tmp_path / "odd.toml").write_text("format = 1\nsummery = 'x'\n")
    (tmp_path / "asks.toml").write_text(
        "format = 1\nsummary = 'x'\nlevel = 'world'\nduration_s = 60\nnodes.count = 3\n"
    )
    code, out, err = weft(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("weft: ")
    assert err.count("\n") == 1
    assert says in err
    assert runs.asked == []


def test_a_script_file_is_run_as_it_is(weft, runs, tmp_path):
    (tmp_path / "a b.json").write_bytes(encode(SMALL))
    runs.outcome = lambda script: an_outcome(violations=(A_VIOLATION,))
    _, out, _ = weft("run", "a b.json")
    assert runs.asked == [SMALL]
    assert "again:   weft sim run 'a b.json'\n" in out


def test_shrink_writes_the_smallest_script_and_the_command_for_it(weft, runs, tmp_path):
    (tmp_path / "big.json").write_bytes(encode(a_script()))

    def outcome(script):
        fails = any(isinstance(fault, Crash) for fault in script.faults)
        return an_outcome(violations=(A_VIOLATION,) if fails else (), nodes=len(script.nodes))

    runs.outcome = outcome
    code, out, err = weft("shrink", "big.json", "--out", "small.json")
    kept = read(tmp_path / "small.json")
    assert (code, err) == (0, "")
    assert [type(fault) for fault in kept.script.faults] == [Crash]
    assert len(kept.script.nodes) == 1
    assert kept.invariant == "S2"
    assert out.startswith("1 faults, 1 nodes, 0 requests, 1 s: nothing more can go after ")
    assert "again:   weft sim run small.json\n" in out
    weft("shrink", "big.json", "--runs", "2")
    assert decode((tmp_path / "churn-17.json").read_bytes(), "").script.faults


def test_what_kills_a_search_loses_nothing(weft, runs, tmp_path):
    (tmp_path / "big.json").write_bytes(encode(a_script()))

    def outcome(script):
        if len(runs.asked) == 4:
            raise SystemExit
        return an_outcome(violations=(A_VIOLATION,))

    runs.outcome = outcome
    with pytest.raises(SystemExit):
        weft("shrink", "big.json", "--out", "small.json")
    assert len(read(tmp_path / "small.json").script.faults) < 5


def test_shrink_keeps_to_the_failure_that_it_began_with(weft, runs, tmp_path):
    (tmp_path / "big.json").write_bytes(encode(a_script()))
    runs.outcome = lambda script: (
        an_outcome(violations=(A_VIOLATION,))
        if len(script.faults) == 5
        else an_outcome(missed=("exact_text: another failure",))
    )
    weft("shrink", "big.json", "--out", "small.json")
    assert len(read(tmp_path / "small.json").script.faults) == 5


def test_there_is_nothing_to_shrink_in_a_good_run(weft, runs, tmp_path):
    code, out, err = weft("shrink", "steady")
    assert (code, out) == (2, "")
    assert "nothing fails in 'weft sim run steady --seed 1'" in err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_shrink_loses_nothing(weft, runs, tmp_path):
    (tmp_path / "big.json").write_bytes(encode(a_script()))
    runs.outcome = lambda script: an_outcome(violations=(A_VIOLATION,), interrupted=len(runs.asked) == 4)
    code, out, _ = weft("shrink", "big.json", "--out", "small.json")
    assert code == ExitCode.INTERRUPTED
    assert "interrupted, the smallest so far, written to small.json" in out
    assert len(read(tmp_path / "small.json").script.faults) < 5


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_progress_line_is_drawn_now_and_then_and_wiped():
    now = [0.0]
    terminal = Terminal()
    with ProgressLine(terminal, lambda: now[0]) as line:
        for tick in range(100):
            now[0] = tick * 0.01
            line.show(Progress(tick * 2.0, 200.0, 12_345, 3, 1))
    drawn = terminal.getvalue().split("\r\x1b[K")
    assert len(drawn) == 6
    assert drawn[0] == drawn[-1] == ""
    assert drawn[1] == "40.0 of 200 virtual s, 200 x real time, 12,345 events, 3 sessions, 1 violations"


def test_nothing_is_drawn_where_nobody_looks():
    piped = io.StringIO()
    with ProgressLine(piped) as line:
        line.write("anything")
        line.show(Progress(1.0, 2.0, 3, 4, 5))
    assert piped.getvalue() == ""


# Real ones -----------------------------------------------------------------------------------------------------------


def test_a_script_runs_for_real_and_leaves_a_trace(weft, tmp_path):
    (tmp_path / "small.json").write_bytes(encode(SMALL))
    code, out, err = weft("run", "small.json", "--trace", "t.jsonl", "--json")
    told = json.loads(out)
    assert (code, err, told["is_good"]) == (0, "", True)
    (request,) = told["requests"]
    assert (request["status"], len(request["token_at_s"]), request["is_exact"]) == ("finished", 8, True)
    assert told["wall_s"] > 0
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert any(line.get("what") == "is up" and line["node"] == "n1" for line in lines)
    assert {line["node"] for line in lines if "log" in line} >= {"n0", "n1"}
    assert json.loads(weft("run", "small.json", "--json")[1])["digest"] == told["digest"]


def test_the_same_seed_twice_is_the_same(weft, tmp_path):
    (tmp_path / "brief.toml").write_text(BRIEF)
    code, out, err = weft("check-determinism", "5", "--scenario", "brief.toml")
    assert (code, err) == (0, "")
    same = re.fullmatch(r"the same: ([\d,]+) events, then the end: [0-9a-f]{32}, 0 violations\n", out)
    assert same is not None
    assert int(same[1].replace(",", "")) > 100


def test_the_first_event_that_differs_is_shown_with_those_before_it(weft, tmp_path, monkeypatch):
    """One event of the run in this process is another than in the other process."""
    (tmp_path / "brief.toml").write_text(BRIEF)
    carried = Trace.carried

    def carried_oddly(trace, data):
        carried(trace, data + b" oddly" if trace.events == 50 else data)

    monkeypatch.setattr(Trace, "carried", carried_oddly)
    code, out, _ = weft("check-determinism", "5", "--scenario", "brief.toml")
    said, *events = out.splitlines()
    assert (code, said) == (1, "event 50 differs:")
    *before, one, two = events
    assert before
    assert all(line.startswith("    ") for line in before)
    assert one.startswith("1st ")
    assert one.removesuffix(" oddly").removeprefix("1st ") == two.removeprefix("2nd ")


def test_ctrl_c_ends_a_real_run_with_what_is_known(weft, tmp_path, monkeypatch):
    (tmp_path / "small.json").write_bytes(encode(SMALL))

    def show(self, progress):
        if not killed:
            killed.append(progress.at_s)
            os.kill(os.getpid(), signal.SIGINT)

    killed = []
    monkeypatch.setattr(ProgressLine, "show", show)
    code, out, _ = weft("run", "small.json", "--json")
    told = json.loads(out)
    assert (code, told["interrupted"], told["missed"]) == (ExitCode.INTERRUPTED, True, [])
    assert killed[0] <= told["virtual_s"] < killed[0] + 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
