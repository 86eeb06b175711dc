"""The perplexity script: its arithmetic against torch's, its texts, its table."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import perplexity
import pytest
import torch
from torch.nn import functional as F

from landrace.checkpoints import open_checkpoint, write_checkpoint
from landrace.errors import DataError
from landrace.model import open_model
from landrace.models.batch import ForwardBatch

TEXT = "The keys are in the blue box. Ključevi su u plavoj kutiji. 钥匙在蓝色的盒子里。 " * 6
WINDOW, TOKENS = 24, 96


@pytest.fixture(scope="module")
def coarse_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with coarsely rounded matrices."""
    checkpoint = open_checkpoint(tiny_model)
    tensors = [
        (name, torch.round(tensor * 12) / 12 if tensor.dim() == 2 else tensor)
        for name, tensor in open_model(str(tiny_model), dtype="float32").decoder.named_tensors()
    ]
    folder = tmp_path_factory.mktemp("models") / "coarse"
    extras = [tiny_model / name for name in ("tokenizer.json", "tokenizer_config.json")]
    write_checkpoint(folder, checkpoint.config, checkpoint.hub_sources, tensors, extras)
    return folder


@pytest.fixture
def two_paths(tiny_model: Path, coarse_model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The model's name; it is served from the coarse weights."""
    real = perplexity.open_path

    def open_path(model: str, how: Any, threads: int | None, cache_dtype: str = "auto") -> Any:
        return real(str(coarse_model) if how is perplexity.SERVED else model, how, threads, cache_dtype)

    monkeypatch.setattr(perplexity, "open_path", open_path)
    return str(tiny_model)


def by_torch(folder: Path, windows: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every scored token, and the likeliest token in its place."""
    decoder = open_model(str(folder), dtype="float32").decoder
    scored, choices = [], []
    for ids in windows:
        with torch.no_grad():
            logits = decoder(ForwardBatch.packed([list(ids)])).double()[:-1]
        scored.append(-F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none"))
        choices.append(logits.argmax(-1))
    return torch.cat(scored), torch.cat(choices)


def test_figures_are_those_of_torch(two_paths: str, tiny_model: Path, coarse_model: Path) -> None:
    found = perplexity.measure(two_paths, {"a": TEXT, "b": TEXT[40:], "short": "Hello"}, TOKENS, WINDOW, 1)
    tokenizer = open_model(str(tiny_model)).tokenizer
    cut = {name: perplexity.windows(tokenizer, text, TOKENS, WINDOW) for name, text in (("a", TEXT), ("b", TEXT[40:]))}
    assert [len(ids) for ids in cut["a"]] == [WINDOW] * 4
    assert [i for ids in cut["a"] for i in ids] == tokenizer.encode(TEXT)[:TOKENS]
    assert [row.text for row in (*found.rows, found.total)] == ["a", "b", "total"]
    for row, windows in zip((*found.rows, found.total), (cut["a"], cut["b"], cut["a"] + cut["b"]), strict=True):
        ours, our_choices = by_torch(tiny_model, windows)
        theirs, their_choices = by_torch(coarse_model, windows)
        assert row.tokens == len(ours) == len(windows) * (WINDOW - 1)
        assert row.reference == pytest.approx(math.exp(-ours.mean()), rel=1e-4)
        assert row.served == pytest.approx(math.exp(-theirs.mean()), rel=1e-4)
        assert row.difference == pytest.approx(math.exp(ours.mean() - theirs.mean()) - 1, abs=1e-4)
        assert row.logprob_difference == pytest.approx((ours - theirs).abs().mean().item(), rel=1e-3)
        assert row.same_choice == pytest.approx((our_choices == their_choices).double().mean().item(), abs=0.02)
        assert row.logprob_difference > 0.02 and row.same_choice < 1
    assert found.too_short == ("short",)


def test_equal_paths_do_not_differ(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "SERVED", perplexity.REFERENCE)
    total = perplexity.measure(str(tiny_model), {"a": TEXT}, TOKENS, WINDOW, 1).total
    assert (total.difference, total.logprob_difference, total.same_choice) == (0.0, 0.0, 1.0)


def test_no_text_long_enough_is_an_error(tiny_model: Path) -> None:
    with pytest.raises(DataError, match="No text has 9000 tokens"):
        perplexity.measure(str(tiny_model), {"a": TEXT}, 9000, WINDOW, 1)


def test_texts_of_every_kind_are_found(tmp_path: Path) -> None:
    (tmp_path / "news").mkdir()
    (tmp_path / "news" / "zho-CN.txt").write_text("钥匙\n", encoding="utf-8")
    (tmp_path / "poems.json").write_text(
        json.dumps([{"author": "No one", "paragraphs": ["One,", "two."]}, {"title": "Three", "content": ["four"]}])
    )
    (tmp_path / "law.xml").write_text("<a lang='x'>\n <b>Все</b>\n <b> <c>люди</c></b></a>", encoding="utf-8")
    (tmp_path / "LICENSE").write_text("Not a text.")
    found = perplexity.read_texts(tmp_path)
    assert found == {"law": "Все\nлюди", "news/zho-CN": "钥匙\n", "poems": "One,\ntwo.\nfour"}
    with pytest.raises(DataError, match=r"no \.txt"):
        perplexity.read_texts(tmp_path / "nothing")


def test_the_command_prints_a_table_and_writes_json(
    two_paths: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "eng.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "tiny.txt").write_text("Hello", encoding="utf-8")
    command = ["perplexity.py", two_paths, "--text", str(tmp_path), "--tokens", str(TOKENS), "--window", str(WINDOW)]
    monkeypatch.setattr(sys, "argv", [*command, "--threads", "1", "--json", str(tmp_path / "out")])
    perplexity.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["text", "tokens", "float32", "served", "differs", "|nats|", "same", "choice"]
    assert [line.split()[0] for line in lines] == ["text", "eng", "total", "Left"]
    written = json.loads((tmp_path / "out").read_text())
    assert written["rows"][0]["difference"] == written["total"]["difference"] != 0
    assert f"{written['total']['difference']:+.3%}" in lines[2]
    assert written["provenance"]["weights_sha256"] == open_checkpoint(Path(two_paths)).sha256()
    assert written["too_short"] == ["tiny"]
