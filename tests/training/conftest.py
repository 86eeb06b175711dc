"""A tiny decoder and a byte tokenizer for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

import pytest
import torch
from byte_vocabulary import byte_vocabulary

from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.ffn_spec import Dense
from landrace.models.mixer_spec import Gqa, RopeSpec
from landrace.models.spec import LayerSpec, ModelSpec
from landrace.text import ChatTemplate, Tokenizer
from landrace.text.tokenizer import Conventions, Spelling

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

MakeTokenizer = Callable[..., Tokenizer]
MakeDecoder = Callable[..., Decoder]


def _byte_tokenizer(
    specials: Iterable[str] = ("<|im_start|>", "<|im_end|>"),
    *,
    template: str | None = CHATML,
    eos: Iterable[str] = ("<|im_end|>",),
    bos: str | None = None,
) -> Tokenizer:
    """One token a byte, and the given special tokens."""
    backend = byte_vocabulary(list(dict.fromkeys([*specials, *eos, *([bos] if bos else [])])))
    bos_id = backend.token_to_id(bos) if bos else None
    conventions = Conventions(
        spelling=Spelling.BYTE_LEVEL,
        prefix_ids=() if bos_id is None else (bos_id,),
        bos_id=bos_id,
        eos_ids=frozenset(backend.token_to_id(name) for name in eos),
    )
    tokens = {"bos_token": bos} if bos else {}
    chat_template = (
        None if template is None else ChatTemplate(template, tokens=tokens, now=lambda: datetime(2026, 1, 2))
    )
    return Tokenizer(backend, conventions, chat_template)


@pytest.fixture(scope="session")
def byte_tokenizer() -> MakeTokenizer:
    return _byte_tokenizer


def _tiny_decoder(*, seed: int = 0, vocab_size: int = 260, tie: bool = True, layers: int = 2) -> Decoder:
    layer = LayerSpec(
        Gqa(n_heads=4, n_kv_heads=2, head_dim=8, scale=8**-0.5, rope=RopeSpec(theta=10000.0, rotary_dim=8)),
        Dense(d_hidden=48),
    )
    spec = ModelSpec(
        vocab_size=vocab_size, d_model=32, layers=(layer,) * layers, norm_eps=1e-5, tie_embeddings=tie, max_length=256
    )
    decoder = Decoder(spec)
    generator = torch.Generator().manual_seed(seed)
    return decoder.load(
        (name, torch.randn(shape, generator=generator) * 0.1 + ("norm" in name))
        for name, shape in shapes_of(decoder.spec).items()
    )


@pytest.fixture(scope="session")
def tiny_decoder() -> MakeDecoder:
    """Makes a fresh two-layer llama of 30,000 parameters with random weights."""
    return _tiny_decoder


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines to a file."""

    def write(*lines: str | bytes) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
        return path

    return write
