"""Model families: from a config.json to a `ModelSpec` and the names of its tensors.

A family is a row of a table, looked up by `model_type`. To add one: a reader that composes the pieces of `dense`
(or of the file of its own kind of block), its defaults, and what its tensors are called, if not what Llama's are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.mask import FULL
from landrace.models.cache_spec import Paged
from landrace.models.declared import shapes_of
from landrace.models.families import (
    baichuan,
    deepseek,
    deepseek_sparse,
    deepseek_v4,
    ernie_moe,
    glm,
    glm5_next,
    glm_moe,
    gpt_oss,
    hunyuan,
    hunyuan_moe,
    hy_v4,
    kimi_k3,
    kimi_linear,
    llama,
    llama4,
    minicpm,
    minicpm3,
    minimax,
    minimax_m3,
    mllama,
    qwen,
    qwen4,
    qwen_moe,
    qwen_next,
    step,
    step3,
)
from landrace.models.families.config import Config, shown, with_aliases
from landrace.models.families.encoders import encoder_error, is_encoder_type
from landrace.models.families.family import Family, TextHalf
from landrace.models.families.names import Naming
from landrace.models.families.weights import Shape, Source
from landrace.models.spec import AttentionResiduals, ModelSpec

_FILES = (
    *(llama, minicpm, mllama, qwen, glm, hunyuan, baichuan),
    *(qwen_moe, qwen_next, glm_moe, ernie_moe, hunyuan_moe, minimax, minimax_m3, gpt_oss, llama4, step, step3),
    *(deepseek, deepseek_sparse, minicpm3, kimi_linear, kimi_k3, hy_v4, qwen4, glm5_next, deepseek_v4),
)
FAMILIES: Mapping[str, Family] = {
    kind: family for file in _FILES for kind, family in getattr(file, "FAMILIES", {}).items()
}
TEXT_HALVES: Mapping[str, TextHalf] = {
    kind: half for file in _FILES for kind, half in getattr(file, "TEXT_HALVES", {}).items()
}

BUFFERS = (
    r".*rotary_(pos_)?emb\.(inv_freq|cos_cached|sin_cached)",
    r".*\.self_attn\.(slope_rate|query_decay|key_decay|diagonal_decay)",  # Of lightning attention.
)
"""Regexes (whole name) of tensors that follow from the configuration, which files may hold rounded."""


@dataclass(frozen=True)
class FamilyModel:
    """A model as its configuration describes it."""

    spec: ModelSpec
    shapes: dict[str, Shape]
    """Of every parameter of `Decoder(spec)`."""
    sources: dict[str, Source]
    """Where a checkpoint keeps each."""
    adapter_sources: tuple[dict[str, Source], ...]
    """The same under each set of names that adapters may use for the modules: first the one to write."""
    ignorable: tuple[str, ...]
    """Regexes (whole name) of tensors that carry nothing for the logits of text. A tied head's own tensor is among
    them; that it equals the embedding is for the loader to check."""
    drafts: tuple[str, ...] = ()
    """Those of them that guess tokens after the next one."""


def read_config(
    config: Mapping[str, Any],
    stored: Mapping[str, Shape] | None = None,
    *,
    heads_in_rounds: bool = False,
    mtp: bool = False,
) -> FamilyModel:
    """Reads a hub `config.json`, whether of transformers 4 or 5 or of the modelling code beside the weights.

    `stored`, the names and shapes of a file's tensors, chooses where a family's checkpoints are known under several
    prefixes or names, or in several layouts; without it they are the hub's. `heads_in_rounds`: the weights have their
    value heads so (`ModelSpec.in_rounds`). `mtp`: with the layer that guesses the token after the next one, whether the
    files have one or not.

    Raises UnsupportedError for a model type, a key or a value that asks for arithmetic the decoder does not have;
    CheckpointError for numbers that fit no model.
    """
    if not isinstance(config, Mapping):
        raise CheckpointError("config.json does not hold an object.")
    text, halves = _text_config(config)
    kind = text["model_type"]
    family = FAMILIES[kind]
    reader = Config(with_aliases(text, family.aliases), family.defaults)
    spec, passed_by = family.read(reader), family.passed_by(reader)
    spec = spec.in_rounds() if heads_in_rounds else spec
    spec = _with_mtp(spec, family, reader) if mtp else spec
    drafts = reader.get("num_nextn_predict_layers")
    reader.finish(family.no_effect, family.fixed)

    prefixes = halves[0].prefixes if halves else None
    known = family.namings(spec) if callable(family.namings) else family.namings
    namings = [replace(naming, prefixes=prefixes or naming.prefixes, passed_by=passed_by) for naming in known]
    shapes = shapes_of(spec)
    layouts = [naming.sources(spec, shapes, stored or {}) for naming in namings]
    best = min(range(len(layouts)), key=lambda n: _misfits(layouts[n], shapes, stored or {}))
    naming, sources = namings[best], layouts[best]
    modules = halves[0].modules if halves else None
    adapter_sources = _adapted(namings, naming, spec, shapes, stored or {}, modules)
    ignorable = [*BUFFERS, *(pattern for half in halves for pattern in half.towers)]
    body, head = naming.prefix(stored or {})
    if spec.tie_embeddings:
        ignorable.append(re.escape(f"{head}{naming.head}.weight"))
    guessing = list(family.drafts)
    if drafts:
        # Layers past the last guess the tokens after the next one; the logits do not depend on them.
        first, count = len(spec.layers), reader.size("num_nextn_predict_layers", limit=16)
        guessing += [re.escape(body + naming.layer.format(n)) + ".*" for n in range(first, first + count)]
    ignorable += [re.escape(body + naming.layer.format(n)) + ".*" for n in passed_by]
    ignorable += [*guessing, *family.ignorable]
    return FamilyModel(spec, shapes, sources, adapter_sources, tuple(ignorable), tuple(guessing))


def _with_mtp(spec: ModelSpec, family: Family, config: Config) -> ModelSpec:
    """Such a layer is like the last one with attention where the family says nothing of it."""
    if family.mtp is not None:
        return replace(spec, mtp=family.mtp(config))
    attending = [layer for layer in spec.layers if layer.caches == (Paged(FULL),)]
    if not attending or spec.streams is not None or isinstance(attending[-1].residual, AttentionResiduals):
        raise UnsupportedError("Layers that guess further tokens are not implemented for this kind of model.")
    return replace(spec, mtp=attending[-1])


def stated_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of the text decoder, with what its family means by the keys that it leaves out."""
    text, _ = _text_config(config)
    family = FAMILIES[text["model_type"]]
    given = {key: value for key, value in with_aliases(text, family.aliases).items() if value is not None}
    return {**family.defaults, **given}


def language_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of what computes logits in the model: in a wrapper around a wrapper (Qwen's Omni types), the
    inner one; otherwise the whole."""
    values = dict(config)
    while (half := TEXT_HALVES.get(values.get("model_type", ""))) and half.family in TEXT_HALVES:
        values = _unwrap(values, half)
    return values


def _misfits(sources: Mapping[str, Source], shapes: Mapping[str, Shape], stored: Mapping[str, Shape]) -> int:
    """How many parameters a file's tensors do not fit."""
    return sum(not _fits(source, shapes[name], stored) for name, source in sources.items())


def _adapted(
    namings: Sequence[Naming],
    own: Naming,
    spec: ModelSpec,
    shapes: Mapping[str, Shape],
    stored: Mapping[str, Shape],
    modules: tuple[str, str] | None,
) -> tuple[dict[str, Source], ...]:
    """How an adapter's modules may be named beside a file whose naming is `own`; their rows lie as the file's in any
    case.

    What is written is named as the file is. But where there are experts, as transformers, whose names are a family's
    last: what is on one expert alone, peft reads for some types, and only with all of a layer's projections. And beside
    towers it is named by transformers' `modules`, which peft knows alone.
    """
    known = [replace(one, interleaved=own.interleaved, index_interleaved=own.index_interleaved) for one in namings]
    written = known[-1] if any(".experts." in name for name in shapes) else own
    written = written if modules is None else replace(written, prefixes=(modules,))
    bodies = (replace(one, prefixes=(pair,)) for one in known for pair in one.prefixes)
    return (written.sources(spec, shapes, stored), *(body.sources(spec, shapes) for body in bodies))


def _fits(source: Source, shape: Shape, stored: Mapping[str, Shape]) -> bool:
    try:
        return source.shape(stored) == shape
    except (KeyError, CheckpointError):
        return False


def _text_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[TextHalf]]:
    """The text decoder's own keys, and the multimodal types unwrapped on the way to them, outermost first."""
    values, halves = dict(config), []
    kind = values.get("model_type")
    while isinstance(kind, str) and kind in TEXT_HALVES:
        half = TEXT_HALVES[kind]
        halves.append(half)
        values = _unwrap(values, half)
        kind = values["model_type"]
    if is_encoder_type(kind):
        raise encoder_error(kind)
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(sorted({*FAMILIES, *TEXT_HALVES}))
        raise UnsupportedError(f"Models of the type {shown(kind)} are not supported.", hint=f"Known types: {known}.")
    return values, halves


def _unwrap(outer: dict[str, Any], half: TextHalf) -> dict[str, Any]:
    inner = outer.get(half.section)
    if inner is None:
        # Older files keep the text keys beside the towers'.
        patterns = [re.compile(pattern) for pattern in half.no_effect]
        inner = {key: value for key, value in outer.items() if not any(p.fullmatch(key) for p in patterns)}
    elif not isinstance(inner, Mapping):
        raise CheckpointError(f"config.json sets {half.section} to {shown(inner)}, but it must be an object.")
    else:
        rest = Config(outer)
        rest.get(half.section), rest.get("tie_word_embeddings")
        rest.finish(half.no_effect)
    kind = half.family if half.family in TEXT_HALVES else _text_kind(inner, half)
    if half.family in TEXT_HALVES:
        return {**inner, "model_type": kind}
    says = {"outer": outer.get("tie_word_embeddings"), "text": inner.get("tie_word_embeddings")}
    given = [half.ties_by_default if says[where] is None else says[where] for where in half.tied]
    wrong = [value for value in given if not isinstance(value, bool)]
    if wrong:
        raise CheckpointError(f"config.json sets tie_word_embeddings to {shown(wrong[0])}, not true or false.")
    return {**inner, "model_type": kind, "tie_word_embeddings": any(given)}


def _text_kind(inner: Mapping[str, Any], half: TextHalf) -> Any:
    """A text half may name its own type; when it repeats the wrapper's, or says none, it is the usual one."""
    kind = inner.get("model_type")
    return half.family if kind is None or kind in TEXT_HALVES else kind
