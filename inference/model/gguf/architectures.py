"""The architectures of GGUF files that weft takes: what llama.cpp calls their tensors, and how it changes them.

llama.cpp turns neighbouring dimensions of a head where Hugging Face turns the two halves, and orders the rows of queries and
keys of the Llamas for that; the other architectures are turned by halves there too. The norms of the Gemmas have their one
added. A mixture of experts is one tensor for all experts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from inference.model.config import EMBEDDING, HEAD, NORM
from inference.model.gguf.file import GgufFile
from protocols.errors import UserError

INPUT: Final = "token_embd.weight"
OUTPUT: Final = "output.weight"
_ENDS: Final = {EMBEDDING: INPUT, HEAD: OUTPUT, NORM: "output_norm.weight"}
_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_EXPERT: Final = re.compile(r"(.+\.experts)\.(\d+)\.(.+)")

_ATTENTION: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
_FFN: Final = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
_HEAD_NORMS: Final = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_AFTER_NORMS: Final = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_LLAMA: Final = {**_ATTENTION, "post_attention_layernorm": "ffn_norm", **_FFN}
_NO_FFN: Final = {**_ATTENTION, "post_attention_layernorm": "ffn_norm"}


@dataclass(frozen=True, slots=True)
class Architecture:
    """`parts` are the parts of a layer, from their names in Hugging Face folders to those in GGUF files."""

    name: str
    hugging_face: str
    model_type: str
    parts: Mapping[str, str]
    turns_neighbours: bool = False
    adds_one_to_norms: bool = False

    def source_of(self, name: str) -> tuple[str, int | None]:
        """The tensor of the file for one of the folder, and which expert's part of it that is."""
        if name in _ENDS:
            return _ENDS[name], None
        found = _LAYER.fullmatch(name)
        assert found is not None, name
        layer, part, kind = found.groups()
        expert = _EXPERT.fullmatch(part)
        if expert is not None:
            block, number, part = expert.groups()
            return f"blk.{layer}.{self.parts[f'{block}.{part}']}.{kind}", int(number)
        return f"blk.{layer}.{self.parts[part]}.{kind}", None

    def is_interleaved(self, name: str) -> bool:
        """Whether the rows of the tensor are ordered for turning neighbours."""
        return self.turns_neighbours and (".q_proj." in name or ".k_proj." in name)

    def has_one_added(self, name: str) -> bool:
        return self.adds_one_to_norms and name.endswith("norm.weight")


_MIXTRAL: Final = {
    **_NO_FFN,
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.experts.w1": "ffn_gate_exps",
    "block_sparse_moe.experts.w3": "ffn_up_exps",
    "block_sparse_moe.experts.w2": "ffn_down_exps",
}
_QWEN3_MOE: Final = {
    **_NO_FFN,
    **_HEAD_NORMS,
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
_PHI3: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA: Final = {**_ATTENTION, **_AFTER_NORMS, **_FFN}

ARCHITECTURES: Final = (
    Architecture("llama", "LlamaForCausalLM", "llama", _LLAMA, turns_neighbours=True),
    Architecture("qwen2", "Qwen2ForCausalLM", "qwen2", _LLAMA),
    Architecture("qwen3", "Qwen3ForCausalLM", "qwen3", {**_LLAMA, **_HEAD_NORMS}),
    Architecture("qwen3moe", "Qwen3MoeForCausalLM", "qwen3_moe", _QWEN3_MOE),
    Architecture("gemma2", "Gemma2ForCausalLM", "gemma2", _GEMMA, adds_one_to_norms=True),
    Architecture(
        "gemma3", "Gemma3ForCausalLM", "gemma3_text", {**_GEMMA, **_HEAD_NORMS}, adds_one_to_norms=True
    ),
    Architecture("phi3", "Phi3ForCausalLM", "phi3", _PHI3),
)
# A mixture of experts says in its file that it is a Llama, and so does a Mistral, which then is one, with no window.
_OF_EXPERTS: Final = Architecture("llama", "MixtralForCausalLM", "mixtral", _MIXTRAL, turns_neighbours=True)


def architecture_of(file: GgufFile) -> Architecture:
    """Raises `UserError` for one that weft does not run."""
    named = file.metadata.need("general.architecture", str)
    known = {each.name: each for each in ARCHITECTURES}
    if named not in known:
        raise UserError(
            f"{file.path} holds a model of architecture {named[:64]!r}, and weft imports {', '.join(known)}:"
            " choose another model"
        )
    if named == "llama" and (file.metadata.find("llama.expert_count", int) or 0) > 0:
        return _OF_EXPERTS
    return known[named]
