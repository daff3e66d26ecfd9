"""Read by every Python process that has this folder on its path: plants the bug that `WEFT_MUTANT` names."""

import os
import sys
from pathlib import Path

if "WEFT_MUTANT" in os.environ:
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from tests.mutants.catalogue import MUTANTS
    from tests.mutants.planting import plant

    plant(*(MUTANTS[name] for name in os.environ["WEFT_MUTANT"].split(",")))
