"""LoRA adapters in peft's format: adapter_config.json and adapter_model.safetensors.

On disk an adapter has the hub's modules; in memory it has canonical ones. `Source` carries B from one to the other
(only its rows are the module's outputs; A's columns are its inputs, which never move). Where the hub fuses several
projections into one module:

- reading: every projection gets A, and its own rows of B;
- writing: projections with one common A share it; otherwise the module gets the A's under one another and the B's as
  blocks on a diagonal, with the sum of the ranks and an alpha that keeps the scale, so that B A is the same product.

Experts are modules of their own there, and one weight with a leading dimension here. Where the hub's files keep all
experts in one tensor, adapters on them are refused.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landrace.checkpoints.adapter_config import PeftConfig, build_config, parse_config
from landrace.checkpoints.bounded import read_json, readable
from landrace.checkpoints.folder import whole_folder
from landrace.checkpoints.safetensors_file import read_safetensors
from landrace.checkpoints.tensor_info import require_weights
from landrace.checkpoints.write import save_tensors, write_json
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.families.weights import Source
from landrace.models.lora_spec import PROJECTIONS, LoraSpec

CONFIG_NAME = "adapter_config.json"
TENSORS_NAME = "adapter_model.safetensors"
METADATA_NAME = "landrace.json"
MAX_JSON_BYTES = 1 << 22
MAX_RANK_RATIO = 16
"""Largest over smallest rank: unequal ranks are filled with zeros, and a file must not grow without bound by that."""

EXPERTS = ".experts."
_PREFIX = "base_model.model."
_LEAVES = {".lora_A.weight": 0, ".lora_B.weight": 1}


@dataclass(frozen=True)
class _Pair:
    """A [r, in] and B [out, r] of one module, in float32."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]


def read_adapter(folder: Path, sources: Mapping[str, Source]) -> tuple[LoraSpec, dict[str, Tensor], dict[str, Any]]:
    """(spec, tensors by canonical name, what landrace.json says). `sources` are those of the base's config.json.

    Modules of unequal rank or scale are brought to one rank with zeros and to one scale by a factor on B; layers that
    the adapter leaves out get zeros. CheckpointError: damaged, or made for another model. UnsupportedError: a field
    or a tensor asks for something other than plain LoRA on linear projections.
    """
    modules = _modules(sources)
    with readable(folder):
        config = parse_config(read_json(folder / CONFIG_NAME, MAX_JSON_BYTES))
        stored = _read_pairs(folder, config, modules)
        record = read_record(folder)
    pairs: dict[str, _Pair] = {}
    for module, pair in stored.items():
        factor = config.scale_of(module) / config.scale
        if not math.isclose(factor, 1.0, rel_tol=1e-12):
            pair = _Pair(pair.a, pair.b * factor)
        pairs |= _split(pair, modules[module], config.rank)
    rank = _common_rank(pairs)
    spec = LoraSpec(
        rank=rank,
        alpha=_alpha_at(config.alpha, config.rank, rank, config.rslora),
        targets=tuple(name for name in PROJECTIONS if any(_leaf(module) == name for module in pairs)),
        rslora=config.rslora,
    )
    whole = _with_left_out({name: _widen(pair, rank) for name, pair in pairs.items()}, modules)
    return spec, _by_weight(whole), record


def check_writable(names: Iterable[str], sources: Mapping[str, Source]) -> None:
    """UnsupportedError for weights (canonical names without `.weight`) that no adapter of the hub's kind can change."""
    if any(EXPERTS in name and (at := sources.get(f"{name}.weight")) and at.stacked is None for name in names):
        raise UnsupportedError(
            "An adapter on experts cannot be written for this model: the hub keeps all its experts in one tensor.",
            hint="Tune without the experts' projections: --targets q_proj,k_proj,v_proj,o_proj.",
        )


def write_adapter(
    folder: Path,
    spec: LoraSpec,
    tensors: Mapping[str, Tensor],
    sources: Mapping[str, Source],
    base_name: str,
    metadata: Mapping[str, Any],
) -> None:
    """Write canonical `tensors` as an adapter that peft loads on the hub model `base_name`, and `metadata` beside it
    in landrace.json. `sources` are those of the base's config.json, whatever format the base was loaded from.

    CheckpointError: a tensor is missing, unknown or of the wrong shape, or `folder` holds other files.
    """
    pairs = _pairs_by_module(tensors, spec.rank)
    modules = _modules(sources)
    check_writable(map(_of_all_experts, pairs), sources)
    if unknown := sorted(pairs.keys() - {name for parts in modules.values() for name in parts}):
        raise CheckpointError(f"The adapter's module '{unknown[0]}' is not one of this model's projections.")
    stored = {
        module: _join(parts, {name: pairs[name] for name in parts if name in pairs})
        for module, parts in modules.items()
        if any(name in pairs for name in parts)
    }
    ranks = {module: pair.rank for module, pair in stored.items() if pair.rank != spec.rank}
    config = PeftConfig(
        rank=spec.rank,
        alpha=spec.alpha,
        rslora=spec.rslora,
        rank_pattern=ranks,
        alpha_pattern={name: _alpha_at(spec.alpha, spec.rank, rank, spec.rslora) for name, rank in ranks.items()},
        targets=tuple({_leaf(module) for module in stored}),
        selective=False,
    )
    files = (CONFIG_NAME, TENSORS_NAME, METADATA_NAME)
    with whole_folder(folder, may_replace=lambda name: name in files) as made:
        write_json(made / CONFIG_NAME, build_config(config, base_name))
        write_json(made / METADATA_NAME, metadata)
        save_tensors(
            made / TENSORS_NAME,
            {
                f"{_PREFIX}{module}{leaf}": (pair.a, pair.b)[which]
                for module, pair in stored.items()
                for leaf, which in _LEAVES.items()
            },
        )


def read_record(folder: Path) -> dict[str, Any]:
    """What landrace.json says of how the adapter was made; {} for an adapter from elsewhere."""
    path = folder / METADATA_NAME
    return read_json(path, MAX_JSON_BYTES) if path.exists() else {}


def adapter_sha256(folder: Path) -> str:
    """Hash of the adapter's tensors file. CheckpointError if it cannot be read."""
    path = folder / TENSORS_NAME
    with readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _modules(sources: Mapping[str, Source]) -> dict[str, dict[str, Source]]:
    """Hub module to the canonical projections it holds; experts by number, as `layers.N.mlp.experts.E.up_proj`."""
    modules: dict[str, dict[str, Source]] = {}
    for name, source in sources.items():
        canonical = name.removesuffix(".weight")
        if canonical == name or _leaf(canonical) not in PROJECTIONS:
            continue
        if source.stacked is None and EXPERTS not in canonical:
            modules.setdefault(source.tensor.removesuffix(".weight"), {})[canonical] = source
        for expert, tensor in enumerate(source.tensors if source.stacked is not None else ()):
            one = replace(source, tensor=tensor, stacked=None)
            modules[tensor.removesuffix(".weight")] = {_of_expert(canonical, expert): one}
    return modules


def _of_expert(canonical: str, expert: int) -> str:
    return canonical.replace(EXPERTS, f"{EXPERTS}{expert}.")


def _of_all_experts(canonical: str) -> str:
    return re.sub(r"(?<=\.experts\.)\d+\.", "", canonical)


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]


def _alpha_at(alpha: float, rank: int, other: int, rslora: bool) -> float:
    """The alpha that gives rank `other` the scale that `alpha` gives `rank`."""
    return alpha if rank == other else alpha * (math.sqrt(other / rank) if rslora else other / rank)


def _read_pairs(folder: Path, config: PeftConfig, modules: Mapping[str, Mapping[str, Source]]) -> dict[str, _Pair]:
    if not (folder / TENSORS_NAME).is_file() and (folder / "adapter_model.bin").is_file():
        raise UnsupportedError(
            f"{folder} has its weights only as adapter_model.bin, a pickle, which can run code when it is opened.",
            hint="Save the adapter again with peft's save_pretrained, which writes safetensors.",
        )
    halves: dict[str, dict[int, Tensor]] = {}
    for key, info in read_safetensors(folder / TENSORS_NAME).items():
        module, which = _parse_key(key)
        _check_module(module, modules)
        if not config.is_target(module):
            raise CheckpointError(f"The adapter has weights for '{module}', which its target_modules do not name.")
        require_weights(info)
        if len(info.shape) != 2:
            raise CheckpointError(f"The adapter's '{key}' has the shape {list(info.shape)}, not a matrix's.")
        halves.setdefault(module, {})[which] = info.load().float()
    if not halves:
        raise CheckpointError(f"The adapter in {folder} is empty.")
    expected = halves.keys() if config.targets is None or config.selective else filter(config.is_target, modules)
    if absent := sorted(set(expected) - halves.keys()):
        raise CheckpointError(f"The adapter targets '{absent[0]}', but has no weights for it.")
    return {module: _pair(module, half, config) for module, half in halves.items()}


def _parse_key(key: str) -> tuple[str, int]:
    for leaf, which in _LEAVES.items():
        if key.startswith(_PREFIX) and key.endswith(leaf):
            return key.removeprefix(_PREFIX).removesuffix(leaf), which
    raise UnsupportedError(f"The adapter's tensor '{key}' is not lora_A or lora_B of a linear projection.")


def _check_module(module: str, modules: Mapping[str, Mapping[str, Source]]) -> None:
    if module in modules:
        return
    if _leaf(module) in ("lm_head", "embed_tokens"):
        raise UnsupportedError(f"The adapter changes '{module}'; only the projections of the layers can be adapted.")
    raise CheckpointError(
        f"The adapter changes '{module}', which this model does not have.", hint="Load it on the model it was made for."
    )


def _pair(module: str, half: Mapping[int, Tensor], config: PeftConfig) -> _Pair:
    if half.keys() != {0, 1}:
        raise CheckpointError(f"The adapter has only one of lora_A and lora_B for '{module}'.")
    a, b = half[0], half[1]
    rank = config.rank_of(module)
    if not rank == a.shape[0] == b.shape[1]:
        raise CheckpointError(f"The adapter's '{module}' has A {list(a.shape)} and B {list(b.shape)}, not rank {rank}.")
    return _Pair(a, b)


def _split(pair: _Pair, parts: Mapping[str, Source], rank: int) -> dict[str, _Pair]:
    """The canonical projections of one hub module."""
    taken = {name: source.take_rows(pair.b) for name, source in parts.items()}
    if len(parts) > 1 and pair.rank == rank * len(parts):
        blocks = {name: slice(i * rank, (i + 1) * rank) for i, name in enumerate(_in_row_order(parts))}
        if all(_is_zero_outside(taken[name], block) for name, block in blocks.items()):
            return {name: _Pair(pair.a[block], taken[name][:, block]) for name, block in blocks.items()}
    return {name: _Pair(pair.a, b) for name, b in taken.items()}


def _common_rank(pairs: Mapping[str, _Pair]) -> int:
    ranks = {pair.rank for pair in pairs.values()}
    if max(ranks) > MAX_RANK_RATIO * min(ranks):
        raise UnsupportedError(
            f"The adapter's ranks run from {min(ranks)} to {max(ranks)}; they may differ {MAX_RANK_RATIO}-fold at most."
        )
    return max(ranks)


def _is_zero_outside(b: Tensor, block: slice) -> bool:
    return not b[:, : block.start].any() and not b[:, block.stop :].any()


def _join(parts: Mapping[str, Source], pairs: Mapping[str, _Pair]) -> _Pair:
    """The inverse of `_split`: one hub module out of those of its projections that are adapted."""
    order = [name for name in _in_row_order(parts) if name in pairs]
    first = pairs[order[0]].a
    shared = all(torch.equal(first, pairs[name].a) for name in order)
    a = first if shared else torch.cat([pairs[name].a for name in order])
    out = max(source.rows[1] if source.rows else pairs[name].b.shape[0] for name, source in parts.items())
    b = torch.zeros(out, a.shape[0])
    at = 0
    for name in order:
        width = pairs[name].rank
        parts[name].put_rows(b[:, at : at + width], pairs[name].b)
        at += 0 if shared else width
    return _Pair(a, b)


def _in_row_order(parts: Mapping[str, Source]) -> list[str]:
    return sorted(parts, key=lambda name: parts[name].rows or (0, 0))


def _widen(pair: _Pair, rank: int) -> _Pair:
    """The same product at a larger rank."""
    more = rank - pair.rank
    if not more:
        return pair
    return _Pair(torch.nn.functional.pad(pair.a, (0, 0, 0, more)), torch.nn.functional.pad(pair.b, (0, more)))


def _with_left_out(pairs: Mapping[str, _Pair], modules: Mapping[str, Mapping[str, Source]]) -> dict[str, _Pair]:
    """Zeros (which take no memory) for layers and experts without an adapter, shaped like the projection of another.

    UnsupportedError where every module of one kind is left out, but not of another whose last name is the same.
    """
    like = {
        _kind(name): _Pair(torch.zeros(()).expand_as(pair.a), torch.zeros(()).expand_as(pair.b))
        for name, pair in pairs.items()
    }
    targets = set(map(_leaf, pairs))
    whole = {}
    for name in (name for parts in modules.values() for name in parts if _leaf(name) in targets):
        if name not in pairs and _kind(name) not in like:
            raise UnsupportedError(
                f"The adapter leaves out every module like '{name}', but has others called {_leaf(name)}."
            )
        whole[name] = pairs.get(name) or like[_kind(name)]
    return whole


def _kind(module: str) -> str:
    """The same for modules of one shape: the name without numbers."""
    return re.sub(r"\d+", "", module)


def _by_weight(pairs: Mapping[str, _Pair]) -> dict[str, Tensor]:
    """Canonical tensors: those of experts one on another."""
    found: dict[str, list[_Pair]] = {}
    for name, pair in pairs.items():
        found.setdefault(_of_all_experts(name), []).append(pair)
    tensors = {}
    for name, some in found.items():
        for leaf, halves in (("lora_A", [pair.a for pair in some]), ("lora_B", [pair.b for pair in some])):
            tensors[f"{name}.{leaf}"] = torch.stack(halves) if EXPERTS in name else halves[0]
    return tensors


def _pairs_by_module(tensors: Mapping[str, Tensor], rank: int) -> dict[str, _Pair]:
    pairs: dict[str, _Pair] = {}
    for module in {name.rpartition(".")[0] for name in tensors}:
        a, b = tensors.get(f"{module}.lora_A"), tensors.get(f"{module}.lora_B")
        axes = 3 if EXPERTS in module else 2
        if a is None or b is None or not a.dim() == b.dim() == axes or not a.shape[-2] == b.shape[-1] == rank:
            raise CheckpointError(f"The adapter's module '{module}' is not a lora_A and a lora_B of rank {rank}.")
        a, b = a.detach().float().cpu(), b.detach().float().cpu()
        if axes == 2:
            pairs[module] = _Pair(a, b)
        else:
            pairs |= {_of_expert(module, n): _Pair(*pair) for n, pair in enumerate(zip(a, b, strict=True))}
    return pairs
