"""Plants a bug into the product while it is imported: a piece of source is replaced, in memory only.

`WEFT_MUTANT=NAME` with `tests/mutants/site` on the path plants it into every process that is started.
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
    """In the file at `path`, `old`, which is there once, becomes `new`. `breaks` says what is wrong then."""

    name: str
    path: str
    old: str
    new: str
    breaks: str

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").replace("/", ".")

    def planted(self, source: str) -> str:
        """Raises `ValueError` if the catalogue is older than the code."""
        if source.count(self.old) != 1:
            raise ValueError(f"mutant {self.name}: {self.path} has its text {source.count(self.old)} times")
        return source.replace(self.old, self.new)


class _Loader(SourceFileLoader):
    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.module, str(ROOT / mutant.path))
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        """Never from or into the cache of byte code."""
        source = self._mutant.planted(Path(self.path).read_text("utf-8"))
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = _Loader(self._mutant)
        return spec


def plant(mutant: Mutant) -> None:
    """From now on this process has the bug; its module must not be imported yet."""
    if mutant.module in sys.modules:
        raise ValueError(f"{mutant.module} is imported already")
    sys.meta_path.insert(0, _Finder(mutant))
