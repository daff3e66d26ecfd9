"""Small models as llama.cpp's converter writes them, with the `gguf` package, and the same as Hugging Face folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import MODEL_ARCH, GGUFWriter
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from safetensors.torch import save_file

from inference.model.config import ModelConfig
from inference.model.config_json import parse_config
from tests.inference.model.folders import byte_tokenizer

LAYERS = 3
EOS = 258
SIZES: dict[str, Any] = {
    "vocab_size": 259,  # a token per byte, two merges and an end
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "eos_token_id": EOS,
}
_GEMMA = {
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "sliding_window": 12,
    "query_pre_attn_scalar": 32,
}
# By the names of GGUF files, but for Mixtral, which is a Llama there.
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "mixtral": {"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "head_dim": 16, "tie_word_embeddings": True},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"]},
    "qwen3moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    },
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        **_GEMMA,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"],
        **_GEMMA,
        "sliding_window_pattern": 6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
    "phi3": {
        "architectures": ["Phi3ForCausalLM"],
        "head_dim": 16,
        "sliding_window": 12,
        "partial_rotary_factor": 0.75,
    },
}
FOR_LLAMA = ("llama", "mixtral")


@dataclass
class Model:
    """`settings` are a config.json, `tensors` those of a folder by their names there."""

    name: str
    settings: dict[str, Any]
    tensors: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        return parse_config(json.dumps(self.settings).encode())

    @property
    def gguf_name(self) -> str:
        return "llama" if self.name in FOR_LLAMA else self.name


def random_model(name: str, **changes: Any) -> Model:
    model = Model(name, {**SIZES, **MODELS[name], **changes})
    rng = np.random.default_rng(3)
    for tensor in model.config.tensor_names(model.config.whole):
        shape = model.config.expected_shape(tensor)
        middle = 1.0 if tensor.endswith("norm.weight") and not name.startswith("gemma") else 0.0
        spread = 0.3 if len(shape) == 1 else 2.0 / shape[-1] ** 0.5
        model.tensors[tensor] = rng.normal(middle, spread, shape).astype(np.float32)
    return model


def write_gguf(
    path: Path,
    model: Model,
    kind: Type = Type.BF16,
    describe: Callable[[GGUFWriter], None] = lambda _: None,
    **extra: NDArray[np.float32],
) -> Path:
    """`describe` adds values; `extra` are tensors as they are, by names less `.weight`."""
    writer = GGUFWriter(path, model.gguf_name)
    _add_values(writer, model)
    describe(writer)
    for name, weight in _stored(model).items():
        if weight.ndim == 1 or "ffn_gate_inp" in name:
            writer.add_tensor(name, weight.astype(np.float32))
        else:
            writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    for name, weight in extra.items():
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_byte_tokenizer(writer: GGUFWriter) -> None:
    """A token per byte, two merges, and an end."""
    vocabulary = byte_tokenizer().get_vocab()
    tokens = [*sorted(vocabulary, key=vocabulary.__getitem__), "th", "the", "<|end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(["t h", "th e"])
    writer.add_eos_token_id(EOS)


def write_folder(folder: Path, model: Model, kind: Type = Type.BF16) -> Path:
    """What an import of the file has to give."""
    folder.mkdir()
    tensors = {name: expected_bf16(name, weight, kind) for name, weight in model.tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.settings))
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def expected_bf16(name: str, weight: NDArray[np.float32], kind: Type) -> torch.Tensor:
    if weight.ndim > 1 and not name.endswith((".mlp.gate.weight", "block_sparse_moe.gate.weight")):
        weight = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
    return torch.from_numpy(np.ascontiguousarray(weight)).to(torch.bfloat16)


def _add_values(writer: GGUFWriter, model: Model) -> None:
    settings, name = model.settings, model.gguf_name
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(settings["num_attention_heads"])
    writer.add_head_count_kv(settings["num_key_value_heads"])
    writer.add_key_length(settings["head_dim"])
    writer.add_value_length(settings["head_dim"])
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    writer.add_rope_freq_base(settings["rope_theta"])
    writer.add_rope_dimension_count(int(settings["head_dim"] * settings.get("partial_rotary_factor", 1)))
    if settings.get("sliding_window"):
        writer.add_sliding_window(settings["sliding_window"])
    if model.config.design.experts is not None:
        writer.add_expert_count(model.config.design.experts.count)
        writer.add_expert_used_count(model.config.design.experts.chosen)
        writer.add_expert_feed_forward_length(model.config.design.experts.ffn)
    for cap, add in (
        ("attn_logit_softcapping", writer.add_attn_logit_softcapping),
        ("final_logit_softcapping", writer.add_final_logit_softcapping),
    ):
        if settings.get(cap):
            add(settings[cap])
    assert name == writer.arch


def _stored(model: Model) -> dict[str, NDArray[np.float32]]:
    """The tensors under the names, in the order and with the values that llama.cpp wants."""
    (arch,) = (each for each, named in gguf.MODEL_ARCH_NAMES.items() if named == model.gguf_name)
    names = gguf.get_tensor_name_map(MODEL_ARCH(arch), model.settings["num_hidden_layers"])
    stored: dict[str, NDArray[np.float32]] = {}
    experts: dict[str, list[NDArray[np.float32]]] = {}
    for name, weight in model.tensors.items():
        before, dot, after = name.partition(".experts.")
        if dot:
            part = after.partition(".")[2]
            experts.setdefault(f"{before}.experts.{part}", []).append(weight)
            continue
        if model.name in FOR_LLAMA and (".q_proj." in name or ".k_proj." in name):
            weight = _interleaved(weight, model.settings["head_dim"])
        if model.name.startswith("gemma") and name.endswith("norm.weight"):
            weight = weight + 1
        stored[_named(names, name)] = weight
    return stored | {_named(names, name): np.stack(parts) for name, parts in experts.items()}


def _named(names: gguf.TensorNameMap, name: str) -> str:
    named = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert named is not None, name
    return named


def _interleaved(weight: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    shape = weight.shape
    halves = weight.reshape(shape[0] // head_dim, 2, head_dim // 2, *shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(shape))
