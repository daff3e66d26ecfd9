"""The families of models as a list of what each does otherwise than Llama; no torch here.

Llama is: x + attention(norm(x)), then h + ffn(norm(h)) with a gated silu, no biases, whole heads turned by their position, all
rows before it seen by every row. `Design` has it as its defaults, so that a family is a line of differences. What a single
model may choose within its family (biases, windows, rotary scalings, sizes) comes from its config.json, see config_json.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final


class Activation(Enum):
    """By the names of config.json."""

    SILU = "silu"
    GELU_TANH = "gelu_pytorch_tanh"


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All angles slowed by the factor."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Rotary frequencies stretched by wavelength, as Llama 3.1 does it."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """Slow waves stretched, quick ones kept, a ramp over the dimensions between (YaRN, arXiv 2309.00071)."""

    factor: float
    beta_fast: float
    beta_slow: float
    original_context: int
    is_rounded: bool  # the ends of the ramp, to whole dimensions


@dataclass(frozen=True, slots=True)
class LongScaling:
    """A factor per dimension, and another set of them for sequences past the original context (LongRoPE, arXiv 2402.13753)."""

    short: tuple[float, ...]  # one for every two turned dimensions
    long: tuple[float, ...]
    original_context: int


Scaling = LinearScaling | Llama3Scaling | YarnScaling | LongScaling


@dataclass(frozen=True, slots=True)
class Rope:
    """How queries and keys are turned by their position: the first `turned` dimensions of each head."""

    theta: float
    turned: int
    scaling: Scaling | None = None
    amplitude: float = 1.0  # of cosines and sines


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What layers of one model may differ in. `window`: how many keys a row sees, its own included; 0 for all before it."""

    rope: Rope
    window: int = 0


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """What the tensors are called in the files."""

    block: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts for the ffn: every row goes through `chosen` of `count`, weighed by what the router gives them."""

    count: int
    chosen: int
    ffn: int
    is_normalised: bool  # the weights of the chosen add up to one
    names: ExpertNames


QUERY_KEY_VALUE: Final = frozenset({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"})
ATTENTION: Final = QUERY_KEY_VALUE | {"self_attn.o_proj"}
FFN: Final = frozenset({"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})


@dataclass(frozen=True, slots=True)
class Design:
    """What is computed; the defaults are Llama."""

    activation: Activation = Activation.SILU
    adds_one_to_norms: bool = False  # x * (1 + weight), in float32
    has_after_norms: bool = False  # attention and ffn are normed once more before they are added
    has_head_norms: bool = False  # of every query and key head
    has_scaled_embedding: bool = False  # by sqrt(hidden), rounded to the type of the model
    is_fused: bool = False  # one tensor for query, key and value, one for gate and up
    biased: frozenset[str] = frozenset()  # the products that have a bias
    query_scalar: float | None = None  # scores are divided by its root; None: head_dim
    score_cap: float = 0.0  # scores go through cap * tanh(score / cap); 0: as they are
    logit_cap: float = 0.0
    experts: Experts | None = None


LLAMA: Final = Design()


class Windows(Enum):
    """Which layers have a sliding window where config.json has no `layer_types`."""

    NONE = "none"
    ALL = "all"
    ASKED = "asked"  # all, if `use_sliding_window`
    LATE = "late"  # if `use_sliding_window`, from `max_window_layers` on
    PATTERN = "pattern"  # all but every `sliding_window_pattern`th


@dataclass(frozen=True, slots=True)
class Family:
    """`defaults` are those of transformers for what a config.json leaves out."""

    architecture: str
    model_type: str
    design: Design = LLAMA
    windows: Windows = Windows.NONE
    may_bias: tuple[str, ...] = ()  # settings of config.json that this family follows
    expert_names: ExpertNames | None = None
    has_local_rope: bool = False  # another rotary base where the window slides
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def asks_for_windows(self) -> bool:
        return self.windows in (Windows.ASKED, Windows.LATE)


_GEMMA: Final = Design(
    activation=Activation.GELU_TANH, adds_one_to_norms=True, has_after_norms=True, has_scaled_embedding=True
)
_GEMMA_DEFAULTS: Final = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}

FAMILIES: Final = (
    Family("LlamaForCausalLM", "llama", may_bias=("attention_bias", "mlp_bias")),
    Family(
        "MistralForCausalLM",
        "mistral",
        windows=Windows.ALL,
        defaults={"num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096},
    ),
    Family(
        "Qwen2ForCausalLM",
        "qwen2",
        Design(biased=QUERY_KEY_VALUE),
        windows=Windows.LATE,
        defaults={"max_position_embeddings": 32_768},
    ),
    Family(
        "Qwen3ForCausalLM",
        "qwen3",
        Design(has_head_norms=True),
        windows=Windows.LATE,
        may_bias=("attention_bias",),
        defaults={"head_dim": 128, "max_position_embeddings": 32_768},
    ),
    Family(
        "Gemma2ForCausalLM",
        "gemma2",
        _GEMMA,
        windows=Windows.PATTERN,
        may_bias=("attention_bias",),
        defaults={
            **_GEMMA_DEFAULTS,
            "max_position_embeddings": 8192,
            "sliding_window_pattern": 2,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    Family(
        "Gemma3ForCausalLM",
        "gemma3_text",
        replace(_GEMMA, has_head_norms=True),
        windows=Windows.PATTERN,
        may_bias=("attention_bias",),
        has_local_rope=True,
        defaults={
            **_GEMMA_DEFAULTS,
            "max_position_embeddings": 131_072,
            "sliding_window_pattern": 6,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
        },
    ),
    Family(
        "Phi3ForCausalLM",
        "phi3",
        Design(is_fused=True),
        windows=Windows.ALL,
        defaults={
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
    ),
    Family(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        Design(has_head_norms=True),
        windows=Windows.ASKED,
        may_bias=("attention_bias",),
        expert_names=ExpertNames(),
        defaults={
            "num_key_value_heads": 4,
            "max_position_embeddings": 32_768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        },
    ),
    Family(
        "MixtralForCausalLM",
        "mixtral",
        windows=Windows.ALL,
        expert_names=ExpertNames("block_sparse_moe", "w1", "w3", "w2"),
        defaults={
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
        },
    ),
)
