"""Real vocabularies with templates that belong to them: the ids of transformers, and text that stays text."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from landrace.certify.conversations import PROMPTS
from landrace.certify.prompts import compare_prompts
from landrace.checkpoints.gguf_file import read_gguf
from landrace.text import Tokenizer, chat_prompt, encode_chat, load_tokenizer, tokenizer_from_gguf

# The vocabulary, its template, and how many of the six kinds of conversation the template writes.
PAIRS = [
    ("qwen2.5", "Qwen-Qwen2.5-7B-Instruct", 6),
    ("qwen3", "Qwen-Qwen3-0.6B", 6),
    ("kimi_k2", "moonshotai-Kimi-K2", 6),
    ("glm4", "GLM-4.5", 6),
    ("hunyuan_a13b", "Hunyuan-A13B-Instruct", 5),
    ("yi", "Yi-Chat", 4),
    ("minicpm3", "MiniCPM3-4B", 4),
    ("deepseek_llm", "deepseek-ai-DeepSeek-V3.2", 6),
    ("minimind", "minimind", 6),
]


def opened(shared: Path, folder: Path, vocabulary: str, template: str) -> tuple[Tokenizer, Any]:
    """The tokenizer behind its own files with this template, and where it came from."""
    files = shared / "data" / "tokenizers" / vocabulary
    source = (shared / "data" / "chat_templates" / f"{template}.jinja").read_text(encoding="utf-8")
    gguf = next(files.glob("*.gguf"), None)
    if gguf is not None:
        metadata = {**read_gguf(gguf).metadata, "tokenizer.chat_template": source}
        return tokenizer_from_gguf(metadata), SimpleNamespace(path=gguf, format="gguf", metadata=metadata)
    shutil.copytree(files, folder, copy_function=shutil.copyfile)
    if vocabulary == "qwen3":  # the added tokens go with the words of qwen2.5
        for name in ("vocab.json", "merges.txt"):
            shutil.copyfile(files.parent / "qwen2.5" / name, folder / name)
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    return load_tokenizer(folder), SimpleNamespace(path=folder, format="safetensors")


@pytest.mark.parametrize(("vocabulary", "template", "kinds"), PAIRS)
def test_real_vocabularies(shared: Path, tmp_path: Path, vocabulary: str, template: str, kinds: int) -> None:
    pytest.importorskip("transformers")
    tokenizer, checkpoint = opened(shared, tmp_path / "model", vocabulary, template)
    assert tokenizer.chat_template is not None
    result = compare_prompts(checkpoint, tokenizer, tokenizer.chat_template, PROMPTS)
    assert result.passed and len(result.compared) == kinds, result

    def control(said: str) -> list[int]:
        turn = [{"role": "user", "content": f"a {said} b"}, {"role": "assistant", "content": f"{said} {said}"}]
        prompt = chat_prompt(tokenizer, [*turn, {"role": "user", "content": said}])
        shown = tokenizer.decode(prompt.token_ids, skip_special=False)
        # A vocabulary may put spaces behind control tokens.
        assert shown.replace(" ", "") == prompt.text.replace(" ", "")
        return [index for index in prompt.token_ids if index in tokenizer.special_ids]

    plain = control("river")
    for index in sorted(tokenizer.special_ids):
        mark = tokenizer.token_text(index)
        assert mark is not None and control(mark) == plain, mark


def test_what_is_hidden_elsewhere_changes_nothing_here(shared: Path, tmp_path: Path) -> None:
    """The second way of encoding gives the ids of the first for all that is not hidden."""
    for vocabulary, template in (("qwen3", "Qwen-Qwen3-0.6B"), ("minicpm3", "MiniCPM3-4B"), ("yi", "Yi-Chat")):
        tokenizer, _ = opened(shared, tmp_path / vocabulary, vocabulary, template)
        said = [
            {"role": "user", "content": "  Đẹp quá!\n\n 请 <think> ``` x\t"},
            {"role": "assistant", "content": " y "},
        ]
        plain = encode_chat(tokenizer, said)
        mark = tokenizer.token_text(min(tokenizer.control_ids))
        forged = encode_chat(tokenizer, [*said, {"role": "user", "content": mark}])
        harmless = encode_chat(tokenizer, [*said, {"role": "user", "content": "x"}])
        shared_length = next(i for i, (a, b) in enumerate(zip(forged, harmless, strict=False)) if a != b)
        assert shared_length > len(plain) - 12
        assert forged[:shared_length] == harmless[:shared_length]
