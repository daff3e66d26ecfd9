"""The catalogue fits the code, and what it plants is really there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

from tests.mutants.catalogue import MUTANTS
from tests.mutants.planting import ROOT, Mutant

EACH = pytest.mark.parametrize("mutant", MUTANTS.values(), ids=list(MUTANTS))


def test_there_are_bugs_enough() -> None:
    assert len(MUTANTS) >= 25


@EACH
def test_a_mutant_fits_the_code_and_is_python(mutant: Mutant) -> None:
    ast.parse(mutant.planted((ROOT / mutant.path).read_text("utf-8")))


def test_a_process_has_the_bug_that_its_environment_names() -> None:
    asked = "from mesh.liveness.suspicion import Suspicion; print(Suspicion._needed.__code__.co_names)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests/mutants/site"), "WEFT_MUTANT": ""}
    del environment["WEFT_MUTANT"]
    usual = _output(asked, environment)
    assert _output(asked, environment | {"WEFT_MUTANT": "one-monitor-is-enough"}) != usual
    # Beside others, of the same file and of another one.
    several = "incarnation-not-persisted,tombstone-forgotten,one-monitor-is-enough"
    assert _output(asked, environment | {"WEFT_MUTANT": several}) != usual


def _output(code: str, environment: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
