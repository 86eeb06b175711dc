"""Tiny models as folders, one of which says what no terminal should obey; the command line in this process."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_vocabulary import byte_vocabulary

from landrace.checkpoints.write import write_checkpoint
from landrace.cli import progress
from landrace.cli.main import main
from landrace.models.declared import shapes_of
from landrace.models.families import read_config

VOCABULARY = 258
_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCABULARY,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
}
TINY = {
    **_CONFIG,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "eos_token_id": 257,
}
SPEAKER = {
    **_CONFIG,
    "hidden_size": 264,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_key_value_heads": 4,
    "head_dim": 66,
    "max_position_embeddings": 100000,
    "tie_word_embeddings": False,
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BARE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"

HOSTILE = "\x1b]8;hi\x07 \u009b2J\r\u200d\u00e9"
"""A link, a bell, an 8-bit escape sequence, an overwritten line and a joiner that joins nothing; then a real letter."""

Landrace = Callable[..., tuple[int, str, str]]
MakeTensor = Callable[[str, tuple[int, ...]], torch.Tensor]


def _write_model(
    folder: Path, config: Mapping[str, Any], template: str, tensor: MakeTensor, stated: Mapping[str, Any]
) -> Path:
    """Writes a llama, a token a byte, with tensors from `tensor` and `stated` as its config.json."""
    extras = folder.with_name(f"{folder.name} tokenizer")
    extras.mkdir(parents=True)
    byte_vocabulary().save(str(extras / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"}
    (extras / "tokenizer_config.json").write_text(json.dumps(settings))
    family = read_config(config)
    shapes = shapes_of(family.spec)
    tensors = [(name, tensor(name, shape)) for name, shape in shapes.items()]
    write_checkpoint(folder, stated, family.sources, tensors, extras.iterdir())
    return folder


def write_speaker(folder: Path, text: str, *, config: dict[str, object] | None = None) -> Path:
    """Writes a model, a token a byte, whose greedy answer to everything is `text`, whose bytes are all different.

    Its one layer adds nothing: the head alone says which byte follows which.
    """
    ids = [VOCABULARY - 2, *byte_vocabulary().encode(text).ids, VOCABULARY - 1]
    assert len(set(ids)) == len(ids)
    width = SPEAKER["hidden_size"]
    assert isinstance(width, int)
    head = torch.zeros(VOCABULARY, width)
    for now, following in pairwise(ids):
        head[following, now] = 10.0
    given = {"embed_tokens.weight": torch.eye(VOCABULARY, width), "lm_head.weight": head}

    def tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        found = next((value for ending, value in given.items() if name.endswith(ending)), None)
        if found is not None:
            return found
        return torch.ones(shape) if len(shape) == 1 else torch.zeros(shape)

    return _write_model(folder, SPEAKER, BARE, tensor, config or SPEAKER)


def write_tiny(folder: Path, config: Mapping[str, Any]) -> Path:
    generator = torch.Generator().manual_seed(0)

    def tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.1 + (len(shape) == 1)

    return _write_model(folder, config, CHATML, tensor, config)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of a llama with random weights, a token a byte, and a ChatML template."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny", TINY)


@pytest.fixture(scope="session")
def roomy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for examples in its prompts."""
    return write_tiny(tmp_path_factory.mktemp("models") / "roomy", {**TINY, "max_position_embeddings": 4096})


@pytest.fixture(scope="session")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answer is `HOSTILE`, a token a byte."""
    return write_speaker(tmp_path_factory.mktemp("models") / "speaker", HOSTILE)


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE


@pytest.fixture
def landrace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Landrace:
    """The command as `main` runs it: exit code, stdout, stderr on lines of any length, without how long it takes."""
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setattr(progress, "LINE_SECONDS", 1e6)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["landrace", *arguments])
        capsys.readouterr()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
        handlers = [(number, signal.getsignal(number)) for number in numbers]
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:  # `main` leaves signals as a process at its end needs them, and later tests start others
            for number, handler in handlers:
                signal.signal(number, handler)
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return call
