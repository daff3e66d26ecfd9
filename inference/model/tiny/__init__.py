"""weft-tiny, the model that weft carries inside: small enough to ship, sure enough to be checked.

Importing this package, or its `tasks`, brings neither torch nor transformers with it: the demo and the command line
ask for prompts and checks long before a worker exists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

MODEL_DIR: Final[Path] = Path(__file__).resolve().parent / "weft-tiny"
