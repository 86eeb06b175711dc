"""Encoders: rows and scores as transformers computes them, through the door that users open; the same bits however
sequences are put together; and files that are no whole encoder."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import KINDS, saved, tiny
from torch import Tensor

from landrace.checkpoints import open_checkpoint
from landrace.checkpoints.encoder_checkpoint import is_encoder, open_encoder_checkpoint
from landrace.cli.describe import describe_model
from landrace.encoder_model import open_encoder
from landrace.errors import CheckpointError, OptionError, RequestError, UnsupportedError
from landrace.model import open_engine
from landrace.models.cpu_encoder import CpuEncoder
from landrace.models.encoder import Encoder

BACKENDS = ("cpu", "reference")


def sequences(n: int, longest: int, seed: int = 3) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(2, 90) for _ in range(draw.randint(1, longest))] for _ in range(n)]


@torch.no_grad()
def expected(model: Any, ids: list[int], types: list[int] | None = None) -> Any:
    """What transformers computes of one sequence alone, so that nothing is padded."""
    own = {} if types is None else {"token_type_ids": torch.tensor([types])}
    return model(torch.tensor([ids]), **own)


def rows_of(model: Any, texts: list[list[int]]) -> Tensor:
    return torch.cat([expected(model, ids).last_hidden_state[0] for ids in texts])


@pytest.mark.parametrize("kernels", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_transformers(tmp_path: Path, kind: str, kernels: str, extension: ModuleType) -> None:
    model = tiny(kind)
    encoder, _, checkpoint = open_encoder(str(saved(model, tmp_path)), kernels=kernels, threads=2)
    longest = 550 if kind == "bert-one-type" else encoder.spec.max_length
    texts = [*sequences(9, 30), [5] * longest]
    torch.testing.assert_close(encoder.hidden(texts), rows_of(model, texts), atol=1e-5, rtol=1e-5)
    assert (encoder.kernels == "reference") == (kernels == "reference")
    assert all("pooler" in name for name in checkpoint.left_out)


@pytest.mark.parametrize("kernels", BACKENDS)
@pytest.mark.parametrize("n_labels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_transformers(
    tmp_path: Path, kind: str, n_labels: int, kernels: str, extension: ModuleType
) -> None:
    model = tiny(kind, "ForSequenceClassification", num_labels=n_labels)
    encoder, _, checkpoint = open_encoder(str(saved(model, tmp_path)), kernels=kernels, threads=2)
    texts = sequences(7, 30)
    types = [[int(n > len(ids) // 2) for n in range(len(ids))] for ids in texts] if kind == "bert" else None
    theirs = [expected(model, ids, types and types[n]).logits for n, ids in enumerate(texts)]
    torch.testing.assert_close(encoder.scores(texts, types), torch.cat(theirs), atol=1e-5, rtol=1e-5)
    assert checkpoint.left_out == ()


def test_types_of_tokens_matter(tmp_path: Path, extension: ModuleType) -> None:
    model = tiny("bert")
    folder = saved(model, tmp_path)
    for kernels in BACKENDS:
        encoder, *_ = open_encoder(str(folder), kernels=kernels)
        own = encoder.hidden([[2, 9, 3, 8, 3]], [[0, 0, 0, 1, 1]])
        theirs = expected(model, [2, 9, 3, 8, 3], [0, 0, 0, 1, 1]).last_hidden_state[0]
        torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(own, encoder.hidden([[2, 9, 3, 8, 3]]), atol=1e-3)


def test_the_same_bits_in_every_batch(tmp_path: Path, extension: ModuleType) -> None:
    """Alone, in crowds, in any order, on any threads and instructions: rows and scores."""
    folder = saved(tiny("bert-one-type", "ForSequenceClassification", num_labels=2), tmp_path)
    checkpoint = open_encoder_checkpoint(folder)
    texts = [*sequences(20, 40), [7, *range(2, 80)] * 5, [9]]
    names = extension.instruction_sets()
    whole, scored = None, None
    for isa, threads in [(names[-1], 1), *((name, 3) for name in names)]:
        backend = CpuEncoder(checkpoint.spec, extension, threads=threads, isa=isa).load(checkpoint.stored())
        encoder = Encoder(checkpoint.spec, backend)
        rows = encoder.hidden(texts).split([len(ids) for ids in texts])
        whole = rows if whole is None else whole
        scored = encoder.scores(texts) if scored is None else scored
        assert all(map(torch.equal, rows, whole))
        for n in (1, 5):
            crowd = random.Random(isa).sample(range(len(texts)), n)
            own = encoder.hidden([texts[s] for s in crowd]).split([len(texts[s]) for s in crowd])
            assert all(torch.equal(one, whole[s]) for one, s in zip(own, crowd, strict=True))
            assert torch.equal(encoder.scores([texts[s] for s in crowd]), scored[crowd])


def test_norms_of_old_files_and_heads_for_training(tmp_path: Path) -> None:
    """gamma and beta, a prefix, and a masked language model's head."""
    model = tiny("bert", "ForMaskedLM")
    folder = saved(model, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    save_file(renamed, folder / "model.safetensors")
    encoder, _, checkpoint = open_encoder(str(folder), kernels="reference")
    texts = sequences(3, 20)
    torch.testing.assert_close(encoder.hidden(texts), rows_of(model.bert, texts), atol=1e-5, rtol=1e-5)
    assert checkpoint.left_out and all(name.startswith("cls.") for name in checkpoint.left_out)


def test_other_ways_to_hold_weights(tmp_path: Path, extension: ModuleType) -> None:
    """int8 on both backends: near one another and near float32."""
    folder = saved(tiny("bert", hidden_size=64, num_attention_heads=4, intermediate_size=96), tmp_path)
    texts = sequences(5, 30)
    exact, ours, reference = (
        open_encoder(str(folder), kernels=kernels, weights=weights)[0].hidden(texts)
        for kernels, weights in (("cpu", "stored"), ("cpu", "int8"), ("reference", "int8"))
    )
    assert torch.cosine_similarity(exact, ours, -1).min() > 0.999
    assert torch.cosine_similarity(reference, ours, -1).min() > 0.9995
    assert not torch.allclose(exact, ours, atol=1e-4)


def changed(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **keys}), encoding="utf-8")


@pytest.mark.parametrize(
    ("keys", "error", "says"),
    [
        ({"position_embedding_type": "relative_key"}, UnsupportedError, "position_embedding_type"),
        ({"is_decoder": True}, UnsupportedError, "is_decoder"),
        ({"hidden_act": "mish"}, UnsupportedError, "mish"),
        ({"num_attention_heads": 5}, CheckpointError, "whole heads"),
        ({"hidden_size": "48"}, CheckpointError, "hidden_size"),
        ({"rope_theta": 10000.0}, UnsupportedError, "rope_theta"),
        ({"vocab_size": 91}, CheckpointError, r"word_embeddings.*\[90, 48\].*\[91, 48\]"),
        ({"max_position_embeddings": 41}, CheckpointError, "position"),
        ({"num_hidden_layers": 4}, CheckpointError, "lacks 16 tensors"),
        ({"num_hidden_layers": 2}, CheckpointError, "no place for"),
        ({"model_type": "llama"}, UnsupportedError, "no encoder"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_configurations_that_fit_no_encoder(
    tmp_path: Path, keys: dict[str, Any], error: type[Exception], says: str
) -> None:
    folder = saved(tiny("bert"), tmp_path)
    changed(folder, **keys)
    with pytest.raises(error, match=says):
        open_encoder_checkpoint(folder)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = saved(tiny("bert"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        open_encoder_checkpoint(folder)


def test_sequences_that_cannot_be_read(tmp_path: Path, extension: ModuleType) -> None:
    folder = saved(tiny("bert"), tmp_path)
    for kernels in BACKENDS:
        encoder, *_ = open_encoder(str(folder), kernels=kernels)
        with pytest.raises(RequestError, match="41 tokens, but the model reads 40 at most"):
            encoder.hidden([[2, 3], [4] * 41])
        for empty in ([], [[2], []]):
            with pytest.raises(RequestError, match="no tokens"):
                encoder.hidden(empty)
        with pytest.raises(OptionError, match="no classifier"):
            encoder.scores([[2, 3]])
        for wrong in ([[2, 90]], [[-1]]):
            with pytest.raises(IndexError):
                encoder.hidden(wrong)
        with pytest.raises(IndexError):
            encoder.hidden([[2, 3]], [[0, 2]])


def test_who_wants_text_is_told_that_it_is_an_encoder(tmp_path: Path) -> None:
    folder = saved(tiny("xlm-roberta"), tmp_path)
    assert is_encoder(folder)
    for opens in (lambda: open_checkpoint(folder), lambda: open_engine(str(folder))):
        with pytest.raises(UnsupportedError, match="xlm-roberta is an encoder"):
            opens()


def test_what_show_tells(tmp_path: Path) -> None:
    facts = describe_model(str(saved(tiny("bert", "ForSequenceClassification", num_labels=3), tmp_path)))
    assert facts["model type"].startswith("bert, an encoder")
    assert facts["attention"] == "3 heads of 16, over the whole text"
    assert facts["around a text"] == "[CLS] text [SEP]"
    assert (facts["classifier"], facts["longest sequence"]) == ("scores for 3 labels", 40)
