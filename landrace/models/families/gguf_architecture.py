"""What the package must know of one of llama.cpp's architectures, and what several of them say alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from landrace.models.families.config import MAX_LAYERS, Config
from landrace.models.families.gguf_rope import ReadRope, gguf_rope
from landrace.models.ffn_spec import Moe
from landrace.models.spec import ModelSpec

SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN, SQRT_SOFTPLUS = 1, 2, 3, 4
"""Of `expert_gating_func`."""
Facts = dict[str, Any]
ReadMore = Callable[[Config, Collection[str], Facts], Facts]
"""Called with the file's keys, its tensors' names and the config so far."""
WriteMore = Callable[[ModelSpec, Facts], Facts]
"""Called with a model and what its config.json states."""
Reads = Mapping[str, tuple[Callable[[Config, str], Any], str]]


@dataclass(frozen=True)
class Architecture:
    """One value of `general.architecture`."""

    model_type: str
    """The family that reads it."""
    interleaved: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """See `Naming.fused`."""
    by_head: tuple[str, ...] = ()
    """See `Naming.by_head`."""
    once: Mapping[str, str] = field(default_factory=dict)
    """See `Naming.once`."""
    with_ones: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """See `Naming.with_ones`."""
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Config key to the layer tensors whose biases it switches on, which are all there or all absent."""
    unit_head: int | None = None
    """See `Naming.unit_head`."""
    experts: tuple[str, str, str] | None = None
    """Config keys of how many experts there are, how many a token goes to, and how wide they are."""
    score: int | None = SOFTMAX
    """None: `more` reads it, and groups of experts."""
    latent: bool = False
    """Whether its attention is over latents."""
    heads_in_rounds: bool = False
    """See `ModelSpec.in_rounds`."""
    drafts: bool = False
    """Whether files that are written may hold the layer that guesses further tokens: llama.cpp passes it by."""
    index_last: bool = False
    """See `Naming.index_last`."""
    index_interleaved: bool = False
    """See `Naming.index_interleaved`."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Metadata keys that may be there with this value and no other."""
    no_effect: tuple[str, ...] = ()
    """Regexes (whole key) of metadata keys that cannot change a logit."""
    reads: Reads = field(default_factory=dict)
    """Config key to how it is read, and from which metadata key. What that finds nothing of is left out."""
    adds: Mapping[str, Any] = field(default_factory=dict)
    """Config keys that llama.cpp's code fixes, or what they are where the file does not say."""
    more: ReadMore = lambda keys, names, config: {}
    """Further config keys, where `reads` finds nothing."""
    rope: ReadRope = gguf_rope
    prepared: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda keys: keys
    """The file's keys in the form that the rest takes."""
    writes: WriteMore = lambda spec, stated: {}
    """The keys that `more` and `prepared` read."""


def without_drafts(keys: Config, config: Facts) -> Facts:
    """The layers that guess further tokens are among those that the file counts."""
    drafts = keys.count("nextn_predict_layers")
    return {"num_hidden_layers": config["num_hidden_layers"] - drafts, "num_nextn_predict_layers": drafts}


def written_shared(spec: ModelSpec, stated: Facts) -> Facts:
    """llama.cpp asks for the width of the shared experts, of which some families have several."""
    shared = next((layer.ffn.shared for layer in spec.layers if isinstance(layer.ffn, Moe)), None)
    return {} if shared is None else {"expert_shared_feed_forward_length": shared.d_hidden}


def _step_of_layers(keys: Config, key: str) -> int | None:
    return keys.optional_size(key, MAX_LAYERS)


SIZE, ANY_SIZE, NUMBER = Config.size, Config.optional_size, Config.optional_number
COUNT, STEP = Config.count, _step_of_layers
QKV = ("attn_q", "attn_k", "attn_v")
ATTENTION = (*QKV, "attn_output")
MLP = ("ffn_gate", "ffn_up", "ffn_down")
AFTER_ATTENTION = {"post_attention_layernorm": "post_attention_norm"}
LLAMA_FLAGS = {"attention_bias": ATTENTION, "mlp_bias": MLP}
BIASED = {"attention_bias": ATTENTION}
BIASED_QKV = {"attention_bias": QKV}
PER_TOKEN = "num_experts_per_tok"
QWEN_EXPERTS = ("num_experts", PER_TOKEN, "moe_intermediate_size")
ROUTED_EXPERTS = ("n_routed_experts", PER_TOKEN, "moe_intermediate_size")
LOCAL_EXPERTS = ("num_local_experts", PER_TOKEN, "intermediate_size")
ROUTED_READS: Reads = {
    "n_shared_experts": (SIZE, "expert_shared_count"),
    "first_k_dense_replace": (COUNT, "leading_dense_block_count"),
    "routed_scaling_factor": (NUMBER, "expert_weights_scale"),
}

INDEXER_READS: Reads = {
    **ROUTED_READS,
    "index_n_heads": (SIZE, "attention.indexer.head_count"),
    "index_head_dim": (SIZE, "attention.indexer.key_length"),
    "index_topk": (SIZE, "attention.indexer.top_k"),
}

BLOCK_READS: Reads = {
    "routed_scaling_factor": (NUMBER, "expert_weights_scale"),
    "index_n_heads": (SIZE, "attention.indexer.head_count"),
    "index_head_dim": (SIZE, "attention.indexer.key_length"),
    "index_topk_blocks": (SIZE, "attention.indexer.top_k"),
    "index_block_size": (SIZE, "attention.indexer.block_size"),
    "index_local_blocks": (SIZE, "attention.indexer.local_blocks"),
}
BLOCK_INDEXER = {f"self_attn.index_{part}": f"indexer.{part}" for part in ("q_proj", "k_proj", "q_norm", "k_norm")}

GATED_QUERIES = ("attn_q.weight",)
NEXT_READS: Reads = {"shared_expert_intermediate_size": (SIZE, "expert_shared_feed_forward_length")}
NEXT_FIXED = {"expert_weights_norm": True, "expert_shared_count": 1}
