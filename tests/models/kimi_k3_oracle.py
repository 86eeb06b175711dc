"""Kimi-K3 in plain formulas, written down here from the modelling code beside the published weights, and a tiny model
of it under the names and keys of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LAYERS, WIDTH, LATENT, HEADS, DELTA_DIM, RANK = 5, 48, 32, 4, 16, 32
NOPE, BESIDE, VALUE = 16, 8, 12
ATTENDING = (3, 5)
"""Layers of latent attention, counted from 1."""
CONFIG: dict[str, Any] = {
    "model_type": "kimi_linear", "architectures": ["KimiLinearForCausalLM"], "vocab_size": 112, "hidden_size": WIDTH,
    "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
    "q_lora_rank": 24, "kv_lora_rank": RANK, "qk_nope_head_dim": NOPE, "qk_rope_head_dim": BESIDE,
    "v_head_dim": VALUE, "mla_use_nope": True, "mla_use_output_gate": True, "attn_res_block_size": 2,
    "linear_attn_config": {
        "full_attn_layers": list(ATTENDING), "kda_layers": [1, 2, 4], "num_heads": HEADS, "head_dim": DELTA_DIM,
        "short_conv_kernel_size": 4, "gate_lower_bound": -5.0, "use_full_rank_gate": True,
    },
    "num_experts": 8, "num_experts_per_token": 3, "num_shared_experts": 2, "moe_intermediate_size": 32,
    "routed_expert_hidden_size": LATENT, "latent_moe_use_norm": True, "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid", "num_expert_group": 1, "topk_group": 1, "topk_method": "noaux_tc",
    "use_grouped_topk": True, "routed_scaling_factor": 1.5, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "hidden_act": "situ", "activation_situ_beta": 1.5, "activation_situ_linear_beta": 2.5, "rms_norm_eps": 3e-3,
    "max_position_embeddings": 256, "num_nextn_predict_layers": 0, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
TOWER = {
    "vision_tower.patch_embed.proj.weight": (8, 3, 2, 2), "mm_projector.proj.0.weight": (8, 8),
}  # fmt: skip
RANK_EPS = 1e-6
"""Of the norms of ranks, and of the lengths of keys and queries."""


def shapes(vocab: int = 112) -> dict[str, tuple[int, ...]]:
    """The text decoder's tensors."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, WIDTH), "lm_head.weight": (vocab, WIDTH), "model.norm.weight": (WIDTH,),
        "model.output_attn_res_norm.weight": (WIDTH,), "model.output_attn_res_proj.weight": (1, WIDTH),
    }  # fmt: skip
    inner = HEADS * DELTA_DIM
    delta = {
        **{f"{one}_proj.weight": (inner, WIDTH) for one in "qkvg"},
        **{f"{one}_conv1d.weight": (inner, 1, 4) for one in "qkv"},
        "f_a_proj.weight": (DELTA_DIM, WIDTH), "f_b_proj.weight": (inner, DELTA_DIM), "b_proj.weight": (HEADS, WIDTH),
        "A_log": (DELTA_DIM,), "dt_bias": (inner,), "o_norm.weight": (DELTA_DIM,), "o_proj.weight": (WIDTH, inner),
    }  # fmt: skip
    latent = {
        "q_a_proj.weight": (24, WIDTH), "q_a_layernorm.weight": (24,),
        "q_b_proj.weight": (HEADS * (NOPE + BESIDE), 24), "kv_a_proj_with_mqa.weight": (RANK + BESIDE, WIDTH),
        "kv_a_layernorm.weight": (RANK,), "kv_b_proj.weight": (HEADS * (NOPE + VALUE), RANK),
        "g_proj.weight": (HEADS * VALUE, WIDTH), "o_proj.weight": (WIDTH, HEADS * VALUE),
    }  # fmt: skip
    for n in range(LAYERS):
        layer = f"model.layers.{n}."
        norms = ("input_layernorm", "post_attention_layernorm", "self_attention_res_norm", "mlp_res_norm")
        found |= {f"{layer}{one}.weight": (WIDTH,) for one in norms}
        found |= {f"{layer}{one}_res_proj.weight": (1, WIDTH) for one in ("self_attention", "mlp")}
        mixer = latent if n + 1 in ATTENDING else delta
        found |= {f"{layer}self_attn.{name}": shape for name, shape in mixer.items()}
        if n == 0:
            found |= _gated(f"{layer}mlp.", WIDTH, 64)
            continue
        moe = f"{layer}block_sparse_moe."
        found |= {
            f"{moe}gate.weight": (8, WIDTH), f"{moe}gate.e_score_correction_bias": (8,),
            f"{moe}routed_expert_down_proj.weight": (LATENT, WIDTH), f"{moe}routed_expert_norm.weight": (LATENT,),
            f"{moe}routed_expert_up_proj.weight": (WIDTH, LATENT), **_gated(f"{moe}shared_experts.", WIDTH, 64),
        }  # fmt: skip
        for expert in range(8):
            for one, shape in (("w1", (32, LATENT)), ("w2", (LATENT, 32)), ("w3", (32, LATENT))):
                found[f"{moe}experts.{expert}.{one}.weight"] = shape
    return found


def _gated(prefix: str, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    names = {"gate_proj": (hidden, width), "up_proj": (hidden, width), "down_proj": (width, hidden)}
    return {f"{prefix}{name}.weight": shape for name, shape in names.items()}


def tensors(seed: int = 0, vocab: int = 112) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes(vocab).items():
        noise = torch.randn(shape, generator=generator)
        small = 0.5 if name.endswith(("A_log", "dt_bias", "correction_bias")) else 0.12
        scores = name.endswith("_res_proj.weight")
        found[name] = noise * (0.5 if scores else small) + (1.0 if name.endswith("norm.weight") else 0.0)
        if name.endswith("A_log"):
            found[name][HEADS:] = 0.0  # The file has a number for each channel of a head; the rest mean nothing.
    return found


class Oracle:
    """Over one sequence at a time, in the type of the tensors."""

    def __init__(self, config: Mapping[str, Any], t: Mapping[str, Tensor]) -> None:
        self.config, self.t = config, t

    def logits(self, ids: list[int]) -> Tensor:
        x, sums = self.t["model.embed_tokens.weight"][ids], []
        for n in range(LAYERS):
            layer = f"model.layers.{n}."
            row = self.mixed(x, sums, f"{layer}self_attention_res")
            row = self.norm(row, f"{layer}input_layernorm")
            attends = n + 1 in ATTENDING
            branch = (self.latent_attention if attends else self.delta_attention)(row, f"{layer}self_attn.")
            if n % self.config["attn_res_block_size"] == 0:
                sums.append(x)
                x = branch
            else:
                x = x + branch
            row = self.norm(self.mixed(x, sums, f"{layer}mlp_res"), f"{layer}post_attention_layernorm")
            x = x + (self.gated(row, f"{layer}mlp.") if n == 0 else self.experts(row, f"{layer}block_sparse_moe."))
        x = self.norm(self.mixed(x, sums, "model.output_attn_res"), "model.norm")
        return x @ self.t["lm_head.weight"].T

    def norm(self, x: Tensor, name: str, eps: float | None = None) -> Tensor:
        eps = self.config["rms_norm_eps"] if eps is None else eps
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * self.t[f"{name}.weight"]

    def mixed(self, x: Tensor, sums: list[Tensor], name: str) -> Tensor:
        if not sums:
            return x
        each = torch.stack([*sums, x], 1)
        scores = self.norm(each, f"{name}_norm") @ self.t[f"{name}_proj.weight"][0]
        return (scores.softmax(-1)[..., None] * each).sum(1)

    def situ(self, gate: Tensor, up: Tensor) -> Tensor:
        beta, of_up = self.config["activation_situ_beta"], self.config["activation_situ_linear_beta"]
        up = up if of_up is None else of_up * torch.tanh(up / of_up)
        return beta * torch.tanh(gate / beta) * torch.sigmoid(gate) * up

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.t[f"{name}.weight"].T

    def gated(self, x: Tensor, at: str) -> Tensor:
        hidden = self.situ(self.linear(x, f"{at}gate_proj"), self.linear(x, f"{at}up_proj"))
        return self.linear(hidden, f"{at}down_proj")

    def experts(self, x: Tensor, at: str) -> Tensor:
        worth = torch.sigmoid(self.linear(x, f"{at}gate"))
        chosen = (worth + self.t[f"{at}gate.e_score_correction_bias"]).topk(3).indices
        worth = worth.gather(1, chosen)
        worth = worth / worth.sum(-1, keepdim=True) * self.config["routed_scaling_factor"]
        latents, rows = self.linear(x, f"{at}routed_expert_down_proj"), []
        for row, factors, experts in zip(latents, worth, chosen.tolist(), strict=True):
            parts = []
            for factor, expert in zip(factors, experts, strict=True):
                own = f"{at}experts.{expert}."
                hidden = self.situ(self.linear(row, f"{own}w1"), self.linear(row, f"{own}w3"))
                parts.append(factor * self.linear(hidden, f"{own}w2"))
            rows.append(torch.stack(parts).sum(0))
        made = self.norm(torch.stack(rows), f"{at}routed_expert_norm")
        return self.linear(made, f"{at}routed_expert_up_proj") + self.gated(x, f"{at}shared_experts.")

    def latent_attention(self, x: Tensor, at: str) -> Tensor:
        low = self.norm(self.linear(x, f"{at}q_a_proj"), f"{at}q_a_layernorm", RANK_EPS)
        q = self.linear(low, f"{at}q_b_proj").view(len(x), HEADS, NOPE + BESIDE)
        latents, beside = self.linear(x, f"{at}kv_a_proj_with_mqa").split([RANK, BESIDE], -1)
        latents = self.norm(latents, f"{at}kv_a_layernorm", RANK_EPS)
        k, v = self.linear(latents, f"{at}kv_b_proj").view(len(x), HEADS, NOPE + VALUE).split([NOPE, VALUE], -1)
        k = torch.cat((k, beside[:, None].expand(-1, HEADS, -1)), -1)
        scores = torch.einsum("ihd,jhd->hij", q, k) * (NOPE + BESIDE) ** -0.5
        hidden = torch.full_like(scores[0], float("-inf")).triu(1)
        mixed = torch.einsum("hij,jhd->ihd", (scores + hidden).softmax(-1), v).flatten(1)
        return self.linear(mixed * torch.sigmoid(self.linear(x, f"{at}g_proj")), f"{at}o_proj")

    def delta_attention(self, x: Tensor, at: str) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.view(len(x), HEADS, DELTA_DIM)

        q, k, v = (heads(self.conv(self.linear(x, f"{at}{one}_proj"), f"{at}{one}_conv1d")) for one in "qkv")
        q, k = (one * torch.rsqrt(one.pow(2).sum(-1, keepdim=True) + RANK_EPS) for one in (q, k))
        low = self.linear(self.linear(x, f"{at}f_a_proj"), f"{at}f_b_proj")
        rate = self.t[f"{at}A_log"][:HEADS].exp()[:, None]
        decay = self.config["linear_attn_config"]["gate_lower_bound"] * torch.sigmoid(
            rate * heads(low + self.t[f"{at}dt_bias"])
        )
        beta = torch.sigmoid(self.linear(x, f"{at}b_proj"))[..., None]
        state = x.new_zeros(HEADS, DELTA_DIM, DELTA_DIM)
        read = []
        for n in range(len(x)):
            state = state * decay[n].exp()[..., None]
            change = beta[n] * (v[n] - torch.einsum("hk,hkv->hv", k[n], state))
            state = state + torch.einsum("hk,hv->hkv", k[n], change)
            read.append(torch.einsum("hk,hkv->hv", q[n] * DELTA_DIM**-0.5, state))
        gate = torch.sigmoid(heads(self.linear(x, f"{at}g_proj")))
        return self.linear((self.norm(torch.stack(read), f"{at}o_norm") * gate).flatten(1), f"{at}o_proj")

    def conv(self, x: Tensor, name: str) -> Tensor:
        taps = self.t[f"{name}.weight"]
        padded = F.pad(x.T[None], (taps.shape[-1] - 1, 0))
        return F.silu(F.conv1d(padded, taps, groups=len(taps))[0].T)
