"""Encoders in GGUF files: against the folder that they are made of, and against llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from test_encoders import sequences
from tiny_encoders import saved, tiny

from landrace.checkpoints.encoder_checkpoint import EncoderCheckpoint, is_encoder, open_encoder_checkpoint
from landrace.checkpoints.gguf_write import write_gguf
from landrace.encoder_model import open_encoder
from landrace.errors import CheckpointError, OptionError, UnsupportedError
from landrace.model import open_engine
from landrace.models.families.gguf_encoders import NAMES

gguf = pytest.importorskip("gguf")


def converted(folder: Path, file: Path, *, fused: bool = False, without: tuple[str, ...] = (), **changes: Any) -> Path:
    """A folder's encoder as llama.cpp's converter writes it, in float32. `changes` are metadata keys below `bert`."""
    checkpoint = open_encoder_checkpoint(folder)
    spec = checkpoint.spec
    tensors = {}
    for name, tensor in checkpoint.tensors():
        module, _, leaf = name.rpartition(".")
        tensors[f"{NAMES.of(module)}.{leaf}"] = tensor
    if fused:
        for layer in range(spec.n_layers):
            for leaf in ("weight", "bias"):
                parts = [tensors.pop(f"blk.{layer}.attn_{part}.{leaf}") for part in "qkv"]
                tensors[f"blk.{layer}.attn_qkv.{leaf}"] = torch.cat(parts)
    own = {
        "context_length": spec.max_length,
        "embedding_length": spec.d_model,
        "feed_forward_length": spec.d_hidden,
        "block_count": spec.n_layers,
        "attention.head_count": spec.attention.n_heads,
        "attention.layer_norm_epsilon": spec.norm_eps,
        "attention.causal": False,
        "pooling_type": 1,
        **changes,
    }
    metadata = {"general.architecture": "bert", **{f"bert.{key}": value for key, value in own.items()}}
    metadata |= vocabulary(checkpoint)
    kept = {name: (tensor.contiguous(), "F32") for name, tensor in tensors.items() if name not in without}
    write_gguf(file, metadata, kept)
    return file


def vocabulary(checkpoint: EncoderCheckpoint) -> dict[str, Any]:
    pieces = (checkpoint.path / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    kinds = [3 if n < 5 else 1 for n in range(len(pieces))]
    tokens = [
        piece if kind == 3 else piece[2:] if piece.startswith("##") else f"\u2581{piece}"
        for piece, kind in zip(pieces, kinds, strict=True)
    ]
    ids = {"padding": 0, "unknown": 1, "bos": 2, "cls": 2, "seperator": 3, "mask": 4}
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.token_type_count": checkpoint.spec.n_types,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        **{f"tokenizer.ggml.{name}_token_id": index for name, index in ids.items()},
    }


@pytest.mark.parametrize(
    ("kind", "fused"), [("bert", False), ("bert", True), ("roberta", False), ("distilbert", False)]
)
def test_rows_are_those_of_the_folder(tmp_path: Path, extension: ModuleType, kind: str, fused: bool) -> None:
    changes = {"activation": "gelu"} if kind == "distilbert" else {}
    folder = saved(tiny(kind, **changes), tmp_path / "hub")
    file = converted(folder, tmp_path / "m.gguf", fused=fused)
    assert is_encoder(file)
    texts = sequences(6, 30)
    for kernels in ("cpu", "reference"):
        ours, own_tokenizer, _ = open_encoder(str(folder), kernels=kernels)
        theirs, tokenizer, checkpoint = open_encoder(str(file), kernels=kernels)
        assert (replace(theirs.spec, norm_eps=ours.spec.norm_eps), checkpoint.left_out) == (ours.spec, ())
        assert torch.equal(theirs.hidden(texts), ours.hidden(texts))
        assert tokenizer.encode_whole("abc the j ching") == own_tokenizer.encode_whole("abc the j ching")


def test_one_type_of_tokens_that_lost_its_axis(tmp_path: Path) -> None:
    """Converters write [1, width] as [width]."""
    folder = saved(tiny("xlm-roberta"), tmp_path / "hub")
    file = converted(folder, tmp_path / "m.gguf")
    names = [tensor.name for tensor in gguf.GGUFReader(file).tensors]
    reader = gguf.GGUFReader(file)
    tensors = {one.name: (torch.from_numpy(np.array(one.data)), "F32") for one in reader.tensors}
    tensors["token_types.weight"] = (tensors["token_types.weight"][0].flatten(), "F32")
    metadata = {"general.architecture": "bert", **open_encoder_checkpoint(file).metadata}
    write_gguf(tmp_path / "squeezed.gguf", metadata, {name: tensors[name] for name in names})
    texts = sequences(3, 20)
    one, other = (open_encoder(str(path))[0].hidden(texts) for path in (file, tmp_path / "squeezed.gguf"))
    assert torch.equal(one, other)


def test_classifiers_are_whole_or_left_out(tmp_path: Path) -> None:
    folder = saved(tiny("roberta", "ForSequenceClassification", num_labels=1), tmp_path / "hub")
    texts = sequences(4, 20)
    whole, _, checkpoint = open_encoder(str(converted(folder, tmp_path / "whole.gguf")))
    assert torch.equal(whole.scores(texts), open_encoder(str(folder))[0].scores(texts))
    assert checkpoint.left_out == ()
    half = converted(folder, tmp_path / "half.gguf", without=("cls.weight", "cls.bias"))
    encoder, _, checkpoint = open_encoder(str(half))
    assert checkpoint.left_out == ("cls.output.bias", "cls.output.weight")
    with pytest.raises(OptionError, match="no classifier"):
        encoder.scores(texts)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"attention.causal": True}, UnsupportedError, "causal"),
        ({"attention.head_count_kv": 1}, UnsupportedError, "head_count_kv"),
        ({"rope.freq_base": 1e4}, UnsupportedError, "rope.freq_base"),
        ({"block_count": 4}, CheckpointError, "lacks 16 tensors"),
        ({"context_length": 39}, CheckpointError, "position_embd"),
        ({"embedding_length": 0}, CheckpointError, "hidden_size"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_metadata_that_fits_no_encoder(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    folder = saved(tiny("bert"), tmp_path / "hub")
    file = converted(folder, tmp_path / "m.gguf", **changes)
    with pytest.raises(error, match=says):
        open_encoder_checkpoint(file)


def test_who_wants_text_is_told_that_it_is_an_encoder(tmp_path: Path) -> None:
    file = converted(saved(tiny("bert"), tmp_path / "hub"), tmp_path / "m.gguf")
    with pytest.raises(UnsupportedError, match="bert is an encoder"):
        open_engine(str(file))


def test_rows_are_those_of_llama_cpp(tmp_path: Path) -> None:
    """It computes GELU by tanh out of a table of float16, so rows agree to three digits."""
    llama_cpp = pytest.importorskip("llama_cpp")
    file = converted(saved(tiny("bert"), tmp_path / "hub"), tmp_path / "m.gguf")
    encoder, tokenizer, _ = open_encoder(str(file))
    theirs = llama_cpp.Llama(str(file), embedding=True, n_ctx=40, n_threads=1, verbose=False, pooling_type=0)
    for text in ("abc the j ching", "a", "[unused] Äb,c"):
        ids = tokenizer.encode_whole(text)
        assert ids == theirs.tokenize(text.encode(), add_bos=True, special=False)
        rows = torch.tensor(theirs.embed(text, normalize=False, truncate=False))
        own = encoder.hidden([ids])
        assert (own - rows).abs().max() < 1e-3 * own.abs().max()
