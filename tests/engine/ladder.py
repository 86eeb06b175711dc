"""What both equivalence ladders share: models whose rotation or window could break caching, and what their rungs do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from landrace.engine import Engine, EngineOptions, Request
from landrace.kernels.activation import Activation
from landrace.kernels.mask import FULL, Chunked, Sliding
from landrace.kernels.ngrams import NGrams
from landrace.kernels.router import Router
from landrace.kernels.streams import HyperConnections
from landrace.models.compressed_spec import CompressedSelection, Compression
from landrace.models.ffn_spec import Dense, Latent, Moe
from landrace.models.mixer_spec import Kda, Lightning, RopeSpec
from landrace.models.selection_spec import BlockSelection, PoolSelection, Selection
from landrace.models.spec import AfterNorm, AttentionResiduals, GatedStreams, Hyper, NGramEmbedding

LONGROPE = RopeSpec(
    theta=10000.0,
    rotary_dim=8,
    kind="longrope",
    original_length=40,
    short_factor=(1.0, 1.1, 1.2, 1.3),
    long_factor=(1.5, 2.0, 3.0, 4.0),
    length=256,
)
SITU = Activation("situ", limit=1.5, alpha=1.2)
DYNAMIC = RopeSpec(theta=10000.0, rotary_dim=8, kind="dynamic", factor=4.0, original_length=32, length=256)
MODELS: dict[str, dict[str, object]] = {
    "plain": {},
    "window": {"window": 7},
    "windows alone": {"masks": (Sliding(20), Sliding(5))},
    "chunks, a window, all": {"masks": (Chunked(24), Sliding(9), FULL)},
    "experts": {
        "ffn": Moe(
            8,
            24,
            Router(
                3, "sigmoid", choice_bias=True, renorm=True, n_groups=4, top_groups=2, group_score="top2_sum", scale=1.5
            ),
            shared=Dense(16),
            shared_gate=True,
        ),
    },
    "experts, sinks, a window": {
        "masks": (Sliding(9), FULL),
        "sinks": True,
        "ffn": Moe(6, 24, Router(2, "softmax_of_chosen", bias=True), bias=True, activation=Activation("oai", 2.0, 1.7)),
    },
    "delta nets": {"deltas": (0, 1), "gate": "channel"},
    "delta nets, a window": {"deltas": (1,), "masks": (Sliding(9), FULL)},
    "delta nets alone": {"deltas": (0, 1, 2)},
    "delta nets, latents": {"deltas": (0, 2), "latents": {}},
    "Kimi delta attention, latents": {
        "deltas": (0, 1),
        "delta": Kda(n_heads=2, head_dim=12, conv_width=4),
        "latents": {"rope": None},
    },
    "lightning attention, a window": {
        "deltas": (0, 2),
        "delta": Lightning(n_heads=3, head_dim=12, fading=0.6),
        "masks": (Sliding(9), FULL),
        "residual": AfterNorm(2.0, 1.0, 1.5, 0.8),
    },
    "lightning attention alone, experts": {
        "deltas": (0, 1, 2),
        "delta": Lightning(n_heads=4, head_dim=8, fading=0.2),
        "residual": AfterNorm(1.0, 3.0, 1.0, 3.0),
        "ffn": Moe(6, 24, Router(2, renorm=True)),
    },
    "latents": {"latents": {}},
    "latents, a window, experts": {
        "masks": (Sliding(9), FULL),
        "latents": {"q_rank": 12, "bias": True},
        "ffn": Moe(8, 24, Router(3, n_groups=4, top_groups=2, scale=3.0), shared=Dense(16)),
    },
    "streams that mix": {"residual": Hyper(HyperConnections(3, 1e-2, iterations=4))},
    "latents with sinks, streams alone": {
        "latents": {"sinks": True, "gate": "channel"},
        "residual": Hyper(HyperConnections(2, 1e-2, post_eps=1e-2)),
    },
    "chosen latents with sinks, streams alone": {
        "latents": {"q_rank": 12, "sinks": True, "gate": "channel", "selection": Selection(16, 8, 20)},
        "followers": (1,),
        "residual": Hyper(HyperConnections(2, 1e-2, post_eps=1e-2)),
    },
    "gated streams, delta nets, n-grams": {
        "deltas": (0, 1),
        "residual": GatedStreams(4, 8),
        "ngrams": NGramEmbedding(NGrams((3, 5, 7), (31, 37, 41, 43), 62), 160, 32, 4, 4 * 32),
    },
    "chosen latents": {"latents": {"q_rank": 12, "selection": Selection(11, 16, 9)}},
    "chosen latents, followers": {"latents": {"q_rank": 12, "selection": Selection(16, 8, 20)}, "followers": (1,)},
    "chosen blocks": {"selection": BlockSelection(8, 5, 3, n_local=2)},
    "chosen pools": {"selection": PoolSelection(11, 8, 4, 3)},
    "Kimi delta attention with a floor, gated pools of latents, streams that mix": {
        "deltas": (0, 1),
        "delta": Kda(n_heads=2, head_dim=12, conv_width=4, decay_floor=-5.0),
        "latents": {"rope": None, "rope_dim": 0, "q_rank": 12, "selection": Selection(16, 8, 12, pool=6)},
        "residual": Hyper(HyperConnections(2, 1e-2, iterations=4), weighted_head=False),
    },
    "Kimi delta attention and latents, both gated, experts in a latent, attention residuals": {
        "deltas": (0, 1),
        "delta": Kda(n_heads=2, head_dim=12, conv_width=4, decay_floor=-5.0, low_rank_gate=False),
        "latents": {"rope": None, "q_rank": 12, "gate": "channel"},
        "residual": (AttentionResiduals(True), AttentionResiduals(False), AttentionResiduals(True)),
        "ffn": Moe(
            6,
            24,
            Router(2, "sigmoid", choice_bias=True, renorm=True),
            activation=SITU,
            shared=Dense(16, activation=SITU),
            latent=Latent(32),
        ),
    },
    "gated pools of latents, followers": {
        "latents": {"rope": None, "rope_dim": 0, "q_rank": 12, "selection": Selection(16, 8, 16, pool=8)},
        "followers": (1,),
    },
    "compressed rows": {
        "window": 5,
        "compressed": (None, Compression(2, True, CompressedSelection(11, 16, 6)), Compression(2, False)),
    },
    "compressed rows of more than the window": {
        "window": 4,
        "compressed": (Compression(7, False), Compression(3, True, CompressedSelection(16, 8, 4))),
        "residual": Hyper(HyperConnections(3, 1e-2, iterations=4)),
    },
    "dynamic rope": {"rope": DYNAMIC},
    "longrope": {"rope": LONGROPE},
}


def check_what_the_rungs_do(
    decoder: Any, tokenizer: Any, rungs: Mapping[str, EngineOptions], make_requests: Callable[[], list[Request]]
) -> None:
    """The pre-empted rungs pre-empt, the prefix rungs hit, the drafted rungs guess, right and wrong unless a snapshot
    at every block leaves little room for it."""
    for name, preempts, hits in (
        ("pre-empted", True, False),
        ("pre-empted, with prefixes", True, True),
        ("prefix", False, True),
        ("drafted", False, True),
        ("drafted, pre-empted", True, True),
    ):
        engine = Engine(decoder, tokenizer, rungs[name])
        scheduler = engine._scheduler
        preempted = []
        original = scheduler.preempt
        scheduler.preempt = lambda one, o=original, p=preempted: (p.append(1), o(one))[1]  # type: ignore[method-assign]
        completions = engine.generate(make_requests())
        assert bool(preempted) == preempts, name
        assert any(completion.cached_prompt_tokens for completion in completions) == hits, name
        drafted = sum(completion.drafted_tokens for completion in completions)
        accepted = sum(completion.accepted_tokens for completion in completions)
        assert drafted > 0 if "drafted" in name else drafted == 0, name
        assert 0 < accepted < drafted or "drafted" not in name or decoder.spec.recurrent, name
