"""The table of docs/answers.md: what every template writes is read back.

    python tests/text/test_answers_of_templates.py SHARED_FOLDER

writes it anew.
"""

from __future__ import annotations

import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from written_answers import CALLS, TOOLS, USER, message, written

from landrace.errors import RequestError
from landrace.text import ChatTemplate
from landrace.text.answers import AnswerParser, Parts, answer_grammar
from landrace.text.answers.grammar import REASONING, Grammar, Thought

PAGE = Path(__file__).resolve().parents[2] / "docs" / "answers.md"
HEAD = "| template | grammar | thought ends with | round trip |"
CONTENT, THOUGHT = "Let me look.", "Hm,\nwhere is it?"
NESTED_TAGS = """
{%- set sign = ']<]minimax[>[' -%}
{%- macro tags(value) -%}
  {%- if value is mapping -%}
    {%- for key, one in value.items() -%}
      {{- sign + '<' + key + '>' + tags(one) + sign + '</' + key + '>' -}}
    {%- endfor -%}
  {%- elif value is string -%}
    {{- value -}}
  {%- elif value is iterable -%}
    {%- for one in value -%}{{- sign + '<item>' + tags(one) + sign + '</item>' -}}{%- endfor -%}
  {%- else -%}
    {{- value | tojson -}}
  {%- endif -%}
{%- endmacro -%}
{%- for tool in tools or [] -%}{{- tool | tojson -}}{%- endfor -%}
{%- for m in messages -%}
  {{- ']~b]' + m.role + '\\n' -}}
  {{- '<mm:think>\\n' + m.reasoning_content + '\\n</mm:think>\\n\\n' if m.reasoning_content else '' -}}
  {{- m.content -}}
  {%- if m.tool_calls -%}
    {{- '\\n' + sign + '<tool_call>\\n' -}}
    {%- for call in m.tool_calls -%}
      {{- sign + '<invoke name="' + call.function.name + '">' -}}
      {{- tags(call.function.arguments) + sign + '</invoke>\\n' -}}
    {%- endfor -%}
    {{- sign + '</tool_call>' -}}
  {%- endif -%}
  {{- '[e~[\\n' -}}
{%- endfor -%}
{{- ']~b]assistant\\n' if add_generation_prompt -}}
"""
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


def calls_come_again(template: ChatTemplate, grammar: Grammar) -> bool:
    """Whether calls that were read are written again as they had been."""
    for calls in (CALLS, CALLS[:1]):
        if (found := _parts(template, grammar, calls)) is not None:
            text, parts = found
            read = [(call.name, call.arguments) for call in parts.calls]
            again = written(template, grammar, message(read))
            return not isinstance(again, str) and "".join(again) == text
    return False


def thought_comes_back(template: ChatTemplate, grammar: Grammar) -> bool:
    """Whether a thought is told from what is said, in the answer of a model that thinks as its family does."""
    if grammar.thought is None:
        return False
    begin = grammar.begin(template.render([USER]))
    opening = "" if begin == REASONING else grammar.thought.open
    parser = AnswerParser(grammar, begin, TOOLS)
    parts = Parts.of(parser.push(f"{opening}{THOUGHT}{grammar.thought.end}{CONTENT}") + parser.flush())
    return parts == Parts(THOUGHT, CONTENT, ())


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


@pytest.mark.parametrize("name", [name for name, (*_, way) in stored().items() if not way.startswith("equal")])
def test_what_is_not_read_back_is_not_written(name: str, shared: Path) -> None:
    template = opened(shared, name)
    for calls, tools in product((CALLS, CALLS[:1]), (TOOLS, None)):
        with pytest.raises(RequestError, match="leaves out t"):
            template.render([USER, message(calls), USER], tools=tools)
    *_, way = stored()[name]
    assert (way == "as the source shows") == any("tools" in source for source in template.sources.values())


def test_nested_tags_come_back_as_a_template_writes_them() -> None:
    """MiniMax-M3's way, in a template of our own: the published one is not at hand."""
    template = ChatTemplate(NESTED_TAGS)
    grammar = answer_grammar(template, ())
    assert grammar.name == "nested tags in <tool_call>"
    assert grammar.thought == Thought("<mm:think>", "</mm:think>", "\n</mm:think>\n\n")
    for calls in (CALLS, CALLS[:1], CALLS[1:]):
        for more in ({}, {"content": CONTENT}, {"reasoning_content": THOUGHT}):
            found = _parts(template, grammar, calls, **more)
            assert found is not None
            assert [(call.name, call.arguments) for call in found[1].calls] == calls
            assert [one for one in (found[1].content, found[1].reasoning) if one] == [*more.values()]


def test_the_page_lists_every_template(shared: Path) -> None:
    assert list(stored()) == TEMPLATES


if __name__ == "__main__":
    before, _, after = PAGE.read_text(encoding="utf-8").partition(HEAD)
    PAGE.write_text(before + table(Path(sys.argv[1])) + "\n" + after.partition("\n\n")[2], encoding="utf-8")
