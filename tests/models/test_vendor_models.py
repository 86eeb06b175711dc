"""Baichuan and Step-3, which transformers does not have, against formulas written down here from the vendors' code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import cached_logits, load, packed_logits, random_ids, worst
from torch import Tensor

from landrace.models.ffn_spec import Dense

TOLERANCE = 1e-4
EPS = 3e-3
WIDTH, HIDDEN, VOCAB = 48, 40, 112

BAICHUAN: dict[str, Any] = {
    "model_type": "baichuan", "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": HIDDEN,
    "num_hidden_layers": 2, "num_attention_heads": 6, "rms_norm_eps": EPS, "hidden_act": "silu",
    "tie_word_embeddings": False,
}  # fmt: skip
STEP3: dict[str, Any] = {
    "model_type": "step3_text", "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 56,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_attention_groups": 1, "head_dim": 16, "share_q_dim": 24,
    "max_position_embedding": 256, "max_seq_len": 256, "rms_norm_eps": EPS, "rope_theta": 5000.0, "rope_scaling": None,
    "moe_num_experts": 6, "moe_top_k": 2, "moe_intermediate_size": HIDDEN, "share_expert_dim": 32,
    "norm_expert_weight": False, "moe_layers_enum": "1,2", "tie_word_embeddings": False,
}  # fmt: skip


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) * 0.2 + (1.0 if len(shape) == 1 else 0.0)
        for name, shape in shapes.items()
    }


def outer(layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
    for n in range(layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{n}.{norm}.weight"] = (WIDTH,)
    return shapes | {"lm_head.weight": (VOCAB, WIDTH)}


def gated(prefix: str, hidden: int) -> dict[str, tuple[int, ...]]:
    names = {"gate_proj": (hidden, WIDTH), "up_proj": (hidden, WIDTH), "down_proj": (WIDTH, hidden)}
    return {f"{prefix}.{name}.weight": shape for name, shape in names.items()}


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight


def swiglu(x: Tensor, at: Callable[[str], Tensor]) -> Tensor:
    return (F.silu(x @ at("gate_proj").T) * (x @ at("up_proj").T)) @ at("down_proj").T


def turned(x: Tensor, theta: float) -> Tensor:
    """Rotates [T, heads, dim] by position, in halves."""
    half = x.shape[-1] // 2
    angles = torch.arange(len(x))[:, None] / theta ** (torch.arange(half) / half)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None = None) -> Tensor:
    """[T, heads, dim] each, k and v perhaps with one head for all."""
    scores = torch.einsum("ihd,jhd->hij", q, k.expand_as(q)) * q.shape[-1] ** -0.5
    length = len(q)
    if slopes is not None:
        distance = torch.arange(length)[None] - torch.arange(length)[:, None]
        scores = scores + slopes[:, None, None] * distance
    hidden = torch.full((length, length), float("-inf")).triu(1)
    return torch.einsum("hij,jhd->ihd", (scores + hidden).softmax(-1), v.expand_as(q)).flatten(1)


def decode(
    t: dict[str, Tensor], ids: list[int], layers: int, mix: Callable[[Tensor, str], Tensor], ffn: Callable[..., Tensor]
) -> Tensor:
    x = t["model.embed_tokens.weight"][ids]
    for n in range(layers):
        layer = f"model.layers.{n}."
        x = x + mix(norm(x, t[f"{layer}input_layernorm.weight"]), f"{layer}self_attn.")
        x = x + ffn(norm(x, t[f"{layer}post_attention_layernorm.weight"]), layer, n)
    return norm(x, t["model.norm.weight"]) @ t["lm_head.weight"].T


@pytest.mark.parametrize("rotates", [True, False])
def test_baichuan(rotates: bool) -> None:
    shapes = outer(2)
    for n in range(2):
        shapes |= {
            f"model.layers.{n}.self_attn.W_pack.weight": (3 * WIDTH, WIDTH),
            f"model.layers.{n}.self_attn.o_proj.weight": (WIDTH, WIDTH),
            **gated(f"model.layers.{n}.mlp", HIDDEN),
        }
    t = weights(shapes)
    # Six heads: the slopes of four, then every second of those of eight.
    slopes = torch.tensor([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])

    def mix(x: Tensor, at: str) -> Tensor:
        q, k, v = (x @ t[f"{at}W_pack.weight"].T).view(len(x), 3, 6, -1).unbind(1)
        if rotates:
            q, k = turned(q, 10_000.0), turned(k, 10_000.0)
        return attend(q, k, v, None if rotates else slopes) @ t[f"{at}o_proj.weight"].T

    def ffn(x: Tensor, at: str, n: int) -> Tensor:
        return swiglu(x, lambda name: t[f"{at}mlp.{name}.weight"])

    length = "max_position_embeddings" if rotates else "model_max_length"
    _, decoder = load({**BAICHUAN, length: 256}, t)
    sequences = random_ids()
    theirs = [decode(t, ids, 2, mix, ffn) for ids in sequences]
    assert worst(packed_logits(decoder, sequences), theirs) < TOLERANCE
    assert worst(cached_logits(decoder, sequences, prefill=17), theirs) < TOLERANCE


@pytest.mark.parametrize("renorm", [False, True])
def test_step3(renorm: bool) -> None:
    shapes = outer(3)
    for n in range(3):
        layer = f"model.layers.{n}."
        shapes |= {
            f"{layer}self_attn.q_proj.weight": (24, WIDTH),
            f"{layer}self_attn.inter_norm.weight": (24,),
            f"{layer}self_attn.wq.weight": (64, 24),
            f"{layer}self_attn.k_proj.weight": (16, WIDTH),
            f"{layer}self_attn.v_proj.weight": (16, WIDTH),
            f"{layer}self_attn.o_proj.weight": (WIDTH, 64),
        }
        if n == 0:
            shapes |= gated(f"{layer}mlp", 56)
        else:
            shapes |= {f"{layer}moe.gate.weight": (6, WIDTH), **gated(f"{layer}share_expert", 32)}
            shapes |= {name: (6, *shape) for name, shape in gated(f"{layer}moe", HIDDEN).items()}
    t = weights(shapes)

    def mix(x: Tensor, at: str) -> Tensor:
        low = norm(x @ t[f"{at}q_proj.weight"].T, t[f"{at}inter_norm.weight"])
        q = (low @ t[f"{at}wq.weight"].T).view(len(x), 4, 16)
        k, v = ((x @ t[f"{at}{one}_proj.weight"].T)[:, None] for one in "kv")
        return attend(turned(q, 5000.0), turned(k, 5000.0), v) @ t[f"{at}o_proj.weight"].T

    def ffn(x: Tensor, at: str, n: int) -> Tensor:
        if n == 0:
            return swiglu(x, lambda name: t[f"{at}mlp.{name}.weight"])
        worth, chosen = (x @ t[f"{at}moe.gate.weight"].T).softmax(-1).topk(2)
        if renorm:
            worth = worth / worth.sum(-1, keepdim=True)
        out = swiglu(x, lambda name: t[f"{at}share_expert.{name}.weight"])
        for row in range(len(x)):
            for factor, expert in zip(worth[row], chosen[row].tolist(), strict=True):
                own = swiglu(x[row], lambda name, e=expert: t[f"{at}moe.{name}.weight"][e])
                out[row] += factor * own
        return out

    ours, decoder = load({**STEP3, "norm_expert_weight": renorm}, t)
    assert isinstance(ours.spec.layers[0].ffn, Dense)
    sequences = random_ids()
    theirs = [decode(t, ids, 3, mix, ffn) for ids in sequences]
    assert worst(packed_logits(decoder, sequences), theirs) < TOLERANCE
    assert worst(cached_logits(decoder, sequences, prefill=17), theirs) < TOLERANCE
