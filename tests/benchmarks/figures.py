"""What a benchmark says: one JSON object per figure, and the ledger that keeps them by commit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

LEDGER: Final = Path(__file__).parent / "ledger.jsonl"


@dataclass(frozen=True, slots=True)
class Figure:
    """`runs` is how many measurements `value` stands for; `spread` whatever else is worth a look."""

    name: str
    value: float
    unit: str
    runs: int
    spread: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> str:
        """One line."""
        said = {"figure": self.name, "value": self.value, "unit": self.unit, "runs": self.runs}
        return json.dumps(said | dict(self.spread))


def figure_of(name: str, values: Sequence[float], share: float, unit: str, digits: int = 3) -> Figure:
    """The percentile `share` (0 to 1) of `values`, with the least and the greatest of them."""
    spread = {"min": round(min(values), digits), "max": round(max(values), digits)}
    return Figure(name, round(percentile(values, share), digits), unit, len(values), spread)


def percentile(values: Sequence[float], share: float) -> float:
    """Of the sorted values, the one at `share` of the way from the first to the last, in between by straight line."""
    assert values
    assert 0 <= share <= 1
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def append_to_ledger(figures: Iterable[Figure], commit: str, path: Path = LEDGER) -> None:
    """One line per figure: what it was at that commit."""
    with path.open("a", encoding="utf-8") as ledger:
        for figure in figures:
            kept = {"figure": figure.name, "value": figure.value, "unit": figure.unit, "commit": commit}
            ledger.write(json.dumps(kept) + "\n")


def commit_of_tree() -> str:
    """The commit that is checked out; with "+" behind it if files differ from it. Raises `OSError` without git."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except subprocess.CalledProcessError as error:
        raise FileNotFoundError("the ledger names commits, and this is no git checkout") from error


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=LEDGER.parent, check=True, capture_output=True, text=True)
    return done.stdout.strip()
