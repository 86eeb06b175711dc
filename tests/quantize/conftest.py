"""A tiny model and a mixture, a token a byte, as folders; and a text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from quantise_models import CHATML, LLAMA, QWEN3_MOE, TEXT, WriteModel, vocabulary

from landrace.checkpoints.write import write_checkpoint
from landrace.models.declared import shapes_of
from landrace.models.families import read_config

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def write_model(tmp_path_factory: pytest.TempPathFactory) -> WriteModel:
    """Writes a folder in bfloat16 with random weights; `mtp`: with the layer that guesses further tokens."""

    def write(config: dict[str, Any], mtp: bool = False) -> Path:
        folder = tmp_path_factory.mktemp("models") / str(config["model_type"])
        extras = folder.with_name(f"{folder.name} tokenizer")
        extras.mkdir(parents=True)
        vocabulary().save(str(extras / "tokenizer.json"))
        settings = {"eos_token": "<|im_end|>", "chat_template": CHATML, "tokenizer_class": "PreTrainedTokenizerFast"}
        (extras / "tokenizer_config.json").write_text(json.dumps(settings))
        family, generator = read_config(config, mtp=mtp), torch.Generator().manual_seed(0)

        def tensor(shape: tuple[int, ...]) -> torch.Tensor:
            return (torch.randn(shape, generator=generator) * 0.04 + (len(shape) == 1)).bfloat16()

        tensors = [(name, tensor(shape)) for name, shape in shapes_of(family.spec).items()]
        write_checkpoint(folder, config, family.sources, tensors, extras.iterdir())
        return folder

    return write


@pytest.fixture(scope="session")
def llama(write_model: WriteModel) -> Path:
    return write_model(LLAMA)


@pytest.fixture(scope="session")
def mixture(write_model: WriteModel) -> Path:
    return write_model(QWEN3_MOE)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file
