"""A model that says what no terminal should obey."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from landrace.checkpoints.write import write_checkpoint
from landrace.models.decoder import Decoder
from landrace.models.families import read_config

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
VOCABULARY = 258
WIDTH = 264
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 66,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 100000,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}


def write_speaker(folder: Path, text: str, *, config: dict[str, object] | None = None) -> Path:
    """Writes a model, a token a byte, whose greedy answer to everything is `text`, whose bytes are all different.

    Its one layer adds nothing: the head alone says which byte follows which.
    """
    extras = folder.with_name(f"{folder.name} tokenizer")
    extras.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")])
    backend.save(str(extras / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    (extras / "tokenizer_config.json").write_text(json.dumps(settings))
    ids = [VOCABULARY - 2, *backend.encode(text).ids, VOCABULARY - 1]
    assert len(set(ids)) == len(ids)
    head = torch.zeros(VOCABULARY, WIDTH)
    for now, following in pairwise(ids):
        head[following, now] = 10.0
    given = {"model.embed_tokens.weight": torch.eye(VOCABULARY, WIDTH), "lm_head.weight": head}
    family = read_config(CONFIG)
    shapes = Decoder(family.spec).expected_shapes()
    tensors = [(name, _tensor(name, shape, given)) for name, shape in shapes.items()]
    write_checkpoint(folder, config or CONFIG, family.sources, tensors, extras.iterdir())
    return folder


def _tensor(name: str, shape: tuple[int, ...], given: dict[str, torch.Tensor]) -> torch.Tensor:
    for ending, tensor in given.items():
        if name.endswith(ending.removeprefix("model.")):
            return tensor
    return torch.ones(shape) if len(shape) == 1 else torch.zeros(shape)


HOSTILE = "\x1b]8;hi\x07 \u009b2J\r\u200d\u00e9"
"""A link, a bell, an 8-bit escape sequence, an overwritten line and a joiner that joins nothing; then a real letter."""


@pytest.fixture(scope="session")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answer is `HOSTILE`, a token a byte."""
    return write_speaker(tmp_path_factory.mktemp("models") / "speaker", HOSTILE)


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE
