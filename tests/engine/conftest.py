"""A tiny random model and a tokenizer without files, for engine tests. Makes `ladder.py` importable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from landrace.engine import Engine, EngineOptions, depth
from landrace.engine.step_times import StepTimes
from landrace.kernels.mask import FULL, Mask, Sliding
from landrace.models.batch import ForwardBatch
from landrace.models.compressed_spec import Compressed, Compression
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.ffn_spec import Dense, Ffn
from landrace.models.mixer_spec import Gdn, Gqa, Mixer, Mla, Recurrent, RopeSpec
from landrace.models.spec import PLAIN, LayerSpec, ModelSpec, NGramEmbedding, Residual
from landrace.models.stored import StoredTensor, held_as

sys.path.insert(0, str(Path(__file__).parent))

VOCAB = 64


class PieceTokenizer:
    """Each token is a fixed piece of bytes: letters, pairs, and the four bytes of an emoji one by one."""

    def __init__(self) -> None:
        letters = [bytes([97 + i]) for i in range(26)] + [b" ", b".", b"ab", b"abc", b"cab", b"\n"]
        self.pieces = (letters + [bytes([b]) for b in "🙂é".encode()] + [b"xy"] * VOCAB)[:VOCAB]
        self.eos_ids = frozenset({62, 63})
        self.bos_id = None
        self.special_ids = self.eos_ids
        self.vocab_size = VOCAB
        self.chat_template = None
        self.conventions = SimpleNamespace(adds_space=False)

    def shown_bytes(self, token_id: int, *, skip_special: bool = True) -> bytes:
        return b"" if skip_special and token_id in self.special_ids else self.pieces[token_id]

    def decode(self, ids: list[int]) -> str:
        return b"".join(self.shown_bytes(token) for token in ids).decode(errors="replace")


FFN = Dense(d_hidden=48)
DELTA = Gdn(n_heads=2, n_value_heads=4, key_dim=8, value_dim=12, conv_width=4)


def make_spec(
    *,
    window: int | None = None,
    masks: tuple[Mask, ...] = (FULL,),
    rope: RopeSpec | None = None,
    ffn: Ffn = FFN,
    deltas: tuple[int, ...] = (),
    delta: Recurrent = DELTA,
    max_length: int = 256,
    latents: Mapping[str, Any] | None = None,
    tied: bool = True,
    mtp: bool = False,
    residual: Residual | tuple[Residual, ...] = PLAIN,
    ngrams: NGramEmbedding | None = None,
    followers: tuple[int, ...] = (),
    head_dim: int = 8,
    compressed: tuple[Compression | None, ...] = (),
    vocab: int = VOCAB,
    **attention: Any,
) -> ModelSpec:
    """Three layers with `masks` in turn; `window`: a full one and a window in turn; `attention`: what else it has;
    `latents`: what else latent attention has, instead of it; `followers`: layers of it that attend to what one before
    them has chosen; `compressed`: what layers compress, in turn, that see a window and compressed rows instead;
    `deltas`: layers that are a recurrent `delta` instead; `residual`: of all, or in turn; `mtp`: with a layer for
    further tokens, whose attention sees all, or a window beside layers that compress."""
    masks = masks if window is None else (FULL, Sliding(window))
    rope = rope or RopeSpec(theta=10000.0, rotary_dim=8 if latents else head_dim)

    def mixer(index: int) -> Mixer:
        return delta if index in deltas else attention_of(index, masks[index % len(masks)])

    def attention_of(index: int, mask: Mask) -> Mixer:
        if compressed and (own := compressed[index % len(compressed)]) is not None:
            return of_window(own)
        if latents is not None:
            sizes: dict[str, Any] = {"n_heads": 4, "kv_rank": 32, "nope_dim": 8, "rope_dim": 8, "v_dim": 6}
            mla = Mla(**{**sizes, "scale": 0.25, "rope": rope, "mask": mask, **latents})
            follows = index in followers and mla.selection is not None
            return replace(mla, selection=replace(mla.selection, own=False)) if follows else mla
        sizes = {"n_heads": 4, "n_kv_heads": 2, "head_dim": head_dim}
        return Gqa(**sizes, scale=head_dim**-0.5, rope=rope, mask=mask, **attention)

    def of_window(compression: Compression | None, keeps_all: bool = False) -> Compressed:
        assert window is not None
        turning = replace(rope, theta=3000.0)
        return Compressed(4, 16, 0.25, turning, 12, window, 2, 10, 1e-5, compression, keeps_all=keeps_all)

    guessing = of_window(None, keeps_all=True) if compressed else attention_of(0, FULL)
    forms = residual if isinstance(residual, tuple) else (residual,)
    layers = tuple(
        LayerSpec(mixer(index), ffn, forms[index % len(forms)], ngrams if index == 0 else None) for index in range(3)
    )
    return ModelSpec(
        vocab_size=vocab,
        d_model=32,
        layers=layers,
        norm_eps=1e-5,
        tie_embeddings=tied,
        max_length=max_length,
        mtp=LayerSpec(guessing, ffn, forms[0]) if mtp else None,
    )


def make_decoder(spec: ModelSpec, seed: int = 0) -> Decoder:
    decoder = Decoder(spec)
    generator = torch.Generator().manual_seed(seed)
    return decoder.load(
        (name, torch.randn(shape, generator=generator) * (0.35 if len(shape) == 2 else 0.2) + (len(shape) == 1))
        for name, shape in shapes_of(decoder.spec).items()
    )


class FreeSteps(StepTimes):
    """What is computed for drafts costs nothing."""

    most_rows = 1000

    def seconds(self, rows: int) -> float:
        return 0.0


@pytest.fixture
def eager(free_rows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts wherever there is room for one, whatever became of others."""
    monkeypatch.setattr(depth, "StepTimes", FreeSteps)
    monkeypatch.setattr(depth, "MARGIN", 0.0)


@pytest.fixture(scope="session")
def tokenizer() -> PieceTokenizer:
    return PieceTokenizer()


@pytest.fixture(scope="session")
def tiny_decoder() -> Callable[..., Decoder]:
    """Makes a fresh tiny decoder; keywords go to the spec."""
    return lambda seed=0, **spec: make_decoder(make_spec(**spec), seed)


@pytest.fixture(scope="session")
def recite(tiny_decoder: Callable, tokenizer: PieceTokenizer) -> Callable[..., Engine]:
    """Makes an engine that recites lines of token ids."""
    from recital import Script

    def make(*lines: list[int], **options: Any) -> Engine:
        return Engine(Script(tiny_decoder(), list(lines)), tokenizer, EngineOptions(prefix_cache=False, **options))

    return make


@pytest.fixture(scope="session")
def naive_logits() -> Callable[..., torch.Tensor]:
    """Raw logits [T, vocab] of one whole sequence, without a cache."""

    def run(decoder: Decoder, tokens: list[int], **batch: object) -> torch.Tensor:
        with torch.inference_mode():
            packed = ForwardBatch.packed([tokens], device=decoder.device)
            fields = {**vars(packed), **batch}
            return decoder(ForwardBatch(**fields))

    return run


@pytest.fixture
def on_kernels(request: pytest.FixtureRequest) -> Callable[[Decoder, str], Any]:
    """The decoder itself for the reference kernels, or one on the C++ kernels with weights held so."""

    def make(decoder: Decoder, kernels: str) -> Any:
        if kernels == "reference":
            return decoder
        extension: ModuleType = request.getfixturevalue("extension")
        held = {n: held_as(n, StoredTensor.of(t), kernels) for n, t in decoder.named_tensors()}  # type: ignore[arg-type]
        return CpuDecoder(decoder.spec, extension, threads=2).load(held)

    return make


@pytest.fixture
def make_model(tiny_decoder: Callable, on_kernels: Callable) -> Callable[..., Any]:
    """A tiny model on such kernels."""

    def make(kernels: str, *, seed: int = 0, **spec: object) -> Any:
        return on_kernels(tiny_decoder(seed=seed, **spec), kernels)

    return make
