"""A tiny random model in a folder that every runner but llama.cpp's opens, and a made-up machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_vocabulary import byte_vocabulary

from landrace.bench.ours import Ours
from landrace.checkpoints import write_checkpoint
from landrace.kernels.machine_limits import MachineLimits
from landrace.models.declared import shapes_of
from landrace.models.families import read_config

# The scripts of the bench are no package: they import one another by name.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

MAX_LENGTH = 600
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": MAX_LENGTH,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of a llama with random weights, and a token for each byte."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    extras = tmp_path_factory.mktemp("tokenizer")
    byte_vocabulary(control=()).save(str(extras / "tokenizer.json"))
    settings = {"eos_token": "~", "tokenizer_class": "PreTrainedTokenizerFast"}
    (extras / "tokenizer_config.json").write_text(json.dumps(settings))
    family = read_config(CONFIG)
    generator = torch.Generator().manual_seed(0)
    tensors = [
        (name, torch.randn(shape, generator=generator) * 0.3 + (len(shape) == 1))
        for name, shape in shapes_of(family.spec).items()
    ]
    write_checkpoint(folder, CONFIG, family.sources, tensors, sorted(extras.iterdir()))
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> Path:
    """The same, by the name that tests of the scripts know it by."""
    return tiny_folder


@pytest.fixture
def ours(tiny_folder: Path) -> Ours:
    return Ours.open(str(tiny_folder), threads=1)


@pytest.fixture(scope="session")
def machine() -> MachineLimits:
    """10 GB/s; 400, 200 and 100 thousand million operations a second."""
    return MachineLimits(
        threads=1,
        instruction_set="made up",
        read_gb_s=10.0,
        int8_gop_s=400.0,
        bf16_gflop_s=200.0,
        fp32_gflop_s=100.0,
        processor="made up",
        int8_by="made up",
        bf16_by="made up",
        fp32_by="made up",
    )
