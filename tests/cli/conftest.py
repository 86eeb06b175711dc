"""A model that says a text of our choice, the command as a process, and a terminal for it."""

from __future__ import annotations

import json
import os
import pty
import select
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from landrace.checkpoints.write import write_checkpoint
from landrace.models.decoder import Decoder
from landrace.models.families import read_config

SECONDS = 120.0
"""How long anything may take before a test gives up on it."""
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


class Terminal:
    """The command on a pseudo-terminal of its own: what it shows, what is typed, how it ends."""

    def __init__(self, *arguments: str, home: Path, **environment: str) -> None:
        self.shown = b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            given = {"LANDRACE_HOME": str(home), "COLUMNS": "200", "OMP_NUM_THREADS": "1", "TERM": "xterm"}
            os.execve(sys.executable, [sys.executable, "-m", "landrace", *arguments], os.environ | given | environment)

    def wait_for(self, text: str) -> None:
        """Reads until `text` is shown."""
        deadline = time.monotonic() + SECONDS
        while text.encode() not in self.shown:
            assert time.monotonic() < deadline, self.shown
            assert self._read(), self.shown

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> int:
        """Reads to the end, and returns the exit status; minus the signal when one killed it."""
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._fd], [], [], SECONDS)
        assert ready, self.shown
        try:
            piece = os.read(self._fd, 65536)
        except OSError:  # Linux's end of a terminal
            return False
        self.shown += piece
        return bool(piece)


HOSTILE = "\x1b]8;hi\x07 \u009b2J\r\u200d\u00e9"
"""A link, a bell, an 8-bit escape sequence, an overwritten line and a joiner that joins nothing; then a real letter."""
HOSTILE_SHOWN = r"\x1b]8;hi\x07 \x9b2J\x0d\u200d" + "\u00e9"


@pytest.fixture(scope="session")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answer is `HOSTILE`, a token a byte."""
    return write_speaker(tmp_path_factory.mktemp("models") / "speaker", HOSTILE)
