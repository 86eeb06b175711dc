"""`LoraSpec`: what an adapter is, apart from its weights. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from landrace.errors import OptionError

LATENT_PROJECTIONS = ("q_a_proj", "q_b_proj", "kv_a_proj", "k_b_proj", "v_b_proj")
"""Those of latent attention: into the rank and out of it."""
DELTA_PROJECTIONS = ("in_proj_q", "in_proj_k", "in_proj_v", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")
"""Those of gated delta nets, and of lightning attention."""
LATENT_EXPERTS = ("latent_down_proj", "latent_up_proj")
"""Those into the latents that experts work on, and out of them."""
KIMI_PROJECTIONS = ("b_proj", "f_a_proj", "f_b_proj", "g_a_proj", "g_b_proj")
"""Those of Kimi delta attention beside attention's."""
STREAM_PROJECTIONS = ("mix_down", "mix_up", "inject", "key_proj", "value_proj")
"""Those of gated residual streams, and of n-grams that are added to them."""
COMPRESSING_PROJECTIONS = ("kv_proj", "compress_proj", "compress_gate_proj", "o_a_proj", "o_b_proj")
"""Those of attention to compressed rows beside the queries'."""
INDEXER_PROJECTIONS = (
    *("wq_b", "wk", "weights_proj", "index_q_proj", "index_k_proj"),
    *("index_proj", "index_gate_proj", "index_weights_proj"),
)
"""Those of an indexer, which chooses positions: adapters on them are served, but a choice has no gradient."""
PROJECTIONS = (
    *("q_proj", "k_proj", "v_proj", *LATENT_PROJECTIONS, *COMPRESSING_PROJECTIONS, *INDEXER_PROJECTIONS),
    *("o_proj", "g_proj", *DELTA_PROJECTIONS, *KIMI_PROJECTIONS),
    *("gate_proj", "up_proj", "down_proj", *LATENT_EXPERTS, *STREAM_PROJECTIONS),
)


@dataclass(frozen=True)
class LoraSpec:
    """W x becomes W x + scale * B A x for every projection whose last name is in `targets`."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = PROJECTIONS
    rslora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise OptionError(f"A LoRA rank must be at least 1, not {self.rank}.")
        unknown = sorted(set(self.targets) - set(PROJECTIONS))
        if unknown or not self.targets:
            raise OptionError(
                f"LoRA cannot target {', '.join(unknown) or 'nothing'}.", hint=f"Choose among {', '.join(PROJECTIONS)}."
            )

    @property
    def scale(self) -> float:
        """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (Kalajdzievski, 2023)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)
