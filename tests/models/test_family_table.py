"""The table of docs/families.md: every type's parity with transformers on both backends, its gradients, its cache in
pieces, its adapters and GGUF.

    python tests/models/test_family_table.py SHARED_FOLDER

writes it anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cpu_models import at_once, at_random, on_cpu, stepped
from gradients import gradient_difference
from test_parity import SHARED, TOLERANCE
from tiny_models import load, packed_logits, random_ids, reference, reference_logits, save, worst

from landrace.kernels.cpu import native
from landrace.kernels.mask import Chunked, Sliding
from landrace.models.cache_spec import Paged
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.decoder import Decoder
from landrace.models.families import TEXT_HALVES
from landrace.models.families.gguf_architectures import ARCHITECTURES
from landrace.models.lora_spec import PROJECTIONS
from landrace.models.mixer_spec import Mla
from landrace.models.spec import ModelSpec

PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
HEAD = "| `model_type` | logits | gradients | cache | in pieces | adapters | GGUF |"
N_FIGURES = 2
"""Cells that are measured; the others are exact."""
GRADIENTS = 1e-3
"""Of the greatest gradient of a tensor. transformers' chunked delta rule in float32 is that far from the plain one."""


def row(model_type: str, entry: Mapping[str, Any], extension: ModuleType) -> tuple[list[float], list[str]]:
    """The largest differences of a logit and of a gradient, and the other cells of a type."""
    of_text = entry["auto_class"] == "AutoModelForCausalLM"
    model = reference(model_type, entry["kwargs"], None if of_text else entry["model_class"])
    with tempfile.TemporaryDirectory() as folder:
        family, decoder = load(*save(model, Path(folder)))
    sequences = random_ids()
    theirs = reference_logits(model, sequences)
    served = on_cpu(extension, decoder, "float32")
    difference = max(worst(packed_logits(one, sequences), theirs) for one in (decoder, served))  # type: ignore[arg-type]
    gradients = gradient_difference(family, decoder, model, sequences)
    cells = [_cache(family.spec), _in_pieces(served, sequences), _adapters(decoder), _gguf(model_type)]
    return [difference, gradients], cells


def _in_pieces(served: CpuDecoder, sequences: list[list[int]]) -> str:
    whole = stepped(served, sequences, at_once(sequences))
    pieces = [stepped(served, sequences, at_random(sequences, seed)) for seed in range(2)]
    return "the same bits" if all(map(torch.equal, 2 * whole, [*pieces[0], *pieces[1]])) else "other bits"


def _cache(spec: ModelSpec) -> str:
    kinds = {Sliding: "window", Chunked: "chunks"}
    latents = "latents of " if any(isinstance(layer.mixer, Mla) for layer in spec.layers) else ""
    kept = [group.spec for group in spec.cache_groups]
    names = (
        _kept(one, latents + kinds.get(type(one.mask), "all")) if isinstance(one, Paged) else "state" for one in kept
    )
    return ", ".join(dict.fromkeys(names))


def _kept(group: Paged, usual: str) -> str:
    return usual if group.every == 1 else f"a row of {group.every}"


def _adapters(decoder: Decoder) -> str:
    return "all, experts too" if any(".experts." in name for name in decoder.adaptable(PROJECTIONS)) else "all"


def _gguf(model_type: str) -> str:
    kind = model_type
    while kind in TEXT_HALVES:
        kind = TEXT_HALVES[kind].family
    kind = {"deepseek_v2": "deepseek_v3", "glm4_moe_lite": "deepseek_v3"}.get(kind, kind)  # One architecture for all.
    own = [name for name in ARCHITECTURES if name in (model_type, model_type.replace("_", ""))]
    own = own or [name for name, architecture in ARCHITECTURES.items() if architecture.model_type == kind]
    return ", ".join(f"`{name}`" for name in own) or "no"


def table(entries: Mapping[str, Any], extension: ModuleType) -> str:
    lines = [HEAD, "| --- | --- | --- | --- | --- | --- | --- |"]
    for model_type in SHARED:
        figures, cells = row(model_type, entries[model_type], extension)
        lines.append("| " + " | ".join([f"`{model_type}`", *(f"{one:.0e}" for one in figures), *cells]) + " |")
    return "\n".join(lines)


def stored() -> dict[str, list[str]]:
    """The page's rows: the cells after the type."""
    rows = PAGE.read_text().partition(HEAD)[2].strip().splitlines()[1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows if line.startswith("| `")]
    width = HEAD.count("|") - 2
    return {name.strip("`"): rest for name, *rest in cells if name.strip("`") in SHARED and len(rest) == width}


def test_the_page_lists_every_type() -> None:
    assert list(stored()) == list(SHARED)


@pytest.mark.parametrize("model_type", SHARED)
def test_the_row_is_what_the_run_finds(model_type: str, shared: Path, extension: ModuleType) -> None:
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())[model_type]
    figures, cells = row(model_type, entry, extension)
    told = stored()[model_type]
    assert told[N_FIGURES:] == cells
    # Another processor rounds otherwise, but not by much.
    for one, limit, figure in zip(figures, (TOLERANCE, GRADIENTS), map(float, told), strict=False):
        assert one < min(limit, 10 * figure)


if __name__ == "__main__":
    found = json.loads((Path(sys.argv[1]) / "families" / "tiny_configs.json").read_text())
    kernels = native()
    assert kernels is not None, "The C++ kernels are not built."
    before, _, after = PAGE.read_text().partition(HEAD)
    PAGE.write_text(before + table(found, kernels) + "\n\n" + after.partition("\n\n")[2])
