"""Plants a bug into the product while it is imported: a piece of source is replaced, in memory only.

`WEFT_MUTANT=NAME` with `tests/mutants/site` on the path plants it into every process that is started; several, with commas
between, to see whether tests that notice none of them may be asked of all at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class Mutant:
    """In the file at `path`, `old`, which is there once, becomes `new`. `breaks` says what is wrong then.

    `survives`: all tests outside tests/simulations pass with it, see `python -m tests.mutants --survival`.
    """

    name: str
    path: str
    old: str
    new: str
    breaks: str
    survives: bool = False

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").replace("/", ".")

    def planted(self, source: str) -> str:
        """Raises `ValueError` if the catalogue is older than the code."""
        if source.count(self.old) != 1:
            raise ValueError(f"mutant {self.name}: {self.path} has its text {source.count(self.old)} times")
        return source.replace(self.old, self.new)


class _Loader(SourceFileLoader):
    def __init__(self, mutants: Sequence[Mutant]) -> None:
        super().__init__(mutants[0].module, str(ROOT / mutants[0].path))
        self._mutants = mutants

    def get_code(self, fullname: str) -> CodeType:
        """Never from or into the cache of byte code."""
        source = Path(self.path).read_text("utf-8")
        for mutant in self._mutants:
            source = mutant.planted(source)
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, mutants: Sequence[Mutant]) -> None:
        self._mutants = mutants

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        mutants = [mutant for mutant in self._mutants if mutant.module == fullname]
        if not mutants:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = _Loader(mutants)
        return spec


def plant(*mutants: Mutant) -> None:
    """From now on this process has the bugs; their modules must not be imported yet."""
    for mutant in mutants:
        if mutant.module in sys.modules:
            raise ValueError(f"{mutant.module} is imported already")
    sys.meta_path.insert(0, _Finder(mutants))
