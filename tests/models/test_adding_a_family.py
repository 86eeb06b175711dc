"""The code of docs/adding-a-family.md adds a family of known blocks, and one with a block of its own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cpu_models import on_cpu
from tiny_models import (
    load,
    packed_logits,
    random_decoder,
    random_ids,
    reference,
    reference_logits,
    save,
    tiny_spec,
    worst,
)

from landrace.models import families, layer
from landrace.models.build import ffn_block
from landrace.models.declared import declared
from landrace.models.ops import Ops
from landrace.models.recorder import Recorder
from landrace.models.reference_ops import ReferenceOps

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-family.md"
TINY = {
    "vocab_size": 128,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "pad_token_id": 0,
}
CODE = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def run(code: str, **names: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": __name__, **names}
    exec(compile(code, str(PAGE), "exec"), found)
    return found


def test_a_family_of_known_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, model = CODE[0], reference("qwen3_moe", TINY)
    assert len(code.splitlines()) < 60
    monkeypatch.setattr(families, "FAMILIES", {**families.FAMILIES, **run(code)["FAMILIES"]})
    config, tensors = save(model, tmp_path)
    theirs = {
        "model_type": "acme",
        "expert_count": TINY["num_experts"],
        "experts_used": TINY["num_experts_per_tok"],
        "expert_width": TINY["moe_intermediate_size"],
    }
    kept = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    theirs |= {key: config[key] for key in kept} | {"rms_norm_eps": config["rms_norm_eps"]}
    theirs["rope_theta"] = config["rope_parameters"]["rope_theta"]
    renamed = {
        name.replace("mlp.gate.", "moe.gate.").replace("mlp.experts.", "moe.expert."): tensor
        for name, tensor in tensors.items()
    }
    _, decoder = load(theirs, renamed)
    assert worst(packed_logits(decoder, random_ids()), reference_logits(model, random_ids())) < 1e-4


def test_a_family_with_a_block_of_its_own(extension: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    spec_record = run(CODE[1])["SquaredRelu"]
    block = run(CODE[2], SquaredRelu=spec_record, Ops=Ops)["SquaredReluBlock"]
    build = lambda spec, model, dtype: (  # noqa: E731
        block(spec, model.d_model, dtype) if isinstance(spec, spec_record) else ffn_block(spec, model, dtype)
    )
    monkeypatch.setattr(layer, "ffn_block", build)
    names = {"ReferenceOps": ReferenceOps, "Recorder": Recorder, "Tensor": torch.Tensor}
    monkeypatch.setattr(ReferenceOps, "squared_relu", run(CODE[3], **names)["squared_relu"], raising=False)
    monkeypatch.setattr(Recorder, "squared_relu", run(CODE[4], **names)["squared_relu"], raising=False)
    plain = tiny_spec()
    spec = replace(plain, layers=tuple(replace(one, ffn=spec_record(24)) for one in plain.layers))
    decoder = random_decoder(spec)
    assert "layers.1.mlp.up_proj.weight" in {param.name for param in declared(spec)}
    assert "gate_proj" not in {param.name.split(".")[-2] for param in declared(spec)}

    block_of = decoder.layers[0].mlp
    x = torch.randn(5, spec.d_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = block_of(x, ReferenceOps.__new__(Alone), None, None, 1.0)
    up, down = block_of.up_proj.weight, block_of.down_proj.weight
    torch.testing.assert_close(ours, (x @ up.t()).relu().square() @ down.t())

    served = on_cpu(extension, decoder, "float32")
    assert served.slow == ("squared_relu",)
    ids = random_ids()
    together = packed_logits(served, ids)  # type: ignore[arg-type]
    assert worst(together, packed_logits(decoder, ids)) < 1e-4
    assert all(torch.equal(a, packed_logits(served, [b])[0]) for a, b in zip(together, ids, strict=True))  # type: ignore[arg-type]


class Alone(ReferenceOps):
    """Operations without a batch."""

    _adapters = ()  # type: ignore[assignment]
    _product_dtype = torch.float32
