"""Published quantised forms along every path: opened by their folder, served, and held against transformers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from byte_vocabulary import byte_vocabulary

pytest.importorskip("transformers")
sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("checkpoints", "models")]

from deepseek_v4_files import publish
from quantised_files import write_model
from quantised_forms import FORMS
from test_quantised import write_gpt_oss

from landrace.certify import certify
from landrace.engine.request import Request
from landrace.engine.sampling_params import SamplingParams
from landrace.model import open_engine

TALK = [[{"role": "user", "content": "Hello there, friend."}, {"role": "assistant", "content": "Hello to you."}]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a tokenizer whose tokens are bytes."""
    byte_vocabulary(control=()).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "form",
    [
        "fp8 in blocks",
        "awq",
        "int-quantized",
        "modelopt nvfp4",
        "nf4, nested",
        "gpt-oss",
        "DeepSeek-V4",
    ],
)
def test_a_quantised_model_agrees_along_every_path(form: str, folder: Path) -> None:
    if form == "gpt-oss":
        write_gpt_oss(folder)
    elif form == "DeepSeek-V4":
        publish(folder)
    else:
        write_model(folder, "dense", *FORMS[form])
    certificate = certify(str(folder), conversations=TALK)
    failed = [(path.name, path.largest) for path in certificate.paths if not path.passed]
    assert not failed
    assert "transformers, float32" in {path.name for path in certificate.paths}


@pytest.mark.parametrize(
    ("form", "unpacked"), [("gptq", False), ("int8 of bitsandbytes", False), ("fp4", False), ("hqq", True)]
)
def test_what_is_unpacked_is_said(form: str, unpacked: bool, folder: Path) -> None:
    write_model(folder, "dense", *FORMS[form])
    opened = open_engine(str(folder))
    (answer,) = opened.engine.generate([Request("a", [5, 6, 7], SamplingParams(max_tokens=4))])
    assert len(answer.token_ids) == 4
    assert ("14 of its quantised matrices" in (opened.notice or "")) == (unpacked and opened.kernels != "reference")
