"""Prompts of every shared template, opened from a folder and from a GGUF: the ids of transformers, or a clear error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2.sandbox
import pytest
from doors import Doors, marks_of

from landrace.errors import LandraceError, RequestError
from landrace.text import Tokenizer, encode_chat, load_tokenizer, tokenizer_from_gguf

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a città now",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Ville"}},
            "required": ["city"],
        },
    },
}
USER = {"role": "user", "content": "Xin chào! 'quoted' \"twice\" 🦙"}
ANSWER = {"role": "assistant", "content": "Zdravo.\nKako ste?"}
SYSTEM = {"role": "system", "content": "Be brief."}
MORE = {"role": "user", "content": "And tomorrow?"}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "31 °C"}
OTHER_RESULT = {**RESULT, "tool_call_id": "call00002", "content": "19 °C"}
ARGUMENTS = {"city": "Huế", "days": 100001}
OTHER = {"city": "Niš"}


def calling(*arguments: Any, content: Any) -> dict[str, Any]:
    calls = [
        {"id": f"call0000{number}", "type": "function", "function": {"name": "get_weather", "arguments": one}}
        for number, one in enumerate(arguments, 1)
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def in_parts(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


WIRE = json.dumps(ARGUMENTS, ensure_ascii=False)
OTHER_WIRE = json.dumps(OTHER, ensure_ascii=False)
CALLED = calling(ARGUMENTS, content="")
EMPTY = {"tool_calls": None, "name": None, "refusal": None, "audio": None, "function_call": None}
# What a client sends, and the conversation that it means.
CASES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]] = {
    "one question": ([USER], [USER], {}),
    "turns": ([SYSTEM, USER, ANSWER, MORE], [SYSTEM, USER, ANSWER, MORE], {}),
    "answered": ([USER, ANSWER], [USER, ANSWER], {"add_generation_prompt": False}),
    "thinking on": ([USER], [USER], {"enable_thinking": True, "thinking": True}),
    "thinking off": ([SYSTEM, USER], [SYSTEM, USER], {"enable_thinking": False, "thinking": False}),
    "reasoning": (
        [USER, {**ANSWER, "reasoning": "A greeting."}, MORE],
        [USER, {**ANSWER, "reasoning_content": "A greeting."}, MORE],
        {},
    ),
    "system in parts": ([in_parts(SYSTEM), USER], [SYSTEM, USER], {}),
    "user in parts": ([SYSTEM, in_parts(USER)], [SYSTEM, USER], {}),
    "answer in parts": ([USER, in_parts(ANSWER), MORE], [USER, ANSWER, MORE], {}),
    "untyped part": ([{"role": "user", "content": [{"text": "Hi"}]}], [{"role": "user", "content": "Hi"}], {}),
    "late system": ([USER, ANSWER, SYSTEM, MORE], [USER, ANSWER, SYSTEM, MORE], {}),
    "null keys": ([USER, {**ANSWER, **EMPTY}, MORE], [USER, ANSWER, MORE], {}),
    "empty calls": ([USER, {**ANSWER, "tool_calls": []}, MORE], [USER, ANSWER, MORE], {}),
    "null answer": (
        [USER, {"role": "assistant", "content": None}, MORE],
        [USER, {**ANSWER, "content": ""}, MORE],
        {},
    ),
    "no parts": ([{"role": "system", "content": []}, USER], [{"role": "system", "content": ""}, USER], {}),
    "empty part": (
        [{"role": "system", "content": [{"type": "text", "text": ""}]}, USER],
        [{"role": "system", "content": ""}, USER],
        {},
    ),
    "tools": ([SYSTEM, USER], [SYSTEM, USER], {"tools": [TOOL]}),
    "arguments as an object": ([USER, calling(ARGUMENTS, content=None), RESULT], [USER, CALLED, RESULT], {}),
    "arguments as text": ([USER, calling(WIRE, content=None), RESULT], [USER, CALLED, RESULT], {"tools": [TOOL]}),
    "no arguments": ([USER, calling("", content=""), RESULT], [USER, calling({}, content=""), RESULT], {}),
    "result in parts": ([USER, calling(WIRE, content=""), in_parts(RESULT)], [USER, CALLED, RESULT], {}),
    "words beside a call": (
        [USER, calling(WIRE, content="I look."), RESULT],
        [USER, calling(ARGUMENTS, content="I look."), RESULT],
        {"tools": [TOOL]},
    ),
    "low effort": ([USER], [USER], {"reasoning_effort": "low"}),
    "most effort": ([SYSTEM, USER], [SYSTEM, USER], {"reasoning_effort": "max", "enable_thinking": True}),
    "two calls": (
        [USER, calling(WIRE, OTHER_WIRE, content=None), RESULT, OTHER_RESULT],
        [USER, calling(ARGUMENTS, OTHER, content=""), RESULT, OTHER_RESULT],
        {"tools": [TOOL]},
    ),
    "thoughts before a call": (
        [USER, {**calling(WIRE, content=None), "reasoning": "A city."}, RESULT],
        [USER, {**CALLED, "reasoning_content": "A city.", "thinking": "A city."}, RESULT],
        {"tools": [TOOL], "enable_thinking": True, "thinking": True},
    ),
    "turns with calls": (
        [SYSTEM, USER, calling(WIRE, content=None), RESULT, ANSWER, MORE, calling(OTHER_WIRE, content=""), RESULT],
        [SYSTEM, USER, CALLED, RESULT, ANSWER, MORE, calling(OTHER, content=""), RESULT],
        {"tools": [TOOL], "enable_thinking": False},
    ),
    "an empty result": (
        [USER, calling(WIRE, content=None), {**RESULT, "content": None}],
        [USER, CALLED, {**RESULT, "content": ""}],
        {"tools": [TOOL]},
    ),
    "a finished call": (
        [USER, calling(WIRE, content=None), RESULT, ANSWER, MORE],
        [USER, CALLED, RESULT, ANSWER, MORE],
        {},
    ),
}
# Templates that read calls in another form than most: arguments as text, null beside a call, the bare function.
CALL_FORMS = {
    "DeepSeek-R1-Distill-Qwen-14B": (False, None),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": (False, None),
    "DeepSeek-V3.1-rtp": (False, ""),
    "gpt-oss-ortx": (True, "bare"),
}
TEMPLATES = Path(__file__).resolve().parents[3] / "shared" / "data" / "chat_templates"


@pytest.fixture(scope="module")
def doors(shared: Path) -> Doors:
    return Doors(shared / "data" / "tokenizers" / "minimind")


def formed(name: str, message: dict[str, Any]) -> dict[str, Any]:
    """The message as the template of that name reads it."""
    if "tool_calls" not in message or name not in CALL_FORMS:
        return message
    as_object, empty = CALL_FORMS[name]
    calls = [{**call, "function": dict(call["function"])} for call in message["tool_calls"]]
    if not as_object:
        for call in calls:
            # Text that was sent is written as it was sent.
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    if empty == "bare":
        return {**message, "tool_calls": [call["function"] for call in calls]}
    return {**message, "content": message["content"] or empty, "tool_calls": calls}


def rendered(source: str, messages: list[dict[str, Any]], **arguments: Any) -> str | None:
    """What transformers writes; None where the template does not accept the conversation."""
    from transformers.utils import chat_template_utils

    compile_anew = chat_template_utils._cached_compile_jinja_template

    def render() -> str:
        texts, _ = chat_template_utils.render_jinja_template(
            [messages], chat_template=source, **{"add_generation_prompt": True, **arguments}
        )
        return str(texts[0])

    try:
        try:
            return render()
        except jinja2.sandbox.SecurityError:
            # Its sandbox lets no list be changed, not even a template's own.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(chat_template_utils, "ImmutableSandboxedEnvironment", jinja2.sandbox.SandboxedEnvironment)
                patch.setattr(chat_template_utils, "_compile_jinja_template", compile_anew)
                return render()
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None


def reference(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> list[int] | None:
    """The ids of transformers; None where the template does not accept the conversation."""
    text = rendered(tokenizer.chat_template, messages, **{**tokenizer.special_tokens_map, **options})
    return None if text is None else tokenizer(text, add_special_tokens=False)["input_ids"]


def texts_of(messages: list[dict[str, Any]], tools: Any) -> Iterator[str]:
    """Every text that a prompt must hold."""
    for message in messages:
        yield message["content"]
        for call in message.get("tool_calls", ()):
            yield call["function"]["name"]
            yield from (value for value in call["function"]["arguments"].values() if isinstance(value, str))
    yield from (tool["function"]["description"] for tool in tools or ())


def counted(texts: list[str], prompt: str) -> bool:
    """Whether the prompt holds each text as often as the conversation, itself or as JSON."""
    return all(
        max(prompt.count(text), prompt.count(json.dumps(text, ensure_ascii=False)[1:-1])) >= texts.count(text)
        for text in texts
        if text
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
def test_prompts_are_those_of_transformers(doors: Doors, tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    folder = doors.folder(tmp_path / "model", source, marks_of(source))
    peer = transformers.PreTrainedTokenizerFast.from_pretrained(str(folder))
    for ours in (load_tokenizer(folder), tokenizer_from_gguf(doors.metadata(source, marks_of(source)))):
        compared = [check(name, ours, peer, case) for case in CASES]
        assert sum(compared) >= 12


def check(name: str, ours: Tokenizer, peer: Any, case: str) -> bool:
    """One case through one door; whether there was a prompt to compare."""
    sent, meant, options = CASES[case]
    if "tool_use" in name:
        options = {"tools": [TOOL], **options}
    forms = [formed(name, message) for message in meant]
    # Before and after ours, for templates that write the time.
    expected = [reference(peer, forms, **options)]
    texts = list(texts_of(meant, options.get("tools")))
    if expected[0] is None or not counted(texts, peer.decode(expected[0])):
        with pytest.raises(LandraceError) as caught:
            encode_chat(ours, sent, **options)
        if expected[0] is not None:
            assert isinstance(caught.value, RequestError), (name, case)
            assert "leaves out" in caught.value.message, (name, case, caught.value.message)
        return False
    ids = encode_chat(ours, sent, **options)
    expected.append(reference(peer, forms, **options))
    assert ids in expected, (name, case, peer.decode(ids), peer.decode(expected[0]))
    return True
