"""Vectors from decoders, held against transformers and sentence-transformers on the same folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import transformers
from tiny_embedders import END, QUERY, TEXTS, modes, vocabulary, with_modules, write_decoder

from landrace import open_embedder
from landrace.embedding.embedder import Embedder
from landrace.embedding.opening import embedder_on
from landrace.embedding.vector_form import finished
from landrace.engine import EngineOptions, Request, SamplingParams
from landrace.errors import CheckpointError, OptionError, PromptTooLongError, RequestError, UnsupportedError
from landrace.model import open_engine

KERNELS = ("reference", "cpu")
LAST = modes("lasttoken", include_prompt=True)


def by_transformers(folder: Path, ids: list[int]) -> np.ndarray:
    """The last row after the last norm, of length 1."""
    model = transformers.AutoModel.from_pretrained(folder).float().eval()
    with torch.no_grad():
        row = model(torch.tensor([ids])).last_hidden_state[0, -1]
    return torch.nn.functional.normalize(row, dim=0).numpy()


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_vector_is_the_row_of_the_end_token(kernels: str, decoder_folder: Path, request: Any) -> None:
    if kernels == "cpu":
        request.getfixturevalue("extension")
    embedder = open_embedder(str(decoder_folder), kernels=kernels)
    found = embedder.embed(TEXTS)
    assert found.vectors.shape == (len(TEXTS), 64) and found.vectors.dtype == np.float32
    assert "last (the default for decoders)" in found.manner.told and "length 1" in found.manner.told
    backend, end = vocabulary(), vocabulary().token_to_id(END)
    backend.encode_special_tokens = True
    for text, vector, tokens in zip(TEXTS, found.vectors, found.tokens, strict=True):
        ids = [*backend.encode(text, add_special_tokens=False).ids, end]
        assert ids.count(end) == 1 and len(ids) == tokens
        np.testing.assert_allclose(vector, by_transformers(decoder_folder, ids), atol=2e-5)


def test_queries_and_documents_are_written_as_the_card_has_them(decoder_folder: Path, tmp_path: Path) -> None:
    folder = with_modules(decoder_folder, tmp_path / "m", LAST, prompts={"query": QUERY, "document": ""})
    embedder = open_embedder(str(folder))
    backend = vocabulary()
    for asked, written in (
        ({"prompt": "query"}, f"{QUERY}{TEXTS[0]}"),
        ({"prompt": "document"}, TEXTS[0]),
        ({}, TEXTS[0]),
        ({"instruction": "Find the cat"}, f"Instruct: Find the cat\nQuery:{TEXTS[0]}"),
        ({"prompt": "passage: "}, f"passage: {TEXTS[0]}"),
    ):
        manner = embedder.form.manner(asked.get("prompt"), asked.get("instruction"), None, None)
        (encoded,) = embedder.form.encode([TEXTS[0]], manner, truncate=False)
        assert list(encoded.ids) == backend.encode(written).ids
    with pytest.raises(RequestError, match="no prompt called 'qurey'; its prompts are query, document"):
        embedder.embed(TEXTS, prompt="qurey")
    with pytest.raises(RequestError, match="exclude each other"):
        embedder.embed(TEXTS, prompt="query", instruction="Find the cat")


CASES: dict[str, dict[str, Any]] = {
    "as Qwen3-Embedding": {"pooling": LAST, "prompts": {"query": QUERY, "document": ""}},
    "mean": {"pooling": modes("mean_tokens")},
    "several, not normalised": {
        "pooling": modes("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens"),
        "normalize": False,
    },
    "weighted mean and last": {"pooling": modes("weightedmean_tokens", "lasttoken")},
    "by its newer name": {"pooling": {"embedding_dimension": 64, "pooling_mode": ["max", "lasttoken"]}},
    "rows of the prompt left out": {
        "pooling": modes("mean_tokens", "weightedmean_tokens", include_prompt=False),
        "prompts": {"query": "Represent this: "},
    },
    "a default prompt": {
        "pooling": modes("mean_tokens"),
        "prompts": {"query": "query: ", "passage": "passage: "},
        "default": "passage",
    },
    "linear layers": {
        "pooling": modes("mean_tokens"),
        "dense": [
            {"in_features": 64, "out_features": 48, "activation_function": "torch.nn.modules.activation.Tanh"},
            {
                "in_features": 48,
                "out_features": 20,
                "bias": False,
                "activation_function": "torch.nn.modules.linear.Identity",
            },
        ],
    },
    "lower case, in a folder of its own": {
        "pooling": modes("cls_token", "mean_tokens"),
        "lower_case": True,
        "inside": "0_T",
    },
}


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_sentence_transformers(case: str, decoder_folder: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    how = dict(CASES[case])
    folder = with_modules(decoder_folder, tmp_path / "m", how.pop("pooling"), **how)
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    embedder = open_embedder(str(folder))
    texts = [text for text in TEXTS if END not in text]  # where a text spells a token out, theirs has the token
    for name in (None, *how.get("prompts", {})):
        found = embedder.embed(texts, prompt=name, batch=2)
        wanted = theirs.encode(texts, prompt_name=name, batch_size=len(texts))
        np.testing.assert_allclose(found.vectors, wanted, atol=3e-5, rtol=1e-4)
        assert "the checkpoint's 1_Pooling" in found.manner.told


def test_vectors_are_cut_and_normalised_again(decoder_folder: Path, tmp_path: Path) -> None:
    embedder = open_embedder(str(decoder_folder))
    whole = embedder.embed(TEXTS, normalize=False).vectors
    cut = embedder.embed(TEXTS, dimensions=10)
    wanted = whole[:, :10] / np.linalg.norm(whole[:, :10].astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(cut.vectors, wanted, atol=1e-6)
    assert "10 of 64 dimensions" in cut.manner.told
    assert np.array_equal(embedder.embed(TEXTS, dimensions=10, normalize=False).vectors, whole[:, :10])
    for wrong in (0, 65, -1):
        with pytest.raises(RequestError, match="vectors have 64"):
            embedder.embed(TEXTS, dimensions=wrong)
    folder = write_decoder(tmp_path / "listed", is_matryoshka=True, matryoshka_dimensions=[16, 32])
    listed = open_embedder(str(folder))
    assert listed.embed(TEXTS, dimensions=16).vectors.shape == (len(TEXTS), 16)
    with pytest.raises(RequestError, match="not trained"):
        listed.embed(TEXTS, dimensions=10)


def test_texts_that_are_too_long_are_refused_or_cut_before_the_end_token(decoder_folder: Path, tmp_path: Path) -> None:
    folder = with_modules(decoder_folder, tmp_path / "m", LAST, max_length=40, prompts={"query": "query: "})
    embedder = open_embedder(str(folder))
    with pytest.raises(PromptTooLongError, match=r"Text 2 has 201 tokens; the longest .* has 40"):
        embedder.embed(["short", "x" * 200])
    found = embedder.embed(["short", "x" * 200], truncate=True, prompt="query")
    assert found.tokens == (13, 40) and found.cut_tokens == (0, 168) and found.truncated == 1
    same = embedder.embed(["x" * 32], prompt="query")
    assert same.tokens == (40,) and np.array_equal(same.vectors[0], found.vectors[1])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a", ""], "Text 2 is empty"),
        ([" \n"], "Text 1 is empty"),
        (["a\ud800"], "Text 1 is not valid text: character 2"),
        ([b"a"], "Text 1 is bytes"),
    ],
)
def test_what_is_no_text_is_refused(texts: Any, said: str, decoder_folder: Path) -> None:
    with pytest.raises(RequestError, match=said):
        open_embedder(str(decoder_folder)).embed(texts)


def test_a_pooling_asked_for_goes_before_the_checkpoint_s(decoder_folder: Path, tmp_path: Path) -> None:
    folder = with_modules(decoder_folder, tmp_path / "m", modes("mean_tokens"))
    asked = open_embedder(str(folder), pooling="last").embed(TEXTS)
    assert "last (as asked for)" in asked.manner.told
    assert np.array_equal(asked.vectors, open_embedder(str(decoder_folder)).embed(TEXTS).vectors)
    with pytest.raises(OptionError, match="no pooling 'middle'"):
        open_embedder(str(folder), pooling="middle")


@pytest.mark.parametrize(
    ("file", "value", "kind", "said"),
    [
        ("modules.json", [{"type": "sentence_transformers.models.LSTM", "path": ""}], UnsupportedError, "a LSTM"),
        ("modules.json", [{"type": "x.Pooling", "path": "../1_Pooling"}], CheckpointError, "not inside"),
        ("modules.json", {}, CheckpointError, "not a JSON list"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, UnsupportedError, "'median'"),
        ("1_Pooling/config.json", {"pooling_mode_other": True}, UnsupportedError, "pooling_mode_other"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, CheckpointError, "default prompt"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, CheckpointError, "not texts by name"),
    ],
)
def test_files_that_say_something_else_are_refused(
    file: str, value: Any, kind: type[Exception], said: str, decoder_folder: Path, tmp_path: Path
) -> None:
    folder = with_modules(decoder_folder, tmp_path / "m", LAST)
    (folder / file).write_text(json.dumps(value))
    with pytest.raises(kind, match=said):
        open_embedder(str(folder))


def test_a_missing_pooling_file_is_said(decoder_folder: Path, tmp_path: Path) -> None:
    folder = with_modules(decoder_folder, tmp_path / "m", LAST)
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"1_Pooling.config\.json is missing"):
        open_embedder(str(folder))


def test_bits_do_not_depend_on_other_texts_or_threads(decoder_folder: Path, tmp_path: Path, extension: Any) -> None:
    folder = with_modules(decoder_folder, tmp_path / "m", modes("mean_tokens", "lasttoken"), prompts={"query": QUERY})
    alone = open_embedder(str(folder), threads=1)
    wanted = [alone.embed([text], prompt="query").vectors[0] for text in TEXTS]
    for threads, batch, options in (
        (2, 64, EngineOptions()),
        (3, 4, EngineOptions(max_step_tokens=7, cache_tokens=1024)),
        (2, 1, EngineOptions(prefix_cache=False, max_step_tokens=33)),
    ):
        embedder = open_embedder(str(folder), threads=threads, options=options)
        found = embedder.embed([*TEXTS, *reversed(TEXTS)], prompt="query", batch=batch).vectors
        for vector, other in zip(found, [*wanted, *reversed(wanted)], strict=True):
            assert np.array_equal(vector, other)


def test_an_embedder_shares_an_engine_that_writes(decoder_folder: Path, extension: Any) -> None:
    serving = open_engine(str(decoder_folder))
    embedder: Embedder = embedder_on(serving)
    wanted = embedder.embed(TEXTS).vectors
    manner = embedder.form.manner(None, None, None, None)
    encoded = embedder.form.encode(TEXTS, manner, truncate=False)
    reads = [Request.reading(f"v{n}", one.ids, embedder.form.readout(one, manner)) for n, one in enumerate(encoded)]
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
    chats = [Request(f"c{n}", one.ids, params) for n, one in enumerate(encoded)]
    answers = serving.engine.generate([request for pair in zip(chats, reads, strict=True) for request in pair])
    for vector, completion in zip(wanted, answers[1::2], strict=True):
        assert completion.read is not None and np.array_equal(vector, finished(completion.read, manner))
    assert all(len(completion.token_ids) == 12 for completion in answers[::2])
