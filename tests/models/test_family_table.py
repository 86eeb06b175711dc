"""The table of docs/families.md: every type's parity with transformers on both backends, its cache, adapters and GGUF.

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
from cpu_models import on_cpu
from test_parity import SHARED, TOLERANCE
from tiny_models import load, packed_logits, random_ids, reference, reference_logits, save, worst

from landrace.kernels.cpu import native
from landrace.kernels.mask import Chunked, Sliding
from landrace.models.cache_spec import Paged
from landrace.models.decoder import Decoder
from landrace.models.families import TEXT_HALVES
from landrace.models.families.gguf_architectures import ARCHITECTURES
from landrace.models.lora_spec import PROJECTIONS
from landrace.models.mixer_spec import Mla
from landrace.models.spec import ModelSpec

PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
HEAD = "| `model_type` | largest difference | cache | adapters | GGUF |"


def row(model_type: str, entry: Mapping[str, Any], extension: ModuleType) -> tuple[list[str], float]:
    """The cells of a type but its difference, and the difference."""
    of_text = entry["auto_class"] == "AutoModelForCausalLM"
    model = reference(model_type, entry["kwargs"], None if of_text else entry["model_class"])
    with tempfile.TemporaryDirectory() as folder:
        family, decoder = load(*save(model, Path(folder)))
    sequences = random_ids()
    theirs = reference_logits(model, sequences)
    served = on_cpu(extension, decoder, "float32")
    difference = max(worst(packed_logits(one, sequences), theirs) for one in (decoder, served))  # type: ignore[arg-type]
    return [f"`{model_type}`", _cache(family.spec), _adapters(decoder), _gguf(model_type)], difference


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
    own = [name for name in ARCHITECTURES if name == model_type.replace("_", "")]
    own = own or [name for name, architecture in ARCHITECTURES.items() if architecture.model_type == kind]
    return ", ".join(f"`{name}`" for name in own) or "no"


def table(entries: Mapping[str, Any], extension: ModuleType) -> str:
    lines = [HEAD, "| --- | --- | --- | --- | --- |"]
    for model_type in SHARED:
        (name, *rest), difference = row(model_type, entries[model_type], extension)
        lines.append("| " + " | ".join([name, f"{difference:.0e}", *rest]) + " |")
    return "\n".join(lines)


def stored() -> dict[str, list[str]]:
    """The page's rows: the cells after the type."""
    rows = PAGE.read_text().partition(HEAD)[2].strip().splitlines()[1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows if line.startswith("| `")]
    return {name.strip("`"): rest for name, *rest in cells if name.strip("`") in SHARED and len(rest) == 4}


def test_the_page_lists_every_type() -> None:
    assert list(stored()) == list(SHARED)


@pytest.mark.parametrize("model_type", SHARED)
def test_the_row_is_what_the_run_finds(model_type: str, shared: Path, extension: ModuleType) -> None:
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())[model_type]
    (_, *rest), difference = row(model_type, entry, extension)
    told, *cells = stored()[model_type]
    assert cells == rest
    # Another processor rounds otherwise, but not by much.
    assert difference < min(TOLERANCE, 10 * float(told))


if __name__ == "__main__":
    found = json.loads((Path(sys.argv[1]) / "families" / "tiny_configs.json").read_text())
    kernels = native()
    assert kernels is not None, "The C++ kernels are not built."
    before, _, after = PAGE.read_text().partition(HEAD)
    PAGE.write_text(before + table(found, kernels) + "\n\n" + after.partition("\n\n")[2])
