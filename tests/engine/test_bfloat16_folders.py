"""Folders in bfloat16, whose weights take 12 bits: the bits of a forward pass on 16, on every rung of the ladder."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from byte_vocabulary import byte_vocabulary

pytest.importorskip("transformers")
sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))

import transformers
from quantised_files import MODELS
from test_cpu_equivalence import CACHES, RUNGS, check, make_requests, oracle, with_cache

from landrace.bench.floors import stored_matrix_bytes
from landrace.checkpoints import open_checkpoint
from landrace.engine import Engine
from landrace.kernels.cpu import weights
from landrace.model import cpu_decoder, open_engine
from landrace.models.cpu_decoder import CpuDecoder

pytestmark = pytest.mark.usefixtures("free_rows")


def write_folder(folder: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(MODELS[kind](), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
            # A few weights whose exponents are rare, and some zeros.
            flat = parameter.view(-1)
            flat[5::97] *= torch.exp2(-30.0 * torch.rand(len(flat[5::97])))
            flat[11::301] = 0
    model.bfloat16().save_pretrained(folder)
    byte_vocabulary(control=()).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("kind", "cache"), [("dense", "float16"), ("experts", "int8"), ("states", "float16"), ("latents", "float32")]
)
def test_ladder(kind: str, cache: str, extension: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, kind)
    requests = make_requests()
    checkpoint = open_checkpoint(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(weights, "COMPACT_SHARE", 0.0)
        plain = cpu_decoder(checkpoint, extension, threads=1)
    expected = [oracle(plain, request, CACHES[cache]) for request in requests]
    assert len({token for tokens, _, _ in expected for token in tokens}) > 10, "the model repeats itself: a weak test"
    model = open_engine(str(tmp_path), kernels="cpu", threads=2).model
    decoder = model.decoder
    assert isinstance(decoder, CpuDecoder)
    for options in RUNGS.values():
        check(Engine(decoder, model.tokenizer, with_cache(options, cache)).generate(requests), expected)

    # Memory and the bench's limit count what is held.
    assert decoder.weight_bytes == sum(decoder.held_bytes.values()) < 0.93 * plain.weight_bytes
    held, in_file = (stored_matrix_bytes(checkpoint, one.held_bytes) for one in (decoder, plain))
    assert held.always < 0.93 * in_file.always and held.experts <= 0.9 * in_file.experts
