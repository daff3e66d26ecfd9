"""The models that simulated meshes serve, and what each answers where nothing goes wrong.

The arithmetic one has real files, of the width that the virtual worker computes with; the other is the embedded weft-tiny.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from inference.model.config_json import parse_config
from inference.model.text import Text
from inference.model.tiny import MODEL_DIR
from node.library import EMBEDDED
from protocols.placement import LayerRange
from protocols.session import Sampling
from simulations.machine.arithmetic import VOCABULARY, WIDTH, answering
from simulations.machine.engine_worker import torch_engines, whole_answer
from simulations.machine.worker import MakeEngines
from simulations.scenarios.script import Request, Script

NAME: Final = "model"
CONTEXT: Final = 8192


class Answer:
    """The tokens of one faultless answer, computed as far as somebody has asked for them."""

    def __init__(self, tokens: Iterator[int]) -> None:
        self._tokens = tokens
        self._known: list[int] = []

    def at(self, place: int) -> int | None:
        """None behind its end."""
        while len(self._known) <= place:
            token = next(self._tokens, None)
            if token is None:
                return None
            self._known.append(token)
        return self._known[place]

    def first(self, count: int) -> list[int]:
        """As many, or fewer if the answer ends before."""
        if count:
            self.at(count - 1)
        return self._known[:count]


class ServedModel(Protocol):
    """What a mesh is offered, and what its clients should hear."""

    name: str
    engines: MakeEngines | None  # None: the arithmetic

    def offered(self) -> str:
        """A path or name for `node.api.NodeApi.offer`."""

    def answer(self, request: Request) -> Answer: ...


def make_model(script: Script, root: Path) -> ServedModel:
    """`root` is where its files may be written."""
    return TinyModel() if script.engine == "torch" else ArithmeticModel(root / "model", script.layers)


class ArithmeticModel:
    """Implements `ServedModel`."""

    name = NAME
    engines: MakeEngines | None = None

    def __init__(self, folder: Path, layers: int) -> None:
        self._folder = folder
        self._layers = layers
        self._answers: dict[tuple[str, Sampling], Answer] = {}

    def offered(self) -> str:
        if not self._folder.exists():
            write_model(self._folder, self._layers)
        return str(self._folder)

    def answer(self, request: Request) -> Answer:
        key = request.prompt, _sampling(request)
        if key not in self._answers:
            self._answers[key] = Answer(answering(encode(request.prompt), self._layers, key[1]))
        return self._answers[key]


class TinyModel:
    """Implements `ServedModel` with the model that comes with weft."""

    name = EMBEDDED
    engines: MakeEngines | None = staticmethod(torch_engines)

    def __init__(self) -> None:
        self._text = Text({path.name: path.read_bytes() for path in MODEL_DIR.glob("*.json")})
        self._answers: dict[Request, Answer] = {}

    def offered(self) -> str:
        return EMBEDDED

    def answer(self, request: Request) -> Answer:
        if request not in self._answers:
            self._answers[request] = Answer(self._tokens(request))
        return self._answers[request]

    def _tokens(self, request: Request) -> Iterator[int]:
        prompt = tuple(self._text.encode(request.prompt))
        yield from whole_answer(prompt, request.tokens, _sampling(request), self._text.eos_ids)


def _sampling(request: Request) -> Sampling:
    return Sampling(request.temperature, 0, 1.0, request.seed)


# Files of the arithmetic model ---------------------------------------------------------------------------------------


def write_model(folder: Path, layers: int) -> Path:
    """A Hugging Face folder whose weights are zeros that nobody reads; a token is a byte of the prompt."""
    folder.mkdir(parents=True)
    config = json.dumps(_config(layers))
    (folder / "config.json").write_text(config)
    parsed = parse_config(config.encode())
    names = parsed.tensor_names(LayerRange(0, layers))
    save_file(
        {name: np.zeros(parsed.expected_shape(name), np.float32) for name in names},
        folder / "model.safetensors",
    )
    _tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def encode(prompt: str) -> tuple[int, ...]:
    """The tokens of a prompt, as every node of the mesh has them."""
    return tuple(_tokenizer().encode(prompt).ids)


@cache
def _tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _config(layers: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 8,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "eos_token_id": None,
    }
