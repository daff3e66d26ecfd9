"""`weft demo --once --json`: what its last line promises."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.e2e.commands import clean_environment

DEMO_S = 240.0  # a minute on a machine that does nothing else
TOKENS_MIN = 120
FAILOVER_MS_MAX = 3000


def test_the_demo_tells_a_story_that_holds():
    done = subprocess.run(
        [sys.executable, "-P", "-m", "node.cli.main", "demo", "--once", "--json"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEMO_S, check=False,
        env=clean_environment({}),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["nodes"] == 3
    assert len(told["ranges"]) >= 2
    assert told["tokens"] >= TOKENS_MIN
    assert 0 < told["failover_ms"] <= FAILOVER_MS_MAX
    assert told["identical"] is True
    assert told["right"] is True
    assert len(told["rebuilt_on"]) >= 2
    assert told["replayed_rows"] > 0
    assert min(told["ttft_ms"], told["tokens_per_s"], told["seconds"]) > 0
    assert set(told["security"]) == {"/weft/noise-xk/1"}
