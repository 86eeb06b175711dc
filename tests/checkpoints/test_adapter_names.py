"""By which names adapters of every type are written: transformers has all of these modules, peft adapts them alone, and
what is on one of a layer's projections, or in one layer, comes back."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "models"))

from test_parity import SHARED

from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.models.adapters import fresh_tensors
from landrace.models.decoder import Decoder
from landrace.models.families import FamilyModel, read_config
from landrace.models.lora_spec import PROJECTIONS, LoraSpec

pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


def adapted_by_peft(model: torch.nn.Module, config: Mapping[str, Any]) -> set[str]:
    """The parameters that peft finds by its rules for names."""
    endings = [f"{name}.weight" for name in config["target_modules"]] + config.get("target_parameters", [])
    names = (name for name, parameter in model.named_parameters() if parameter.dim() > 1)
    return {name for name in names if any(name == one or name.endswith(f".{one}") for one in endings)}


def as_stored(model: Any) -> list[FamilyModel]:
    """Of a folder in the hub's form, and of one in transformers' own where adapters have other names there."""
    own = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    config = json.loads(model.config.to_json_string())
    hub, other = read_config(config), read_config(config, own)
    return [hub] if hub.adapter_sources[0] == other.adapter_sources[0] else [hub, other]


@pytest.mark.parametrize("model_type", SHARED)
def test_adapters_on_one_projection(model_type: str, shared: Path, tmp_path: Path) -> None:
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())[model_type]
    config = transformers.AutoConfig.for_model(model_type, **entry["kwargs"])
    with torch.device("meta"):
        if entry["auto_class"] == "AutoModelForCausalLM":
            model = transformers.AutoModelForCausalLM.from_config(config)
        else:
            model = getattr(transformers, entry["model_class"])._from_config(config)
    generator = torch.Generator().manual_seed(0)
    for n, family in enumerate(as_stored(model)):
        groups: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, shape in Decoder(family.spec).adaptable(PROJECTIONS).items():
            inner = re.sub(r"layers\.\d+\.", "", name)
            groups.setdefault(inner, {})[name] = shape
            groups[f"one {inner}"] = {name: shape}
        for group, shapes in groups.items():
            spec = LoraSpec(2, 4.0, (group.rpartition(".")[2],))
            tensors = {
                name: torch.randn(tensor.shape, generator=generator)
                for name, tensor in fresh_tensors(shapes, spec).items()
            }
            folder = tmp_path / f"{n} {group}"
            write_adapter(folder, spec, tensors, family.adapter_sources[0], "base", {})
            _, again, _ = read_adapter(folder, *family.adapter_sources)
            assert all(torch.equal(again.pop(name), tensor) for name, tensor in tensors.items()), group
            # What shares a module with one of them comes with it, and changes nothing.
            assert not any(tensor.any() for name, tensor in again.items() if name.endswith("lora_B")), group
            found = adapted_by_peft(model, json.loads((folder / "adapter_config.json").read_text()))
            expected = {family.adapter_sources[0][f"{name}.weight"].tensor for name in shapes}
            assert found == expected, group
