"""LoRA adapters in peft's format: adapter_config.json and adapter_model.safetensors.

On disk an adapter has the hub's modules; in memory it has canonical ones. `Source` carries B from one to the other (its
rows are the module's outputs), and A where its columns, the inputs, are heads in another order. Where the hub fuses
several projections into one module:

- reading: every projection gets A, and its own rows of B;
- writing: projections with one common A share it; otherwise the module gets the A's under one another and the B's as
  blocks on a diagonal, with the sum of the ranks and an alpha that keeps the scale, so that B A is the same product.

Experts are modules of their own there, or parameters with all of a layer (`adapter_modules`), and one weight with a
leading dimension here.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landrace.checkpoints.adapter_config import PeftConfig, build_config, ends_with, parse_config
from landrace.checkpoints.adapter_modules import EXPERTS, HubModule, fold, hub_modules, module_places, of_expert, unfold
from landrace.checkpoints.bounded import read_json, readable
from landrace.checkpoints.folder import whole_folder
from landrace.checkpoints.safetensors_file import read_safetensors
from landrace.checkpoints.tensor_info import TensorInfo, require_weights
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

_PREFIX = "base_model.model."
_LEAVES = {".lora_A.weight": 0, ".lora_B.weight": 1}


@dataclass(frozen=True)
class _Pair:
    """A [r, in] and B [out, r] of one module, in float32; with a leading dimension for all experts of a layer."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[-2]


def read_adapter(folder: Path, *layouts: Mapping[str, Source]) -> tuple[LoraSpec, dict[str, Tensor], dict[str, Any]]:
    """(spec, tensors by canonical name, what landrace.json says). `layouts` are the ways in which the base's modules
    may be named (`Checkpoint.adapter_sources`); the adapter's own is the first that has a place for all its tensors.

    Modules of unequal rank or scale are brought to one rank with zeros and to one scale by a factor on B; weights that
    the adapter leaves out have no tensors. CheckpointError: damaged, or made for another model. UnsupportedError: a
    field or a tensor asks for something other than plain LoRA on linear projections and experts.
    """
    with readable(folder):
        config = parse_config(read_json(folder / CONFIG_NAME, MAX_JSON_BYTES))
        infos = _read_infos(folder)
        modules, places = _fitting_layout({place for place, _ in infos}, config, layouts)
        stored = _read_pairs(infos, config, modules, places)
        record = read_record(folder)
    pairs: dict[str, _Pair] = {}
    for module, pair in stored.items():
        pairs |= _split(pair, modules[module].parts, config.rank)
    rank = _common_rank(pairs)
    spec = LoraSpec(
        rank=rank,
        alpha=_alpha_at(config.alpha, config.rank, rank, config.rslora),
        targets=tuple(name for name in PROJECTIONS if any(_leaf(module) == name for module in pairs)),
        rslora=config.rslora,
    )
    whole = _with_all_experts({name: _widen(pair, rank) for name, pair in pairs.items()}, modules)
    return spec, _by_weight(whole), record


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
    modules = hub_modules(sources)
    known = {name for module in modules.values() for name in module.parts}
    pairs = _pairs_by_name(tensors, spec.rank, known)
    if unknown := sorted(pairs.keys() - known):
        raise CheckpointError(f"The adapter's module '{unknown[0]}' is not one of this model's projections.")
    stored = {
        name: _join(module.parts, {part: pairs[part] for part in module.parts if part in pairs})
        for name, module in modules.items()
        if any(part in pairs for part in module.parts)
    }
    mixture = any(module.all_experts for module in modules.values())
    parameters = {name: _parameter(name, modules[name]) for name in stored if mixture and modules[name].in_feed_forward}
    ranks = {
        _without_body(parameters.get(name, name)): pair.rank for name, pair in stored.items() if pair.rank != spec.rank
    }
    config = PeftConfig(
        rank=spec.rank,
        alpha=spec.alpha,
        rslora=spec.rslora,
        rank_pattern=ranks,
        alpha_pattern={name: _alpha_at(spec.alpha, spec.rank, rank, spec.rslora) for name, rank in ranks.items()},
        # Beside experts a leaf alone may be another module's too: attention has a gate_proj in some.
        targets=_told_by(stored.keys() - parameters.keys(), modules, _in_layer if mixture else _leaf),
        parameters=_told_by(
            parameters.values(), {_parameter(name, module) for name, module in modules.items()}, _in_layer
        ),
        selective=False,
    )
    files = (CONFIG_NAME, TENSORS_NAME, METADATA_NAME)
    with whole_folder(folder, may_replace=lambda name: name in files) as made:
        write_json(made / CONFIG_NAME, build_config(config, base_name))
        write_json(made / METADATA_NAME, metadata)
        save_tensors(
            made / TENSORS_NAME,
            {
                f"{_PREFIX}{place}{leaf}": _as_peft(stored[name], modules[name])[which]
                for place, name in module_places(modules, stored.__contains__).items()
                if name in stored
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


def _of_all_experts(canonical: str) -> str:
    return re.sub(r"(?<=\.experts\.)\d+\.", "", canonical)


def _parameter(name: str, module: HubModule) -> str:
    """What the weight of a module is called."""
    return name if module.all_experts else f"{name}.weight"


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]


def _without_body(module: str) -> str:
    """The name from the layer's on: what is before it differs between files and models."""
    return re.sub(r".*\.(?=layers\.\d+\.)", "", module)


def _told_by(names: Iterable[str], known: Iterable[str], shortened: Callable[[str], str]) -> tuple[str, ...]:
    """By which endings peft finds these and nothing else: short ones, unless others of the `known` have them, or what
    lies beside the decoder may, whose layers then are deeper than in one module."""
    whole = set(names)
    short = {shortened(name) for name in whole}
    beside = any(name.removesuffix(_without_body(name)).count(".") > 1 for name in whole)
    others = (name for name in known if name not in whole)
    shared = beside or any(ends_with(name, ending) for name in others for ending in short)
    return tuple(whole if shared else short)


def _in_layer(module: str) -> str:
    """The name after the layer's, which is the same in all layers."""
    return re.sub(r".*\blayers\.\d+\.", "", module)


def _alpha_at(alpha: float, rank: int, other: int, rslora: bool) -> float:
    """The alpha that gives rank `other` the scale that `alpha` gives `rank`."""
    return alpha if rank == other else alpha * (math.sqrt(other / rank) if rslora else other / rank)


def _read_infos(folder: Path) -> dict[tuple[str, int], TensorInfo]:
    """By place, and 0 for A or 1 for B."""
    if not (folder / TENSORS_NAME).is_file() and (folder / "adapter_model.bin").is_file():
        raise UnsupportedError(
            f"{folder} has its weights only as adapter_model.bin, a pickle, which can run code when it is opened.",
            hint="Save the adapter again with peft's save_pretrained, which writes safetensors.",
        )
    infos = {_parse_key(key): info for key, info in read_safetensors(folder / TENSORS_NAME).items()}
    if not infos:
        raise CheckpointError(f"The adapter in {folder} is empty.")
    return infos


def _fitting_layout(
    found: set[str], config: PeftConfig, layouts: Iterable[Mapping[str, Source]]
) -> tuple[dict[str, HubModule], dict[str, str]]:
    """The modules of the layout that fits the tensors best, and the places of those that the adapter may have."""
    known: list[tuple[dict[str, HubModule], dict[str, str]]] = []
    for modules in map(hub_modules, layouts):
        known.append((modules, module_places(modules, config.is_target_parameter)))
        if found <= known[-1][1].keys():
            return known[-1]
    return max(known, key=lambda pair: len(found & pair[1].keys()))


def _read_pairs(
    infos: Mapping[tuple[str, int], TensorInfo],
    config: PeftConfig,
    modules: Mapping[str, HubModule],
    places: Mapping[str, str],
) -> dict[str, _Pair]:
    """By module, all at the scale of `config`."""
    told = _told(config, modules)
    halves: dict[str, dict[int, Tensor]] = {}
    for (place, which), info in infos.items():
        name = _module_at(place, places)
        if name not in told:
            raise CheckpointError(f"The adapter has weights for '{name}', which its target_modules do not name.")
        require_weights(info)
        if len(info.shape) != 2:
            raise CheckpointError(f"The adapter's '{info.name}' has the shape {list(info.shape)}, not a matrix's.")
        halves.setdefault(name, {})[which] = info.load().float()
    all_there = config.targets is not None and not config.selective
    expected = {name for name, by in told.items() if all_there or by == _parameter(name, modules[name])}
    if absent := sorted(expected - halves.keys()):
        raise CheckpointError(f"The adapter targets '{absent[0]}', but has no weights for it.")
    return {name: _pair(name, told[name], modules[name], half, config) for name, half in halves.items()}


def _told(config: PeftConfig, modules: Mapping[str, HubModule]) -> dict[str, str]:
    """The modules that the configuration knows, and by which name: their parameter's or their own."""
    found = {}
    for name, module in modules.items():
        parameter = _parameter(name, module)
        if config.is_target_parameter(parameter):
            found[name] = parameter
        elif not module.all_experts and config.is_target(name):
            found[name] = name
    return found


def _parse_key(key: str) -> tuple[str, int]:
    for leaf, which in _LEAVES.items():
        if key.startswith(_PREFIX) and key.endswith(leaf):
            return key.removeprefix(_PREFIX).removesuffix(leaf), which
    raise UnsupportedError(f"The adapter's tensor '{key}' is not lora_A or lora_B of a linear projection.")


def _module_at(place: str, places: Mapping[str, str]) -> str:
    if place in places:
        return places[place]
    if _leaf(place) in ("lm_head", "embed_tokens"):
        raise UnsupportedError(f"The adapter changes '{place}'; only the projections of the layers can be adapted.")
    raise CheckpointError(
        f"The adapter changes '{place}', which this model does not have.", hint="Load it on the model it was made for."
    )


def _pair(name: str, told: str, module: HubModule, half: Mapping[int, Tensor], config: PeftConfig) -> _Pair:
    if half.keys() != {0, 1}:
        raise CheckpointError(f"The adapter has only one of lora_A and lora_B for '{name}'.")
    a, b, rank = half[0], half[1], config.rank_of(told)
    experts = a.shape[0] // rank if module.all_experts else 1
    if not experts * rank == a.shape[0] == b.shape[1]:
        raise CheckpointError(f"The adapter's '{name}' has A {list(a.shape)} and B {list(b.shape)}, not rank {rank}.")
    if module.all_experts:
        a, b = unfold(a, b, rank, module.swapped)
    factor = config.scale_of(told) / config.scale
    return _Pair(a, b if math.isclose(factor, 1.0, rel_tol=1e-12) else b * factor)


def _as_peft(pair: _Pair, module: HubModule) -> tuple[Tensor, Tensor]:
    return fold(pair.a, pair.b, module.swapped) if module.all_experts else (pair.a, pair.b)


def _split(pair: _Pair, parts: Mapping[str, Source], rank: int) -> dict[str, _Pair]:
    """The canonical projections of one hub module."""
    taken = {name: source.take_rows(pair.b.movedim(-2, 0)).movedim(0, -2) for name, source in parts.items()}
    if len(parts) > 1 and pair.rank == rank * len(parts):
        blocks = {name: slice(i * rank, (i + 1) * rank) for i, name in enumerate(_in_row_order(parts))}
        if all(_is_zero_outside(taken[name], block) for name, block in blocks.items()):
            return {name: _Pair(pair.a[..., block, :], taken[name][..., block]) for name, block in blocks.items()}
    return {name: _Pair(parts[name].take_columns(pair.a), b) for name, b in taken.items()}


def _common_rank(pairs: Mapping[str, _Pair]) -> int:
    ranks = {pair.rank for pair in pairs.values()}
    if max(ranks) > MAX_RANK_RATIO * min(ranks):
        raise UnsupportedError(
            f"The adapter's ranks run from {min(ranks)} to {max(ranks)}; they may differ {MAX_RANK_RATIO}-fold at most."
        )
    return max(ranks)


def _is_zero_outside(b: Tensor, block: slice) -> bool:
    return not b[..., : block.start].any() and not b[..., block.stop :].any()


def _join(parts: Mapping[str, Source], pairs: Mapping[str, _Pair]) -> _Pair:
    """The inverse of `_split`: one hub module out of those of its projections that are adapted."""
    order = [name for name in _in_row_order(parts) if name in pairs]
    ins = [parts[name].put_columns(pairs[name].a) for name in order]
    shared = all(torch.equal(ins[0], one) for one in ins)
    a = ins[0] if shared else torch.cat(ins, dim=-2)
    out = max(source.total_rows or pairs[name].b.shape[-2] for name, source in parts.items())
    b = torch.zeros(*a.shape[:-2], out, a.shape[-2])
    at = 0
    for name in order:
        width = pairs[name].rank
        parts[name].put_rows(b[..., at : at + width].movedim(-2, 0), pairs[name].b.movedim(-2, 0))
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


def _with_all_experts(pairs: Mapping[str, _Pair], modules: Mapping[str, HubModule]) -> dict[str, _Pair]:
    """Zeros (which take no memory) for experts without an adapter beside those of the same weight that have one."""
    like = {
        _of_all_experts(name): _Pair(torch.zeros(()).expand_as(pair.a), torch.zeros(()).expand_as(pair.b))
        for name, pair in pairs.items()
    }
    names = [name for module in modules.values() for name in module.parts if _of_all_experts(name) in like]
    return {name: pairs.get(name) or like[_of_all_experts(name)] for name in names}


def _by_weight(pairs: Mapping[str, _Pair]) -> dict[str, Tensor]:
    """Canonical tensors: those of experts one on another."""
    found: dict[str, list[_Pair]] = {}
    for name, pair in pairs.items():
        found.setdefault(_of_all_experts(name), []).append(pair)
    tensors = {}
    for name, some in found.items():
        for leaf, halves in (("lora_A", [pair.a for pair in some]), ("lora_B", [pair.b for pair in some])):
            one_by_one = EXPERTS in name and halves[0].dim() == 2
            tensors[f"{name}.{leaf}"] = torch.stack(halves) if one_by_one else halves[0]
    return tensors


def _pairs_by_name(tensors: Mapping[str, Tensor], rank: int, known: Collection[str]) -> dict[str, _Pair]:
    """By the names that are `known`: those of a layer's experts one by one, or all together."""
    pairs: dict[str, _Pair] = {}
    for name in {name.rpartition(".")[0] for name in tensors}:
        a, b = tensors.get(f"{name}.lora_A"), tensors.get(f"{name}.lora_B")
        axes = 3 if EXPERTS in name else 2
        if a is None or b is None or not a.dim() == b.dim() == axes or not a.shape[-2] == b.shape[-1] == rank:
            raise CheckpointError(f"The adapter's module '{name}' is not a lora_A and a lora_B of rank {rank}.")
        a, b = a.detach().float().cpu(), b.detach().float().cpu()
        if axes == 2 or name in known:
            pairs[name] = _Pair(a, b)
        else:
            pairs |= {of_expert(name, n): _Pair(*pair) for n, pair in enumerate(zip(a, b, strict=True))}
    return pairs
