"""`quantize` as it is typed: a table, JSON, and what went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Landrace = Callable[..., tuple[int, str, str]]


def test_a_folder_in_fewer_bits(landrace: Landrace, tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The keys are in the blue box. " * 40, encoding="utf-8")
    for form, name in (("w4a16", "four"), ("FP8-Dynamic", "eight")):
        out = tmp_path / name
        code, table, told = landrace(
            "quantize", str(tiny_model), "--weights", form, "--out", str(out), "--text", str(text)
        )
        assert code == 0 and (out / "config.json").is_file()
        lines = [line.split() for line in table.splitlines()]
        assert lines[0] == [form.upper().replace("-", "_"), "before", "after"]
        assert {"size", "bits", "perplexity", "same", "weights"} <= {line[0] for line in lines if line}
        assert "tokens of" in table and "is ready" in told
    arguments = ("quantize", str(tiny_model), "--weights", "w4a16", "--importance", str(text), "--json")
    code, printed, _ = landrace(*arguments, "--out", str(tmp_path / "json"))
    facts = json.loads(printed)
    assert code == 0 and facts["form"] == "W4A16" and facts["bytes_after"] < facts["bytes_before"]
    assert facts["figures"] is None  # the text is too short to keep a part for them


def test_errors_are_a_sentence(landrace: Landrace, tiny_model: Path, tmp_path: Path) -> None:
    for form, out, expected in (
        ("q9", "a.gguf", "no form 'q9'"),
        ("q8_0", "a.gguf", "no name there"),
        ("q8_0", "a", "name ends in .gguf"),
        ("w4a16", ".", "exists already"),
    ):
        code, printed, told = landrace("quantize", str(tiny_model), "--weights", form, "--out", str(tmp_path / out))
        assert code == 1 and not printed and expected in told and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []
