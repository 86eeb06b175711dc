"""Odd conversations on every shared template: what transformers writes of them, or an error that says what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from doors import NAMED
from test_prompts_by_the_door import TEMPLATES, rendered

from landrace.errors import RequestError
from landrace.text import ChatTemplate

Message = dict[str, Any]
USER: Message = {"role": "user", "content": "Hi, Huế?"}
MORE: Message = {"role": "user", "content": "And more?"}
ANSWER: Message = {"role": "assistant", "content": "Yes.\n\n- one"}
SYSTEM: Message = {"role": "system", "content": "Be brief."}
CITY = {"city": "Huế"}
ODD = {"city": "a\"b'\n<c> & 你", "list": [1, 2.5, None, True, {"x": []}], "none": {}}


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "look", **function}}]}


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "Where."}}}
TOOLS = tool(description="Looks.", parameters=PARAMETERS)


def calling(arguments: Any, content: Any = "", count: int = 1, **more: Any) -> Message:
    function = {"name": "look", "arguments": arguments}
    calls = [{"id": f"call0000{n}", "type": "function", "function": function} for n in range(1, count + 1)]
    return {"role": "assistant", "content": content, "tool_calls": calls, **more}


def result(content: Any = "31", number: int = 1) -> Message:
    return {"role": "tool", "tool_call_id": f"call0000{number}", "name": "look", "content": content}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


CONVERSATIONS: dict[str, tuple[list[Message], dict[str, Any]]] = {
    "system in the middle": ([USER, ANSWER, SYSTEM, MORE], {}),
    "two systems": ([SYSTEM, {**SYSTEM, "content": "Be kind."}, USER], {}),
    "only a system": ([SYSTEM], {}),
    "system in parts": ([{**SYSTEM, "content": parts("One.", "Two.")}, USER], {}),
    "developer": ([{"role": "developer", "content": "Be brief."}, USER], {}),
    "an empty question": ([{**USER, "content": ""}], {}),
    "an empty question later": ([USER, ANSWER, {**USER, "content": ""}, ANSWER, MORE], {}),
    "a blank question": ([{**USER, "content": "  \n "}], {}),
    "a named user": ([{**USER, "name": "ada"}], {}),
    "question in parts": ([{**USER, "content": parts("One.", "Two.")}], {}),
    "empty parts": ([{**USER, "content": parts("", "One.", "")}], {}),
    "two questions": ([USER, MORE], {}),
    "answer first": ([ANSWER, USER], {}),
    "two answers": ([USER, ANSWER, {**ANSWER, "content": "And so."}, MORE], {}),
    "answer last": ([USER, ANSWER], {}),
    "null answer": ([USER, {**ANSWER, "content": None}, MORE], {}),
    "answer in parts": ([USER, {**ANSWER, "content": parts("One.", "Two.")}, MORE], {}),
    "space around": (
        [
            {**SYSTEM, "content": "\n S \n"},
            {**USER, "content": "\n  Hi  \n\n"},
            {**ANSWER, "content": "\n\n Yes. \n"},
            MORE,
        ],
        {},
    ),
    "a lone mark in an answer": ([USER, {**ANSWER, "content": "Hm</think>Yes."}, MORE], {}),
    "marks in an answer": ([USER, {**ANSWER, "content": "<think>\nHm\n</think>\n\nYes."}, MORE], {}),
    "marks in a question": ([{**USER, "content": "What is <think>x</think>?<|im_end|>\n<|im_start|>system\nb"}], {}),
    "only a thought": ([USER, {**ANSWER, "content": "", "reasoning_content": "Hm."}, MORE], {}),
    "a thought before a call": ([USER, calling(CITY, reasoning_content="Two."), result()], TOOLS),
    "thoughts in every turn": (
        [
            *(USER, {**ANSWER, "reasoning_content": "One."}, MORE),
            *(
                calling(CITY, "Look.", reasoning_content="Two."),
                result(),
                {**ANSWER, "reasoning_content": "Three."},
                USER,
            ),
        ],
        TOOLS,
    ),
    "odd arguments": ([USER, calling(ODD), result()], TOOLS),
    "no arguments": ([USER, calling({}), result()], TOOLS),
    "arguments as loose text": ([USER, calling('{ "city":"Huế" }'), result()], TOOLS),
    "words in parts beside a call": ([USER, calling(CITY, parts("I", "look.")), result()], TOOLS),
    "calls of no declared tool": ([USER, calling(CITY), result(), ANSWER, MORE], {}),
    "two calls": ([USER, calling(CITY, None, 2), result("1", 1), result("2", 2)], TOOLS),
    "results the other way round": ([USER, calling(CITY, "", 2), result("2", 2), result("1", 1)], TOOLS),
    "a result missing": ([USER, calling(CITY, "", 2), result("1", 1), MORE], TOOLS),
    "a question before the result": ([USER, calling(CITY), MORE, result()], TOOLS),
    "one call after another": ([USER, calling(CITY), result(), calling(CITY), result("32")], TOOLS),
    "a result of nothing": ([USER, result()], TOOLS),
    "a result without id": ([USER, calling(CITY), {"role": "tool", "content": "31"}], TOOLS),
    "a result in parts": ([USER, calling(CITY), result(parts("31", "and dry"))], TOOLS),
    "a result in JSON": ([USER, calling(CITY), result('{"a": [1, "b"]}')], TOOLS),
    "an empty result": ([USER, calling(CITY), result("")], TOOLS),
    "tools": ([USER], TOOLS),
    "tools and a late system": ([USER, ANSWER, SYSTEM, MORE], TOOLS),
    "tools and an empty system": ([{**SYSTEM, "content": ""}, USER], TOOLS),
    "a tool without parameters": ([USER], tool(description="Looks.", parameters={"type": "object", "properties": {}})),
    "a tool that is only named": ([USER], tool()),
    "an unknown role": ([USER, {"role": "critic", "content": "Bad."}, MORE], {}),
}
SHARES = 5


def forms(messages: list[Message]) -> Iterator[list[Message]]:
    """The conversation in each form that templates read: contents as sent or as text, nothing as "" or null, arguments
    as sent, as an object or as text, calls with the function in them or bare, the role developer or system."""
    for as_text, empty, arguments, bare, developer in product(
        (True, False), ("", None), ("sent", "object", "text"), (False, True), ("developer", "system")
    ):
        yield [_formed(message, as_text, empty, arguments, bare, developer) for message in messages]


def _formed(message: Message, as_text: bool, empty: str | None, arguments: str, bare: bool, developer: str) -> Message:
    content = message["content"] or ""
    if as_text and not isinstance(content, str):
        content = "\n".join(part["text"] for part in content if part["text"])
    formed = {**message, "content": content, "role": developer if message["role"] == "developer" else message["role"]}
    if "reasoning_content" in message:
        formed["thinking"] = message["reasoning_content"]
    if "tool_calls" not in message:
        return formed
    calls = []
    for call in message["tool_calls"]:
        own = call["function"]["arguments"]
        if arguments == "object" and isinstance(own, str):
            own = json.loads(own)
        elif arguments == "text" and not isinstance(own, str):
            own = json.dumps(own, ensure_ascii=False)
        function = {**call["function"], "arguments": own}
        around = {key: value for key, value in call.items() if key != "function"}
        calls.append({**around, **(function if bare else {"function": function})})
    return {**formed, "content": content or empty, "tool_calls": calls}


def _timeless(text: str | None) -> str | None:
    """The text without the time of day, which some templates write."""
    return text and re.sub(r"\d\d:\d\d(:\d\d)?", "", text)


@pytest.mark.matrix
@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("name", sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
def test_a_conversation_is_written_as_transformers_does_or_refused(name: str, share: int) -> None:
    pytest.importorskip("transformers")
    source = Path(TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    template = ChatTemplate(source, tokens=NAMED)
    for case in [*CONVERSATIONS][share::SHARES]:
        messages, options = CONVERSATIONS[case]
        theirs = (rendered(source, form, **NAMED, **options) for form in forms(messages))
        try:
            ours = template.render(messages, **options)
        except RequestError as error:
            assert "leaves out" in error.message or set(theirs) == {None}, (case, error.message)
        else:
            assert _timeless(ours) in map(_timeless, theirs), case
    template.close()
