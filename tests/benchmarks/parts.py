"""Benchmarks that consist of parts: one that can't be measured says why and does not keep the others from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from protocols.errors import Unavailable, WeftError
from tests.benchmarks.figures import Figure

Say = Callable[[str], None]
Part = Callable[[Say], Iterator[Figure]]


class PartsFailed(Unavailable):
    """Names those of which there are no figures, or not all."""


def run_parts(benchmark: str, parts: Mapping[str, Part], say: Say) -> Iterator[Figure]:
    """Figures as they become known. Raises `PartsFailed` after the last part if one failed."""
    failed = []
    for name, part in parts.items():
        say(f"{benchmark}:{name}")
        try:
            yield from part(say)
        except (WeftError, OSError) as error:
            say(f"{benchmark}:{name} failed: {error}")
            failed.append(f"{benchmark}:{name}")
    if failed:
        raise PartsFailed(f"not everything was measured, repeat {', '.join(failed)}")
