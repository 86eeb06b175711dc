"""The equivalence ladder, to the bit, on folders in published quantised forms, opened by their path."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from byte_vocabulary import byte_vocabulary

pytest.importorskip("transformers")
sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))

from quantised_files import write_model
from quantised_forms import FORMS
from test_cpu_equivalence import CACHES, RUNGS, check, make_requests, oracle, with_cache

from landrace.engine import Engine
from landrace.model import open_engine
from landrace.models.cpu_decoder import CpuDecoder

pytestmark = pytest.mark.usefixtures("free_rows")

CASES = [
    ("dense", "fp8 in blocks", "float16"),
    ("experts", "fp8 in blocks", "int8"),
    ("dense", "pack-quantized, zero points", "float16"),
    ("experts", "mxfp4-pack-quantized", "float16"),
    ("states", "gptq", "float16"),
    ("latents", "awq", "float16"),
    ("dense", "int-quantized", "float16"),
    ("experts", "gptq, 8 bits", "float16"),
    ("dense", "modelopt nvfp4", "float16"),
    ("experts", "nf4, nested", "float16"),
    ("dense", "fp8 of 5 bits and 2", "float16"),
    ("dense", "gptq, act-order of each", "float16"),
    ("states", "gptq, act-order", "int8"),
    ("experts", "fp4, nested", "float16"),
]


@pytest.mark.parametrize(("kind", "form", "cache"), CASES)
def test_ladder(kind: str, form: str, cache: str, extension: ModuleType, tmp_path: Path) -> None:
    write_model(tmp_path, kind, *FORMS[form])
    byte_vocabulary(control=()).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    requests = make_requests()
    model = open_engine(str(tmp_path), kernels="cpu", threads=2).model
    decoder = model.decoder
    assert isinstance(decoder, CpuDecoder)
    expected = [oracle(decoder, request, CACHES[cache]) for request in requests]
    assert len({token for tokens, _, _ in expected for token in tokens}) > 10, "the model repeats itself: a weak test"
    for options in RUNGS.values():
        check(Engine(decoder, model.tokenizer, with_cache(options, cache)).generate(requests), expected)
