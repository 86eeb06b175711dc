"""The table of docs/chat.md: each family's vocabularies and templates, held against what others publish and write.

    python tests/text/test_chat_table.py SHARED_FOLDER

writes it anew.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from doors import NAMED, Doors, marks_of
from shared_vocabularies import NAMES, doors, texts, vectors
from test_answers_of_templates import calls_come_again, thought_comes_back
from test_prompts_by_the_door import CASES, check
from test_text_is_text import check_marks

from landrace.errors import RequestError
from landrace.text import ChatTemplate, load_tokenizer, tokenizer_from_gguf
from landrace.text.answers import answer_grammar
from landrace.text.thinking_switches import switched

PAGE = Path(__file__).resolve().parents[2] / "docs" / "chat.md"
COLUMNS = (
    "family",
    "published ids",
    "texts that come back",
    "prompts",
    "marks that stay text",
    "thoughts",
    "calls",
    "thoughts are switched by",
)
HEAD = f"| {' | '.join(COLUMNS)} |"
# The vocabularies of a family, and what the names of its templates begin with.
FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Qwen": (("qwen1", "qwen2.5", "qwen3"), ("Qwen",)),
    "DeepSeek": (("deepseek_llm", "deepseek_coder"), ("DeepSeek", "deepseek-ai", "llama-cpp-deepseek")),
    "GLM": (("glm4",), ("GLM",)),
    "Kimi": (("kimi_k2",), ("Kimi", "moonshotai")),
    "MiniMax": ((), ("MiniMax",)),
    "Hunyuan": (("hunyuan_a13b",), ("Hunyuan",)),
    "MiniCPM": (("minicpm3",), ("MiniCPM",)),
    "Seed-OSS": ((), ("ByteDance-Seed",)),
    "Step": ((), ("stepfun",)),
    "Yi": (("yi",), ("Yi",)),
    "Baichuan": (("baichuan2",), ()),
    "Llama": (("llama2", "llama3"), ("meta-llama", "NousResearch")),
    "gpt-oss": (("o200k",), ("openai-gpt-oss", "gpt-oss")),
    "SmolLM": (("smollm",), ("HuggingFaceTB-SmolLM", "SmolLM")),
    "MiniMind": (("minimind",), ("minimind",)),
}


def templates(shared: Path, prefixes: tuple[str, ...]) -> list[Path]:
    found = (shared / "data" / "chat_templates").glob("*.jinja")
    return sorted(file for file in found if file.stem.startswith(prefixes)) if prefixes else []


def row(shared: Path, family: str) -> list[str]:
    """The cells of a family behind its name. AssertionError where something is not as it should be."""
    names, prefixes = FAMILIES[family]
    with tempfile.TemporaryDirectory() as folder:
        published, languages = _vocabularies(shared, names, Path(folder))
        prompts, marks = _templates(shared, templates(shared, prefixes), Path(folder))
    return [published, languages, prompts, marks, *_answers(templates(shared, prefixes))]


def _vocabularies(shared: Path, names: tuple[str, ...], folder: Path) -> tuple[str, str]:
    right = n_vectors = back = n_texts = 0
    for name in names:
        (*_, last) = opened = list(doors(shared, name, folder).values())
        for source, text, ids in vectors(shared, name):
            special = text == "<|endoftext|>" or source == "llama.cpp"
            right += all(by.encode(text, add_bos=False, parse_special=special) == ids for by in opened)
            n_vectors += 1
        for _, text in texts(shared, 2000):
            normalizer = last.backend.normalizer
            nfc = normalizer is not None and "NFC" in str(normalizer)
            ids = last.encode(text, add_bos=False, parse_special=False)
            back += last.decode(ids) == (normalizer.normalize_str(text) if nfc and normalizer else text)
            n_texts += 1
    return _of(right, n_vectors), _of(back, n_texts)


def _templates(shared: Path, files: list[Path], folder: Path) -> tuple[str, str]:
    transformers = pytest.importorskip("transformers")
    maker = Doors(shared / "data" / "tokenizers" / "minimind")
    written = n_marks = 0
    for file in files:
        source = file.read_text(encoding="utf-8")
        marks = marks_of(source)
        made = maker.folder(folder / f"of-{file.stem}", source, marks)
        peer = transformers.PreTrainedTokenizerFast.from_pretrained(str(made))
        for ours in (load_tokenizer(made), tokenizer_from_gguf(maker.metadata(source, marks))):
            written += sum(check(file.stem, ours, peer, case) for case in CASES)
            check_marks(ours, [*NAMED.values(), *marks])
        n_marks += len({*NAMED.values(), *marks})
    if not files:
        return "none", "none"
    n_prompts = 2 * len(CASES) * len(files)
    refused = f", {n_prompts - written} refused" if written < n_prompts else ""
    kinds = "template" if len(files) == 1 else "templates"
    return f"{len(files)} {kinds}: {written} as transformers{refused}", str(n_marks)


def _answers(files: list[Path]) -> tuple[str, str, str]:
    """How many templates' thoughts are told apart, how many write calls again as they were read, and their switches."""
    thinking = back = again = 0
    switches: Counter[str] = Counter()
    for file in files:
        template = ChatTemplate(file.read_text(encoding="utf-8"), tokens=NAMED)
        grammar = answer_grammar(template, ())
        thinking += grammar.thought is not None
        back += thought_comes_back(template, grammar)
        again += calls_come_again(template, grammar)
        with suppress(RequestError):  # it has none
            switches[", ".join(f"`{name}`" for name in switched(template, on=False))] += 1
        template.close()
    counted = [f"{names} ({count})" if len(files) > 1 else names for names, count in sorted(switches.items())]
    return _of(back, thinking), _of(again, len(files)), "; ".join(counted) or "none"


def _of(right: int, count: int) -> str:
    return f"{right} of {count}" if count else "none"


def stored() -> dict[str, list[str]]:
    """The page's rows: the cells behind the family."""
    lines = PAGE.read_text(encoding="utf-8").partition(HEAD)[2].strip().splitlines()[1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {name: rest for name, *rest in cells if name in FAMILIES}


def test_the_page_lists_every_family_and_they_claim_every_file_once(shared: Path) -> None:
    assert list(stored()) == list(FAMILIES)
    claimed = [file.stem for _, prefixes in FAMILIES.values() for file in templates(shared, prefixes)]
    assert sorted(claimed) == sorted(file.stem for file in (shared / "data" / "chat_templates").glob("*.jinja"))
    assert sorted(name for names, _ in FAMILIES.values() for name in names) == sorted(NAMES)
    folders = [folder for folder in (shared / "data" / "tokenizers").iterdir() if folder.name != "test_vectors"]
    # Of some families only tokenizer_config.json is at hand; the words that go with it are another's.
    with_words = [one.name for one in folders if {file.name for file in one.iterdir()} != {"tokenizer_config.json"}]
    assert set(with_words) <= set(NAMES)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_the_row_is_what_the_run_finds(shared: Path, family: str) -> None:
    assert row(shared, family) == stored()[family]


def table(shared: Path) -> str:
    lines = [HEAD, "| --- " * len(COLUMNS) + "|"]
    return "\n".join([*lines, *("| " + " | ".join([family, *row(shared, family)]) + " |" for family in FAMILIES)])


if __name__ == "__main__":
    before, _, after = PAGE.read_text(encoding="utf-8").partition(HEAD)
    PAGE.write_text(before + table(Path(sys.argv[1])) + "\n\n" + after.partition("\n\n")[2], encoding="utf-8")
