"""What the package must know of one `model_type`: the values its config.json may leave out, how to read the rest,
and what its tensors are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from landrace.models.families.config import Config
from landrace.models.families.names import Naming
from landrace.models.spec import LayerSpec, ModelSpec


@dataclass(frozen=True)
class Family:
    """Facts of one `model_type`. Files of families hold tables of these and nothing else."""

    read: Callable[[Config], ModelSpec]
    defaults: Mapping[str, Any]
    """What a key means when config.json leaves it out: the defaults of the family's own config class."""
    namings: tuple[Naming, ...] | Callable[[ModelSpec], tuple[Naming, ...]] = (Naming(),)
    """How its checkpoints, or those of a model of it, may name their tensors: the hub's way first, which is also how
    they are written; the names of transformers' own modules last."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names that config.json may use for the keys that `read` knows."""
    ignorable: tuple[str, ...] = ()
    """Regexes (whole name) of tensors that carry nothing for the logits."""
    drafts: tuple[str, ...] = ()
    """Regexes (whole name) of tensors that guess tokens after the next one, where they lie apart from the layers."""
    mtp: Callable[[Config], LayerSpec] | None = None
    """The layer that guesses the token after the next one; None: it is like the last one with attention."""
    no_effect: tuple[str, ...] = ()
    """Regexes (whole key) of further config keys that cannot change a logit."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Further keys that may be there with this value and no other; a tuple lists several values."""
    passed_by: Callable[[Config], tuple[int, ...]] = lambda config: ()
    """Numbers of the layers in its files that do nothing for text."""


Prefixes = tuple[tuple[str, str], ...]
"""See `Naming.prefixes`."""

# Where files keep a text decoder beside towers, the hub's way first.
AT_TOP: Prefixes = (("model.", ""), ("model.language_model.", ""))
INSIDE: Prefixes = (("model.language_model.", ""), ("model.", ""))
WRAPPED: Prefixes = (("language_model.model.", "language_model."), ("model.language_model.", ""))


@dataclass(frozen=True)
class TextHalf:
    """Where a multimodal `model_type` keeps its text decoder."""

    family: str
    """`model_type` that reads the text half."""
    prefixes: Prefixes
    """Where its tensors lie."""
    towers: tuple[str, ...]
    """Regexes (whole name) of the tensors that carry nothing for text."""
    modules: tuple[str, str] = ("model.language_model.", "")
    """The prefixes of transformers' modules, by which adapters name them."""
    section: str = "text_config"
    """The object with the text half's keys. When it is absent, its keys lie beside the towers'."""
    tied: tuple[str, ...] = ("outer", "text")
    """Which objects' `tie_word_embeddings` count: tied if one of these says so."""
    ties_by_default: bool = False
    """What such an object means when it says nothing."""
    no_effect: tuple[str, ...] = ("vision_config",)
    """Regexes (whole key) of the outer config's keys that say nothing about text."""
