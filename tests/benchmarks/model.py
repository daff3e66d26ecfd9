"""Random models to measure with: real sizes, real files, words without meaning.

Weights are drawn from a seed, so that every machine measures the same bits, and the folder is kept for later runs. Token i is
the word "wi", so that a prompt can be written as ids. No token ends a text: a run is as long as it was asked to be.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from inference.model.config_json import parse_config

SEED: Final = 2
SPREAD: Final = (
    1.5  # of a matrix row's norm: logits differ clearly, so that a wrong row shows as another token
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """With the names of config.json."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int


LLAMA_100M: Final = Sizes(768, 14, 2048, 12, 4, 64, 8192, 256)
WIDE: Final = Sizes(
    4096, 3, 16, 4, 1, 16, 512, 1024
)  # a row of 8 KiB in bf16, and next to nothing to compute


def model_folder(name: str, sizes: Sizes) -> Path:
    """The folder of that model, written if it is not there yet."""
    described = json.dumps([asdict(sizes), SEED, SPREAD])
    folder = _cache() / name
    if _described(folder) == described:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as writing:
        fresh = Path(writing) / name
        fresh.mkdir()
        write_model(fresh, sizes)
        (fresh / "weft-bench.json").write_text(described)
        fresh.rename(folder)
    return folder


def write_model(folder: Path, sizes: Sizes) -> None:
    """A folder as Hugging Face has them: Llama, untied, bf16."""
    import torch
    from safetensors.torch import save_file

    encoded = json.dumps(_config(sizes), indent=2)
    config = parse_config(encoded.encode())
    generator = torch.Generator().manual_seed(SEED)

    def weight(shape: tuple[int, ...]) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator)
        scaled = drawn * (SPREAD * shape[-1] ** -0.5) if len(shape) > 1 else 1 + 0.1 * drawn
        return scaled.to(torch.bfloat16)

    names = config.tensor_names(config.whole)
    save_file({name: weight(config.expected_shape(name)) for name in names}, folder / "model.safetensors")
    (folder / "config.json").write_text(encoded)
    _write_tokenizer(folder / "tokenizer.json", sizes.vocab_size)


def prompt_of(ids: Iterable[int]) -> str:
    """The text that is tokenised to these ids."""
    return " ".join(f"w{token}" for token in ids)


def _config(sizes: Sizes) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        **asdict(sizes),
    }


def _write_tokenizer(path: Path, vocabulary: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{token}": token for token in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(path))


def _described(folder: Path) -> str:
    try:
        return (folder / "weft-bench.json").read_text()
    except FileNotFoundError:
        return ""


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weft-bench"
