"""Vectors and scores from encoders, held against sentence-transformers on the same folders; the real MiniLM too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from tiny_embedders import modes, with_modules, write_encoder

from landrace import open_embedder, open_reranker
from landrace.engine import EngineOptions
from landrace.errors import OptionError, PromptTooLongError, RequestError, UnsupportedError

TEXTS = (
    "how do i change my booking",
    "Changing a BOOKING is free, until the day before!",
    "cats",
    "[SEP] spelled out [CLS]",
    "a cat " * 40,
)
KERNELS = ("reference", "cpu")


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("models") / "bert")


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    "pooling", [("mean_tokens",), ("cls_token",), ("max_tokens", "mean_sqrt_len_tokens"), ("weightedmean_tokens",)]
)
def test_vectors_are_sentence_transformers(
    kernels: str, pooling: tuple[str, ...], encoder_folder: Path, tmp_path: Path, request: Any
) -> None:
    library = pytest.importorskip("sentence_transformers")
    if kernels == "cpu":
        request.getfixturevalue("extension")
    prompts = {"query": "how do i: ", "document": ""}
    folder = with_modules(encoder_folder, tmp_path / "m", modes(*pooling), prompts=prompts, max_length=64)
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    embedder = open_embedder(str(folder), kernels=kernels)
    texts = [text for text in TEXTS if "[SEP]" not in text]
    for prompt in (None, "query"):
        found = embedder.embed(texts, prompt=prompt, batch=2, truncate=True)
        wanted = theirs.encode(texts, prompt_name=prompt)
        np.testing.assert_allclose(found.vectors, wanted, atol=2e-5)
    assert found.tokens[-1] == 64 and found.truncated == 1


def test_bits_do_not_depend_on_other_texts_or_threads(encoder_folder: Path, extension: Any) -> None:
    alone = open_embedder(str(encoder_folder), pooling="mean", threads=1)
    wanted = [alone.embed([text]).vectors[0] for text in TEXTS]
    for threads, batch in ((2, 64), (3, 2)):
        found = open_embedder(str(encoder_folder), pooling="mean", threads=threads).embed(TEXTS, batch=batch)
        assert all(np.array_equal(one, other) for one, other in zip(found.vectors, wanted, strict=True))


def test_an_encoder_s_pooling_is_never_guessed(encoder_folder: Path) -> None:
    with pytest.raises(OptionError, match="does not say how its rows become one vector"):
        open_embedder(str(encoder_folder))
    assert "mean (as asked for)" in open_embedder(str(encoder_folder), pooling="mean").embed(["a"]).manner.told


def test_what_only_decoders_have_is_refused(encoder_folder: Path) -> None:
    with pytest.raises(OptionError, match="no adapter"):
        open_embedder(str(encoder_folder), pooling="mean", adapters={"a": Path("x")})
    with pytest.raises(OptionError, match="as much as it was trained to"):
        open_embedder(str(encoder_folder), pooling="mean", options=EngineOptions(max_length=32))
    with pytest.raises(OptionError, match="cannot be held as 'int3'"):
        open_embedder(str(encoder_folder), pooling="mean", weights="int3")
    embedder = open_embedder(str(encoder_folder), pooling="mean")
    with pytest.raises(RequestError, match="take no instruction"):
        embedder.embed(["a"], instruction="Find the cat")
    with pytest.raises(PromptTooLongError, match="the longest text that the model takes has 128"):
        embedder.embed(["a " * 200])
    with pytest.raises(UnsupportedError, match="no classifier"):
        open_reranker(str(encoder_folder))


@pytest.mark.parametrize("activation", [None, "torch.nn.modules.linear.Identity"])
def test_scores_are_a_cross_encoder_s(activation: str | None, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = write_encoder(tmp_path / "m", kind="BertForSequenceClassification", num_labels=1)
    if activation is not None:
        config = json.loads((folder / "config.json").read_text())
        config["sentence_transformers"] = {"activation_fn": activation, "version": "5.0.0"}
        (folder / "config.json").write_text(json.dumps(config))
    documents = [text for text in TEXTS[1:] if "[SEP]" not in text]
    theirs = library.CrossEncoder(str(folder), device="cpu")
    wanted = theirs.predict([(TEXTS[0], one) for one in documents])
    ranking = open_reranker(str(folder)).rerank(TEXTS[0], documents)
    assert [one.index for one in ranking.results] == sorted(range(len(documents)), key=lambda n: -wanted[n])
    for one in ranking.results:
        assert one.score == pytest.approx(float(wanted[one.index]), abs=2e-5)
    with pytest.raises(PromptTooLongError, match="Document 1 with the query has"):
        open_reranker(str(folder)).rerank(TEXTS[0], ["a " * 200])
    cut = open_reranker(str(folder)).rerank(TEXTS[0], ["a " * 200], truncate=True)
    assert cut.tokens == (128,) and cut.truncated == 1


def test_several_classes_are_no_score(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "m", kind="BertForSequenceClassification", num_labels=3)
    with pytest.raises(UnsupportedError, match="3 classes"):
        open_reranker(str(folder))


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_real_minilm(kernels: str, minilm_path: Path, request: Any) -> None:
    """In float32, on a thousand texts of the examples."""
    library = pytest.importorskip("sentence_transformers")
    if kernels == "cpu":
        request.getfixturevalue("extension")
    root = Path(__file__).resolve().parents[2]
    files = [root / "examples" / "support" / name for name in ("train.jsonl", "test.jsonl")]
    texts = [json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    texts += [f"{one} {other}" for one, other in zip(texts, texts[7:], strict=False)]
    embedder = open_embedder(str(minilm_path), kernels=kernels)
    found = embedder.embed(texts[:1000])
    wanted = library.SentenceTransformer(str(minilm_path), device="cpu").encode(texts[:1000])
    cosines = (found.vectors.astype(np.float64) * wanted.astype(np.float64)).sum(1)
    assert cosines.min() >= 0.99999 and found.vectors.shape == (1000, 384) and found.truncated == 0
    assert "mean (the checkpoint's 1_Pooling)" in found.manner.told
