"""Vectors and scores over HTTP: to the bit what an embedder and a reranker in this process give."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

pytest.importorskip("transformers")

from tiny_embedders import QUERY, TEXTS, modes, with_modules, write_decoder, write_encoder

from landrace import open_embedder, open_reranker

PROMPTS = {"query": QUERY, "document": ""}
WORDS = ("how do i change my booking", "changing a booking is free", "a cat", "a cat " * 20)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By what they are: models of every kind that reads."""
    root = tmp_path_factory.mktemp("reading")
    decoder, encoder = write_decoder(root / "plain"), write_encoder(root / "bert")
    layers = [{"in_features": 64, "out_features": 48, "activation_function": "torch.nn.modules.activation.GELU"}]
    return {
        "embedder": with_modules(decoder, root / "embedder", modes("lasttoken"), prompts=PROMPTS, max_length=300),
        "dense": with_modules(decoder, root / "dense", modes("mean_tokens", include_prompt=False), dense=layers,
                              prompts=PROMPTS),
        "reranker": write_decoder(root / "reranker", ends=False),
        "encoder": with_modules(encoder, root / "encoder", modes("mean_tokens"), max_length=64),
        "pairs": write_encoder(root / "pairs", kind="BertForSequenceClassification", num_labels=1),
    }  # fmt: skip


@pytest.fixture(scope="module")
def reading(start_server: Any, folders: dict[str, Path]) -> Any:
    return start_server(*map(str, folders.values()), patience=300)


def bits(body: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(entry["embedding"]) for entry in body["data"]]


def embed(server: Any, **fields: Any) -> dict[str, Any]:
    answer = server.post("/v1/embeddings", {"encoding_format": "base64", **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize("kind", ["embedder", "dense", "encoder", "pairs"])
def test_vectors_are_the_embedder_s_to_the_bit(reading: Any, folders: dict[str, Path], kind: str) -> None:
    name, texts = str(folders[kind]), list(WORDS if kind in ("encoder", "pairs") else TEXTS)
    if kind == "pairs":
        answer = reading.post("/v1/embeddings", {"model": name, "input": texts})
        assert answer.status_code == 400 and "gives no vectors" in answer.text
        return
    ours = open_embedder(name)
    asked = ({}, {"prompt_name": "query"}, {"dimensions": 16}, {"normalize": False})
    for fields in asked if kind != "encoder" else ({}, {"dimensions": 16}, {"normalize": False}):
        how = {"prompt" if field == "prompt_name" else field: value for field, value in fields.items()}
        wanted = ours.embed(texts, **how)
        body = embed(reading, model=name, input=texts, **fields)
        assert bits(body) == [vector.tobytes() for vector in wanted.vectors]
        assert body["usage"] == {"prompt_tokens": sum(wanted.tokens), "total_tokens": sum(wanted.tokens)}
        assert [entry["index"] for entry in body["data"]] == list(range(len(texts)))


def test_the_official_client_gets_the_same_in_both_encodings(reading: Any, folders: dict[str, Path]) -> None:
    name = str(folders["embedder"])
    wanted = open_embedder(name).embed(TEXTS[:3]).vectors
    client: openai.OpenAI = reading.client
    usual = client.embeddings.create(model=name, input=list(TEXTS[:3]))
    floats = client.embeddings.create(model=name, input=list(TEXTS[:3]), encoding_format="float")
    for found in (usual, floats):
        assert np.array_equal(np.array([one.embedding for one in found.data], np.float32), wanted)
        assert found.model == name and found.usage.total_tokens == floats.usage.total_tokens


def test_ollamas_client_gets_the_same(reading: Any, folders: dict[str, Path]) -> None:
    ollama = pytest.importorskip("ollama", reason="needs the ollama client: pip install landrace[test]")
    name, client = str(folders["embedder"]), ollama.Client(host=reading.url)
    wanted = open_embedder(name).embed(TEXTS[:3], normalize=True).vectors
    found = client.embed(name, list(TEXTS[:3]), keep_alive="5m", options={"num_gpu": 0})
    assert np.array_equal(np.array(found.embeddings, np.float32), wanted)
    assert found.prompt_eval_count > 0 and found.total_duration > 0
    (short,) = client.embed(name, TEXTS[0], dimensions=16).embeddings
    assert len(short) == 16
    client.embed(name, "x" * 400)
    for fields in ({"truncate": False}, {"options": {"temperature": 0}}, {"input": []}, {"keep_alive": []}):
        body = {"model": name, "input": "x" * 400, **fields}
        reply = reading.post("/api/embed", body)
        assert reply.status_code == 400 and list(reply.json()) == ["error"], reply.text
    assert "embedding" in client.show(name).capabilities


def test_bits_do_not_depend_on_what_else_is_asked(reading: Any, folders: dict[str, Path]) -> None:
    """Many calls at once, beside chats of the same model, and a call of more texts than are in the engine together."""
    for kind, texts in (("embedder", TEXTS), ("encoder", WORDS)):
        name = str(folders[kind])
        alone = [bits(embed(reading, model=name, input=text))[0] for text in texts]
        many = [texts[n % len(texts)] for n in range(150)]
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(embed, reading, model=name, input=many[n:]) for n in range(4)]
            if kind == "embedder":
                pool.submit(reading.post, "/v1/completions", {"model": name, "prompt": "a", "max_tokens": 40})
            for n, call in enumerate(calls):
                assert bits(call.result()) == [alone[m % len(texts)] for m in range(n, 150)]


def test_token_ids_are_read_as_they_are(reading: Any, folders: dict[str, Path]) -> None:
    name = str(folders["embedder"])
    form = open_embedder(name).form
    encoded = form.encode(TEXTS[:2], form.manner("", None, None, None), truncate=False)
    by_text = bits(embed(reading, model=name, input=list(TEXTS[:2])))
    assert bits(embed(reading, model=name, input=[list(one.ids) for one in encoded])) == by_text
    assert bits(embed(reading, model=name, input=list(encoded[0].ids))) == by_text[:1]


def test_what_is_too_long_is_refused_or_cut(reading: Any, folders: dict[str, Path]) -> None:
    for kind, text in (("embedder", "x" * 400), ("encoder", "a " * 100)):
        body = {"model": str(folders[kind]), "input": ["cat", text]}
        error = reading.post("/v1/embeddings", body).json()["error"]
        assert (error["param"], error["code"]) == ("input", "context_length_exceeded") and "Text 2" in error["message"]
        cut = embed(reading, **body, truncate=True)
        wanted = open_embedder(body["model"]).embed(body["input"], truncate=True)
        assert cut["usage"]["truncated"] == 1 and bits(cut) == [vector.tobytes() for vector in wanted.vectors]


@pytest.mark.parametrize("kind", ["reranker", "pairs"])
@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_documents_are_ranked_as_by_the_reranker(reading: Any, folders: dict[str, Path], kind: str, path: str) -> None:
    name, query, documents = str(folders[kind]), WORDS[0], list(WORDS[1:])
    wanted = open_reranker(name).rerank(query, documents)
    shaped = [documents[0], *({"text": text} for text in documents[1:])]
    body = {"model": name, "query": query, "documents": shaped, "return_documents": True}
    found = reading.post(path, body).json()
    assert found["results"] == [
        {"index": one.index, "relevance_score": one.score, "document": {"text": one.document}} for one in wanted.results
    ]
    assert found["usage"]["total_tokens"] == sum(wanted.tokens)
    best = reading.post(path, {"model": name, "query": query, "documents": documents, "top_n": 1}).json()
    assert best["results"] == [{"index": wanted.results[0].index, "relevance_score": wanted.results[0].score}]


def test_scores_are_one_to_many_or_pairs(reading: Any, folders: dict[str, Path]) -> None:
    for kind in ("reranker", "pairs"):
        name = str(folders[kind])
        ours = open_reranker(name)
        wanted = {one.index: one.score for one in ours.rerank(WORDS[0], WORDS[1:]).results}
        body = {"model": name, "text_1": WORDS[0], "text_2": list(WORDS[1:])}
        data = reading.post("/v1/score", body).json()["data"]
        assert [(one["index"], one["score"]) for one in data] == sorted(wanted.items())
        pairs = {"model": name, "text_1": [WORDS[0], WORDS[1]], "text_2": [WORDS[1], WORDS[2]]}
        data = reading.post("/score", pairs).json()["data"]
        second = ours.rerank(WORDS[1], [WORDS[2]]).results[0].score
        assert [one["score"] for one in data] == [wanted[0], second]


def test_a_model_is_asked_for_what_it_can(reading: Any, folders: dict[str, Path]) -> None:
    listed = {model["id"]: model["capabilities"] for model in reading.get("/v1/models").json()["data"]}
    told = {kind: listed[str(folder)] for kind, folder in folders.items()}
    assert told["encoder"] == ["embedding"] and told["pairs"] == ["rerank"]
    assert {"completion", "embedding"} <= set(told["embedder"]) and "rerank" in told["reranker"]
    said = {"model": str(folders["encoder"]), "messages": [{"role": "user", "content": "cat"}]}
    answer = reading.post("/v1/chat/completions", said)
    assert answer.status_code == 400 and "writes no text" in answer.text and "embedding" in answer.text
    answer = reading.post("/v1/rerank", {"model": str(folders["encoder"]), "query": "a", "documents": ["b"]})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "model"


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/embeddings", {}, "input"),
    ("/v1/embeddings", {"input": []}, "input"),
    ("/v1/embeddings", {"input": ""}, "input"),
    ("/v1/embeddings", {"input": [[]]}, "input"),
    ("/v1/embeddings", {"input": ["a", [1]]}, "input"),
    ("/v1/embeddings", {"input": ["a"] * 2049}, "input"),
    ("/v1/embeddings", {"input": [[99999]]}, "input"),
    ("/v1/embeddings", {"input": [list(range(200)) * 2]}, "input"),
    ("/v1/embeddings", {"input": ["x" * 250] * 1500}, "input"),
    ("/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
    ("/v1/embeddings", {"input": "a", "dimensions": 65}, "dimensions"),
    ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ("/v1/embeddings", {"input": "a", "prompt_name": "qurey"}, "prompt_name"),
    ("/v1/embeddings", {"input": "a", "input_type": "passage"}, "input_type"),
    ("/v1/embeddings", {"input": "a", "input_type": "query", "prompt_name": "document"}, "input_type"),
    ("/v1/embeddings", {"input": "a", "prompt_name": "query", "instruction": "Find"}, "instruction"),
    ("/v1/embeddings", {"input": [[1]], "instruction": "Find"}, "instruction"),
    ("/v1/embeddings", {"input": "a", "late_chunking": True}, "late_chunking"),
    ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
    ("/v1/rerank", {"query": "a", "documents": [{"title": "b"}]}, "documents[0]"),
    ("/v1/rerank", {"query": "", "documents": ["b"]}, "documents"),
    ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
    ("/v1/rerank", {"query": "a", "documents": ["b"], "rank_fields": ["title"]}, "rank_fields"),
    ("/v1/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "text_1"),
    ("/v1/score", {"text_1": "a", "text_2": []}, "text_2"),
]


@pytest.mark.parametrize(("path", "fields", "field"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(
    reading: Any, folders: dict[str, Path], path: str, fields: dict[str, Any], field: str
) -> None:
    name = str(folders["embedder" if path == "/v1/embeddings" else "reranker"])
    answer: httpx.Response = reading.post(path, {"model": name, **fields})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == field, answer.text


def test_what_asks_for_nothing_is_taken(reading: Any, folders: dict[str, Path]) -> None:
    name = str(folders["embedder"])
    neutral = {"user": "u", "dimensions": None, "prompt_name": None, "input_type": None, "truncate": False}
    assert bits(embed(reading, model=name, input="a", **neutral)) == bits(embed(reading, model=name, input="a"))
    body = {"model": str(folders["pairs"]), "query": "a", "documents": ["b"], "rank_fields": ["text"], "top_n": None}
    assert reading.post("/v1/rerank", {**body, "return_embeddings": False}).status_code == 200


def test_a_call_is_a_row_of_usage(start_server: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    from landrace.ledger import Ledger

    name, ledger = str(folders["encoder"]), tmp_path / "usage.sqlite"
    server = start_server(name, ledger=ledger)
    body = embed(server, model=name, input=list(WORDS))
    assert server.stop() == 0
    (row,) = Ledger(ledger).usage()
    assert (row.model, row.prompt_tokens, row.completion_tokens) == (name, body["usage"]["prompt_tokens"], 0)
    assert row.finish_reason == "stop" and row.total_seconds > 0


def test_cli_and_server_write_the_same_numbers(reading: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from landrace.cli.main import app

    name, out = str(folders["encoder"]), tmp_path / "vectors.jsonl"
    ran = CliRunner().invoke(app, ["embed", name, *WORDS[:3], "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    wanted = [json.loads(line)["embedding"] for line in out.read_text().splitlines()]
    body = embed(reading, model=name, input=list(WORDS[:3]), encoding_format="float")
    assert [entry["embedding"] for entry in body["data"]] == wanted
