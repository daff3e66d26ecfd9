"""The command line against a control server with a fake node: output, exit codes, import set."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest
import trio

from node.cli.main import run
from node.clock import SystemClock
from node.control import ControlServer
from node.control_socket import bound_control_socket
from node.folders import find_folders
from node.lifecycle import Lifecycle
from protocols.exit_codes import ExitCode
from tests.node.fake_node import DIGEST, OTHER, PEER, FakeNode

WAIT_S = 30


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WEFT_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    return find_folders(os.environ)


@pytest.fixture
def node(home):
    """A fake node behind a control socket on a thread."""
    home.make()
    node = FakeNode()
    running = threading.Event()
    handle = []

    async def serve(listener):
        lifecycle = Lifecycle(str(home.state), SystemClock())
        lifecycle.ready(node)
        server = ControlServer(listener, lifecycle, os.geteuid())
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            handle.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope, lifecycle))
            running.set()

    with bound_control_socket(home.socket) as listener:
        thread = threading.Thread(target=trio.run, args=(serve, listener))
        thread.start()
        assert running.wait(WAIT_S)
        token, scope, node.lifecycle = handle[0]
        yield node
        trio.from_thread.run_sync(scope.cancel, trio_token=token)
        thread.join(WAIT_S)


@pytest.fixture
def weft(capsys):
    """`weft ARGUMENTS` in this process: exit code, stdout, stderr."""

    def call(*arguments):
        code = run(arguments)
        said = capsys.readouterr()
        return int(code), said.out, said.err

    return call


def spawn(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "node.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["models"],
        ["ps"],
        ["memory"],
        ["peers"],
        ["invite"],
        ["plan", "m"],
        ["ping", "/ip4/127.0.0.1/tcp/1"],
        ["offer", "m"],
        ["run", "m", "hi"],
        ["down"],
    ],
)
def test_without_a_daemon_every_verb_exits_3_and_says_how_to_start_one(home, weft, arguments):
    assert weft(*arguments) == (3, "", f"weft: no daemon at {home.socket}. Start one with 'weft up'.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["offer"],
        ["run"],
        ["run", "m", "p", "--max-tokens", "0"],
        ["run", "m", "p", "--top-p", "0"],
        ["run", "m", "p", "--presence-penalty", "3"],
        ["run", "m", "p", "--logit-bias", "five=1"],
        ["run", "m", "p", "--logit-bias", "5=101"],
        ["run", "m", "p", "--logit-bias", "5=nan"],
        ["run", "m", "p", "--logprobs", "3"],
        ["run", "m", "p", "--json-schema", "/nowhere/at/all"],
        ["invite", "--ttl", "soon"],
        ["invite", "--uses", "0"],
        ["ping"],
        ["ping", "/ip4/127.0.0.1/tcp/1", "-c", "65"],
        ["status", "--jsno"],
    ],
)
def test_wrong_usage_exits_2_with_one_line(home, weft, arguments):
    code, out, err = weft(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("weft: ")
    assert err.count("\n") == 1


def test_help_lists_every_verb_without_importing_them(weft):
    code, out, _ = weft("--help")
    assert code == 0
    for verb in (
        "up",
        "down",
        "status",
        "invite",
        "models",
        "import",
        "offer",
        "plan",
        "run",
        "ps",
        "memory",
        "peers",
        "ping",
        "version",
        "demo",
    ):
        assert f"\n  {verb} " in out
    assert "node.cli.demo" not in sys.modules


def test_version_needs_no_daemon(weft):
    code, out, _ = weft("version", "--json")
    assert (code, list(json.loads(out))) == (0, ["version"])
    assert weft("--version")[1] == weft("version")[1]


def test_status_for_people_and_for_programs(node, weft):
    code, out, _ = weft("status")
    assert code == 0
    assert out.startswith("weft ")
    for part in (
        ": ready, up",
        PEER,
        "bert (FakeBBBB)",
        "down",
        "4747",
        "exact",
        "/weft/noise-xk/1",
        "3.0 GiB free",
    ):
        assert part in out
    code, out, _ = weft("status", "--json")
    status = json.loads(out)
    assert code == 0
    assert {
        "state",
        "version",
        "pid",
        "uptime_s",
        "home",
        "http",
        "peer",
        "name",
        "network",
        "addresses",
    } < set(status)
    assert {"members", "shards", "worker", "connections"} < set(status)
    assert weft("status", "-q") == (0, "", "")


def test_status_tells_what_was_refused_in_one_line_if_there_was_anything(node, weft):
    assert "refused" not in weft("status")[1]
    assert json.loads(weft("status", "--json")[1])["faults"] == {}
    node.faults = {"Disconnected": 40, "gossip forged": 3, "Unauthenticated": 12, "gossip replayed": 7}
    last = weft("status")[1].splitlines()[-1]
    assert last == "refused so far: 12 Unauthenticated, 3 gossip forged"
    assert json.loads(weft("status", "--json")[1])["faults"] == node.faults


def test_status_says_what_to_do_about_a_wrong_clock_and_a_copied_key(node, weft):
    node.faults = {"gossip contested": 1}
    assert "stop one of them" in weft("status")[1].splitlines()[-1]
    node.faults = {"gossip future": 2}
    assert weft("status")[1].splitlines()[-1] == (
        "clock: others date what they say more than 10 min ahead of this node's clock; "
        "set it if it is wrong, else theirs"
    )
    node.faults = {"gossip ahead": 2}
    told = weft("status")[1]
    assert "more than 30 s ahead of this node's clock" in told.splitlines()[-1]
    assert "refused so far" not in told


def test_status_of_a_draining_daemon_exits_1(node, weft):
    node.lifecycle.state = type(node.lifecycle.state).DRAINING
    assert weft("status", "-q")[0] == 1


def test_read_verbs_have_text_and_json(node, weft):
    assert "0-3: anna" in weft("models")[1]
    assert json.loads(weft("models", "--json")[1])["models"][0]["digest"] == DIGEST
    assert "none" in weft("plan", "tiny")[1]
    assert json.loads(weft("plan", "tiny", "--json")[1])["token_ms"] == 12.5
    assert weft("ps") == (0, "", "No generation is under way.\n")
    assert json.loads(weft("ps", "--json")[1]) == {"sessions": []}
    node.running = 1
    assert "anna 0-3 > bert 4-7" in weft("ps")[1]
    node.running = 0


def test_memory_is_a_table_of_what_weights_and_sessions_take(node, weft):
    assert weft("memory")[1].splitlines() == [
        "memory   normal",
        "machine  6.0 GiB available of 16.0 GiB",
        "worker   pid 4711, 1.4 GiB resident, 1.2 GiB of them its own; at most 5.0 GiB",
        "budget   4.0 GiB: 1.0 GiB weights, 64 MiB reserved by sessions (16 MiB used), 2.0 GiB free (96 MiB hold prompts for later sessions)",
        "shards:",
        "  model  layers  weights  sessions  reserved  used",
        "  tiny   0-3     1.0 GiB  2         64 MiB    16 MiB",
        "sessions:",
        "  session                    model  layers  reserved  used",
        "  cdcdcdcd                   tiny   0-3     32 MiB    12 MiB",
        "  cdcdcdcd (not known here)  tiny   0-3     32 MiB    4 MiB",
    ]
    found = json.loads(weft("memory", "--json")[1])
    assert (found["level"], found["worker"]["free_bytes"], len(found["caches"])) == ("normal", 2 << 30, 2)


def test_memory_that_is_short_says_so_first_and_what_the_node_does_about_it(node, weft):
    assert "\nmemory" not in weft("status")[1]
    node.is_short = True
    assert "\nmemory   it is short of memory: see 'weft memory'\n" in weft("status")[1]
    first, second, third, *_, last = weft("memory")[1].splitlines()
    assert first.startswith("memory   high: it is short of memory: 600 MiB of")
    assert second.strip() == "it opens no more sessions and takes no more layers"
    assert third.startswith("group    6.0 GiB available")
    assert last == "closed so far, for want of a session: 3 caches"


def test_peers_are_a_table_with_what_each_does_and_how_it_is(node, weft):
    code, out, err = weft("peers")
    assert (code, err) == (0, "")
    heads, anna, bert = out.splitlines()
    assert heads.split()[:5] == ["peer", "state", "score", "served", "failed"]
    assert anna.startswith("anna (")
    assert "  up     1.00   0 " in anna
    assert "50%   3 ms  1.0 GiB of 4.0 GiB" in anna
    assert "  down   0.62   12.5 " in bert
    assert bert.endswith("1.2 ms  tiny 4-7, tiny 0-3 (standby)")
    listed = json.loads(weft("peers", "--json")[1])["peers"]
    assert [each["name"] for each in listed] == ["anna", "bert"]
    assert listed[1]["health"] is None


def test_why_gives_the_evidence_on_a_peer_in_sentences(node, weft):
    code, out, _ = weft("peers", "--why", "bert")
    assert code == 0
    assert "score 0.62, so that it is chosen as if it were 1.6 times slower" in out
    assert "2027-01-15 08:00:00 UTC: it failed (session 1a2b3c4d: silent for 1.2 s)" in out
    assert "counts for 4 of 8, as it agreed with this node on 2 of 2 peers that both know\n" in out
    assert "together with all whom dora brought in" in out
    assert "counts for nothing, as it agreed with this node on 0 of 3 peers" in out
    assert "counts for nothing, as it has not yet agreed with anything" in out
    found = json.loads(weft("peers", "--why", "bert", "--json")[1])
    assert (found["peer"]["name"], found["facets"][0]["own_bad"]) == ("bert", 3.0)


def test_an_unknown_peer_is_one_line_that_says_where_to_look(node, weft):
    line = "weft: no member is called 'zoe': 'weft peers' lists them.\n"
    assert weft("peers", "--why", "zoe") == (1, "", line)


def test_a_revocation_says_who_is_out_and_who_else(node, weft):
    code, out, err = weft("revoke", "bert")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith("is no member any more; the others are being told.")
    assert "needs a new home and a new invite" in out
    assert "With it went whom it had invited: anna" in out
    assert json.loads(weft("revoke", "bert", "--json")[1])["below"][0]["name"] == "anna"
    code, out, err = weft("revoke", "carl")
    assert (code, out) == (4, "")
    assert "run 'weft revoke' on one of anna" in err


def test_an_invite_is_alone_on_stdout(node, weft):
    code, out, err = weft("invite", "--uses", "2", "--ttl", "90m")
    assert (code, out) == (0, "weft1.2.5400\n")
    assert "weft up --join" in err
    assert json.loads(weft("invite", "--json")[1])["ttl_s"] == 86_400


def test_an_offer_tells_each_phase_once_and_then_the_plan(node, weft):
    code, out, err = weft("offer", "weft-tiny", "--name", "t", "--on", "bert")
    assert code == 0
    assert err.splitlines() == [
        f"bert (FakeBBBB): layers 4-7: {phase}, 1 KiB" for phase in ("fetching", "loading", "claimed")
    ]
    assert "tiny (abababab): 8 layers" in out
    assert node.offers == [("weft-tiny", "t", ("bert",))]
    assert json.loads(weft("offer", "weft-tiny", "--json")[1])["ranges"]


def test_an_offer_and_a_plan_carry_their_goal(node, weft):
    wanted = ("--replicas", "3", "--strategy", "interactive", "--standby", "hot")
    assert weft("offer", "weft-tiny", *wanted)[0] == 0
    assert weft("plan", "tiny", *wanted)[0] == 0
    assert [(each.replicas, each.strategy, each.standby) for each in (node.goals[0], node.goals[-1])] == [
        (3, "interactive", "hot")
    ] * 2
    for wrong in (("--replicas", "0"), ("--strategy", "quick"), ("--standby", "warm")):
        assert weft("offer", "weft-tiny", *wrong)[0] == 2


def test_a_ping_tells_what_the_peer_is_and_how_fast_it_was(node, weft):
    code, out, err = weft("ping", "/ip4/127.0.0.1/tcp/4001", "-c", "3")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{OTHER} is js-libp2p/3.3.11",
        "  1: 3.25 ms",
        "  2: 1.50 ms",
        "  3: 2.00 ms",
        "  least 1.50 ms, median 2.00 ms, most 3.25 ms",
    ]
    assert "is of unknown make\n" in weft("ping", "/ip4/127.0.0.1/tcp/9999")[1]
    found = json.loads(weft("ping", "/ip4/127.0.0.1/tcp/4001", "--json")[1])
    assert found == {"peer": OTHER, "agent": "js-libp2p/3.3.11", "rtts_ms": [3.25, 1.5, 2.0]}


def test_where_foreign_peers_are_not_allowed_a_ping_names_the_option(node, weft):
    code, out, err = weft("ping", "nonsense")
    assert (code, out) == (ExitCode.REFUSED, "")
    assert "mesh.foreign_listen" in err


def test_a_plan_tells_why_range_by_range(node, weft):
    _, out, _ = weft("plan", "tiny", "--why")
    assert "layers 0-3 on anna" in out
    assert "4.00 ms + 0.00 ms to get there" in out
    assert "mapped standby bert" in out
    assert "a pause of about 1.8 s, packed when it has to serve" in out
    assert "no standby: if it is lost, this node loads the range itself" in out
    assert "holds no range of its own: its operator lets it hold no layers" in out
    assert "1 of 2 ranges has no standby" in out
    assert "why" not in weft("plan", "tiny")[1]
    assert json.loads(weft("plan", "tiny", "--json")[1])["ranges"][0]["standbys"][0]["kind"] == "mapped"


def test_a_withdrawal_tells_what_became_of_every_range(node, weft):
    code, out, err = weft("withdraw", "tiny")
    assert (code, err) == (0, "")
    assert "no longer served" in out
    assert "released" in out
    assert "not free yet: no answer within 60 s" in out
    assert "nobody held any of it" in weft("withdraw", "hold")[1]
    assert len(json.loads(weft("withdraw", "tiny", "--json")[1])["ranges"]) == 2
    code, out, err = weft("withdraw", "unheard-of")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1


def test_an_offered_folder_is_made_absolute(node, weft, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    weft("offer", "llama")
    weft("offer", "./nowhere")
    assert [path for path, _, _ in node.offers] == [str(tmp_path / "llama"), str(tmp_path / "nowhere")]


def test_an_error_is_one_line_and_its_exit_code(node, weft):
    assert weft("offer", "missing") == (
        1,
        "",
        "weft: There is no model folder 'missing': give a path, or weft-tiny.\n",
    )
    assert weft("run", "refused", "hi")[0] == 4
    assert weft("run", "timed-out", "hi")[0] == 124
    code, out, err = weft("run", "late-no-route", "hi there")
    assert (code, out) == (1, "hi")
    assert err.startswith("weft: No standby is left")


def test_a_run_prints_the_text_and_passes_its_options_on(node, weft):
    options = ["--max-tokens", "9", "--temperature", "0.5", "--top-k", "4", "--top-p", "0.9", "--seed", "7"]
    code, out, err = weft("run", "tiny", "one two", *options, "--stop", "x", "--stop", "y")
    assert (code, out, err) == (0, "one two\n", "")
    [request] = node.requests
    assert request.messages[0].content == "one two"
    assert (request.max_tokens, request.temperature, request.top_k) == (9, 0.5, 4)
    assert (request.top_p, request.seed, request.stop) == (0.9, 7, ("x", "y"))


def test_a_run_passes_every_way_of_drawing_on(node, weft, tmp_path):
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    options = [
        "--min-p",
        "0.1",
        "--repetition-penalty",
        "1.2",
        "--frequency-penalty",
        "-1",
        "--presence-penalty",
        "2",
    ]
    options += [
        "--logit-bias",
        "5=-100",
        "--logit-bias",
        "7=2.5",
        "--json-schema",
        str(tmp_path / "schema.json"),
    ]
    assert weft("run", "tiny", "one", *options)[0] == 0
    assert weft("run", "tiny", "one")[0] == 0
    request, plain = node.requests
    assert (request.min_p, request.repetition_penalty) == (0.1, 1.2)
    assert (request.frequency_penalty, request.presence_penalty) == (-1, 2)
    assert (request.logit_bias, request.json_schema) == ({5: -100, 7: 2.5}, '{"type": "object"}')
    assert (plain.logit_bias, plain.json_schema, plain.logprobs) == ({}, "", None)


def test_a_run_as_json_has_logprobs_beside_each_token(node, weft):
    _, out, _ = weft("run", "tiny", "one two", "--json", "--logprobs", "1")
    events = [json.loads(line) for line in out.splitlines()]
    told = [event["logprobs"] for event in events if event["kind"] == "token"]
    assert [[each["text"] for each in logprobs] for logprobs in told] == [["one"], [" two"]]
    assert [len(logprobs[0]["likeliest"]) for logprobs in told] == [1, 1]


def test_a_raw_run_sends_the_prompt_as_it_is(node, weft):
    weft("run", "tiny", "one", "--raw")
    assert node.requests[0].prompt == "one"
    assert node.requests[0].messages is None


def test_a_run_as_json_is_one_event_a_line(node, weft):
    _, out, _ = weft("run", "moved", "one two", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["kind"] for event in events] == ["started", "token", "rerouted", "token", "finished"]
    assert events[-1]["text"] == "one two"


def test_a_reroute_is_noted_on_stderr(node, weft):
    code, out, err = weft("run", "moved", "one two")
    assert (code, out) == (0, "one two\n")
    assert err == (
        "weft: bert (FakeBBBB) was lost: layers 4-7 are on anna (FakeAAAA) now, 96 rows replayed, 812 ms.\n"
    )


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_a_piped_prompt_is_read(node, arguments):
    with spawn("run", "tiny", *arguments, stdin=subprocess.PIPE) as process:
        out, err = process.communicate("from a pipe\n", WAIT_S)
    assert (process.returncode, out, err) == (0, "from a pipe\n", "")


@pytest.mark.parametrize(
    ("data", "said"), [(b"\xff\xfe", "not UTF-8"), (b"x" * 600_000, "give a shorter one")]
)
def test_a_piped_prompt_that_cannot_be_sent_is_told(node, weft, monkeypatch, data, said):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, _, err = weft("run", "tiny")
    assert code == 1
    assert said in err


def test_a_terminal_without_a_prompt_is_asked_for_one(node):
    ours, theirs = pty.openpty()
    try:
        with spawn("run", "tiny", stdin=theirs) as process:
            _, err = process.communicate(timeout=WAIT_S)
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 2
    assert "Give a prompt, or pipe one in." in err


def test_ctrl_c_cancels_the_generation_and_exits_130(node):
    with spawn("run", "hold", "one two", stdin=subprocess.DEVNULL) as process:
        assert process.stdout.read(3) == "one"
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        assert "Traceback" not in process.stderr.read()
    assert node.cancelled.wait(WAIT_S)


def test_ctrl_c_withdraws_an_offer(node, tmp_path):
    with spawn("offer", "hold", stdin=subprocess.DEVNULL) as process:
        assert "fetching" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
    assert node.cancelled.wait(WAIT_S)


def test_a_reader_that_leaves_ends_the_run_quietly(node):
    with spawn("run", "tiny", "--raw", "word " * 20_000, stdin=subprocess.DEVNULL) as process:
        process.stdout.read(3)
        process.stdout.close()
        assert process.wait(WAIT_S) == 1
        assert process.stderr.read() == ""


def test_bars_are_drawn_on_a_terminal_only(node):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "node.cli.main", "offer", "weft-tiny"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        process.wait(WAIT_S)
    os.close(theirs)
    drawn = os.read(ours, 65_536).decode()
    os.close(ours)
    assert "[############............]  50%" in drawn
    assert "[########################] 100%" in drawn
    assert "\x1b[1A" in drawn


def test_no_verb_but_up_imports_what_is_slow(node):
    """The command's start is felt at every call: click, json and socket are all it may load."""
    script = """
import sys
from node.cli.main import run
for line in (["status"], ["models"], ["ps"], ["memory"], ["peers"], ["peers", "--why", "bert"], ["plan", "tiny"], ["ping", "/ip4/1"], ["invite"], ["offer", "weft-tiny"],
             ["run", "tiny", "hi"], ["version"], ["--help"], ["nonsense"]):
    run(line)
slow = {"torch", "trio", "libp2p", "msgspec", "structlog", "starlette", "hypercorn", "numpy", "asyncio", "rich"}
print(sorted(slow & set(sys.modules)), file=sys.__stderr__)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT_S)
    assert found.stderr.splitlines()[-1] == "[]"
