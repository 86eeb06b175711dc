"""The table of docs/answers.md: what every template writes is read back.

    python tests/text/test_answers_of_templates.py SHARED_FOLDER

writes it anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from written_answers import CALLS, TOOLS, message, written

from landrace.text import ChatTemplate
from landrace.text.answers import AnswerParser, Parts, answer_grammar
from landrace.text.answers.grammar import Grammar

PAGE = Path(__file__).resolve().parents[2] / "docs" / "answers.md"
HEAD = "| template | grammar | thought ends with | round trip |"
CONTENT, THOUGHT = "Let me look.", "Hm,\nwhere is it?"
TEMPLATES = sorted(
    file.stem for file in (PAGE.parents[2] / "shared" / "data" / "chat_templates").glob("*.jinja") if file.is_file()
)


def opened(shared: Path, name: str) -> ChatTemplate:
    return ChatTemplate((shared / "data" / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8"))


def row(template: ChatTemplate) -> list[str]:
    """The cells after the template's name."""
    grammar = answer_grammar(template, ())
    ways = [("equal", CALLS), ("equal, one call", CALLS[:1])]
    found = next((way for way, calls in ways if _parts(template, grammar, calls) is not None), None)
    found = found or ("as the source shows" if grammar.name else "no calls")
    thought = "" if grammar.thought is None else f"`{grammar.thought.close}`".replace("|", r"\|")
    return [f"`{grammar.name}`" if grammar.name else "", thought, found]


def _parts(template: ChatTemplate, grammar: Grammar, calls: list[Any], **more: Any) -> tuple[str, Parts] | None:
    """What the template writes of a message with these calls, and what it is read as."""
    text = written(template, grammar, message(calls, **more))
    if isinstance(text, str):
        return None
    before, answer = text
    parser = AnswerParser(grammar, grammar.begin(before), TOOLS)
    return before + answer, Parts.of([event for one in answer for event in parser.push(one)] + parser.flush())


def table(shared: Path) -> str:
    lines = [HEAD, "| --- | --- | --- | --- |"]
    for name in TEMPLATES:
        template = opened(shared, name)
        lines.append("| " + " | ".join([f"`{name}`", *row(template)]) + " |")
        template.close()
    return "\n".join(lines)


def stored() -> dict[str, list[str]]:
    rows = PAGE.read_text(encoding="utf-8").partition(HEAD)[2].strip().splitlines()[1:]
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in rows if line.startswith("| `")
    ]
    return {name.strip("`"): rest for name, *rest in cells}


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_come_back_as_the_template_wrote_them(name: str, shared: Path) -> None:
    template = opened(shared, name)
    grammar = answer_grammar(template, ())
    assert stored()[name] == row(template)
    for calls in (CALLS, CALLS[:1], CALLS[1:]):
        for more in ({}, {"content": CONTENT}, {"reasoning_content": THOUGHT}):
            found = _parts(template, grammar, calls, **more)
            if found is None:
                continue
            text, parts = found
            assert [(call.name, call.arguments) for call in parts.calls] == calls
            # Some templates drop thoughts of earlier turns, and gpt-oss writes what stands beside a call as a thought.
            said = [one for one in more.values() if one in text]
            assert [one for one in (parts.content, parts.reasoning) if one] == said


def test_the_page_lists_every_template(shared: Path) -> None:
    assert list(stored()) == TEMPLATES


if __name__ == "__main__":
    before, _, after = PAGE.read_text(encoding="utf-8").partition(HEAD)
    PAGE.write_text(before + table(Path(sys.argv[1])) + "\n" + after.partition("\n\n")[2], encoding="utf-8")
