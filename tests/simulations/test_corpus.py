"""Every script that once found a bug is run again, and finds none."""

from __future__ import annotations

import pytest

from simulations.running.corpus import FOLDER, load_all
from simulations.running.failure import failure_text, run_command
from simulations.running.run import run_script

CORPUS = load_all()
TABLE = (FOLDER.parent / "BUGS.md").read_text("utf-8")


@pytest.mark.parametrize("name", CORPUS)
def test_a_script_that_once_failed_is_good_now(name):
    outcome = run_script(CORPUS[name].script)
    assert outcome.is_good, failure_text(outcome, run_command(str(FOLDER / f"{name}.json")))


@pytest.mark.parametrize("name", CORPUS)
def test_every_script_of_the_corpus_names_its_bug_and_has_its_row(name):
    kept = CORPUS[name]
    assert kept.bug
    assert kept.invariant
    assert f"| {name}" in TABLE
