"""`embed` and `rerank` as they are typed: tables, files, JSON, and what went wrong."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Landrace = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 that knows "yes" and "no"."""
    pytest.importorskip("transformers")
    from tiny_embedders import write_decoder

    return write_decoder(tmp_path_factory.mktemp("models") / "reranker", ends=False, kind="Qwen3ForCausalLM")


def test_texts_become_vectors_in_every_form(landrace: Landrace, tiny_model: Path, tmp_path: Path) -> None:
    texts = ["one text", "another", "quite\nanother"]
    code, table, told = landrace("embed", str(tiny_model), *texts)
    lines = table.splitlines()
    assert code == 0 and lines[0].split() == ["text", "tokens", "1", "2", "3"] and "1.000" in lines[1]
    assert "quite\\x0aanother" in lines[3]
    assert "32 dimensions, length 1; pooled: last (the default for decoders); no prompt." in told
    code, printed, _ = landrace("embed", str(tiny_model), *texts, "--json", "--dimensions", "8")
    facts = json.loads(printed)
    assert code == 0 and facts["dimensions"] == 8 and facts["full_dimensions"] == 32 and facts["pooling"] == ["last"]
    wanted = np.array([row["embedding"] for row in facts["texts"]], np.float32)
    assert np.allclose(np.linalg.norm(wanted, axis=1), 1, atol=1e-6)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": n, "body": text}) + "\n" for n, text in enumerate(texts)))
    for name in ("v.npy", "v.jsonl", "v.json"):
        arguments = ("--file", str(rows), "--column", "body", "--dimensions", "8", "--batch", "2")
        code, printed, told = landrace("embed", str(tiny_model), *arguments, "--out", str(tmp_path / name))
        assert code == 0 and not printed and "3 vectors are in" in told
    assert np.array_equal(np.load(tmp_path / "v.npy"), wanted)
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == texts
    assert np.array_equal(np.array([line["embedding"] for line in lines], np.float32), wanted)
    assert json.loads((tmp_path / "v.json").read_text())["texts"] == facts["texts"]


def test_lines_of_a_file_and_of_stdin_are_texts(
    landrace: Landrace, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("ein Text\r\nnoch einer\n", encoding="utf-8")
    _, printed, _ = landrace("embed", str(tiny_model), "--file", str(file), "--json")
    assert [row["text"] for row in json.loads(printed)["texts"]] == ["ein Text", "noch einer"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("ein Text\nnoch einer"))
    _, again, _ = landrace("embed", str(tiny_model), "-", "--json")
    assert json.loads(again)["texts"] == json.loads(printed)["texts"]


def test_documents_come_in_order(landrace: Landrace, tiny_reranker: Path) -> None:
    documents = ["Cats sleep.", "Dogs bark.", "Change it in the app."]
    code, printed, _ = landrace("rerank", str(tiny_reranker), "How do I change it?", *documents, "--json")
    results = json.loads(printed)["results"]
    scores = [one["score"] for one in results]
    assert code == 0 and scores == sorted(scores, reverse=True) and {one["index"] for one in results} == {0, 1, 2}
    code, table, told = landrace("rerank", str(tiny_reranker), "How do I change it?", *documents, "--top", "2")
    lines = table.splitlines()
    assert code == 0 and len(lines) == 3 and lines[0].split() == ["score", "document"]
    assert results[0]["document"] in lines[1] and f"{scores[0]:.4f}" in lines[1]
    assert 'the logit of "yes"' in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "There are no texts"),
        (("a", "--out", "v.txt"), "must end in .npy, .jsonl, .json"),
        (("a", "--file", "x.txt"), "on the command line and in --file"),
        (("a", "--column", "text"), "there is none"),
        (("a", "--query"), "no prompt called 'query'"),
        (("a", "--query", "--instruction", "b"), "--query is a prompt itself"),
        (("a", "--pooling", "median"), "no pooling 'median'"),
        (("a", "--dimensions", "33"), "vectors have 32"),
        (("a", ""), "Text 2 is empty"),
        (("a\udcff",), "not valid text"),
        (("x" * 300,), "the longest text that the model takes has 256"),
        (("--file", "no.txt"), "No such file"),
    ],
)
def test_what_cannot_be_embedded_is_a_sentence(
    arguments: tuple[str, ...], said: str, landrace: Landrace, tiny_model: Path
) -> None:
    code, printed, told = landrace("embed", str(tiny_model), *arguments)
    assert code == 1 and not printed and said in told and "Traceback" not in told


def test_files_without_texts_are_a_sentence(landrace: Landrace, tiny_model: Path, tmp_path: Path) -> None:
    for name, content, said in (
        ("a.jsonl", b'{"body": "x"}\n', "there is no column 'text'"),
        ("b.jsonl", b'{"text": 3}\n', "holds a number, not text"),
        ("c.jsonl", b"", "has no rows"),
        ("d.txt", b"\xff\xfe\xfa", "is not UTF-8"),
        ("e.txt", b"a\n\nb\n", "Text 2 is empty"),
    ):
        (tmp_path / name).write_bytes(content)
        code, _, told = landrace("embed", str(tiny_model), "--file", str(tmp_path / name))
        assert code == 1 and said in told, (name, told)
    code, _, told = landrace("rerank", str(tiny_model), "query", "document")
    assert code == 1 and '"yes" and "no" are no tokens' in told
