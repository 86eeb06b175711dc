"""Chat templates: what they are given, what they may leave out, and hostile templates end in an error."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from landrace.errors import CheckpointError, RequestError
from landrace.text import ChatTemplate
from landrace.text.end_tokens import turn_end_id

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a città <b>now</b>",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Ville"}},
            "required": ["city"],
        },
    },
}
USER = {"role": "user", "content": "Xin chào! <b>你好</b> 'quoted' \"twice\" 🦙"}
ANSWER = {"role": "assistant", "content": "Zdravo.\nKako ste?"}


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("Qwen-Qwen3-0.6B", "<|im_end|>"),
        ("meta-llama-Llama-3.2-3B-Instruct", "<|eot_id|>"),
        ("openai-gpt-oss-120b", "<|return|>"),
        ("Kimi-K2-Instruct", "<|im_end|>"),
        ("Hunyuan-A13B-Instruct", "<|eos|>"),
        ("deepseek-ai-DeepSeek-V3.1", "<｜end▁of▁sentence｜>"),
        ("GLM-4.5", None),
        ("MiniMax-M2", "[e~["),
    ],
)
def test_the_turn_end_is_read_off_the_template(shared: Path, name: str, end: str | None) -> None:
    source = (shared / "data" / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    tokens = ["<|im_end|>", "<|im_start|>", "<|eot_id|>", "<|end|>", "<|return|>", "<|start|>", "<|eos|>", "<|user|>"]
    control = {token: index for index, token in enumerate([*tokens, "<｜end▁of▁sentence｜>", "[e~[", "]~b]"])}
    assert turn_end_id(ChatTemplate(source), control) == (None if end is None else control[end])


SIMPLE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_renders_turns_and_hashes_the_source() -> None:
    template = ChatTemplate(SIMPLE, tokens={"eos_token": "$"})
    assert (
        template.render([USER | {"content": "Hi"}, ANSWER]) == "<user>Hi$\n<assistant>Zdravo.\nKako ste?$\n<assistant>"
    )
    assert re.fullmatch("[0-9a-f]{64}", template.sha256)
    assert template.sha256 != ChatTemplate(SIMPLE + " ").sha256
    assert template.sha256 == ChatTemplate({"default": SIMPLE}).sha256


def test_the_tool_template_is_used_for_tools_only() -> None:
    template = ChatTemplate(
        {"default": "{{ messages[0].content }}", "tool_use": "{{ tools[0].function.name }}{{ messages[0].content }}"}
    )
    assert template.render([USER]) == USER["content"]
    assert template.render([USER], tools=[TOOL]) == "get_weather" + USER["content"]
    with pytest.raises(CheckpointError, match="default"):
        ChatTemplate({"rag": "x"}).render([USER])


def test_text_parts_are_joined_for_a_template_that_knows_only_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert ChatTemplate(SIMPLE).render([{"role": "user", "content": parts}]).startswith("<user>one\ntwo\n")
    reads_parts = "{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}"
    assert ChatTemplate(reads_parts).render([{"role": "user", "content": parts}]) == "[one][two]"


def test_json_dates_generation_blocks_and_loop_controls() -> None:
    source = (
        "{{ tools | tojson }}{{ strftime_now('%Y') }}{% generation %}{{ messages[0].content }}{% endgeneration %}"
        "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )
    text = ChatTemplate(source, now=lambda: datetime(2026, 1, 2)).render([USER], tools=[{"é": "<"}])
    assert text == '[{"é": "<"}]2026' + USER["content"] + "01"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        None,
        ["hello"],
        [{"content": "x"}],
        [{"role": 3, "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": {}}],
        [{"role": "user", "content": "x", "function_call": {"name": "f", "arguments": "{}"}}],
        [{"role": "assistant", "content": None, "refusal": "No."}],
        [{"role": "assistant", "reasoning_content": 3}],
        [{"role": "assistant", "tool_calls": {}, "content": 5}],
        [{"role": "assistant", "tool_calls": "f"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        [{"role": "user", "content": ["x"]}],
        [{"role": "user", "content": "x", "extra": object()}],
    ],
)
def test_bad_messages_name_the_field(messages: Any) -> None:
    with pytest.raises(RequestError) as caught:
        ChatTemplate(SIMPLE).render(messages)
    assert caught.value.field == "messages"


def test_variables_that_are_no_json_are_refused() -> None:
    with pytest.raises(RequestError, match="not plain JSON") as caught:
        ChatTemplate(SIMPLE).render([USER], style=object())
    assert caught.value.field == "chat_template_kwargs"


def test_deep_messages_and_bad_tools_are_refused() -> None:
    deep: Any = "x"
    for _ in range(1000):
        deep = [deep]
    with pytest.raises(RequestError, match="nested"):
        ChatTemplate(SIMPLE).render([{"role": "user", "content": "x", "extra": deep}])
    with pytest.raises(RequestError) as caught:
        ChatTemplate(SIMPLE).render([USER], tools=["x"])
    assert caught.value.field == "tools"


def test_a_template_may_refuse_messages() -> None:
    with pytest.raises(RequestError, match="only one turn") as caught:
        ChatTemplate("{{ raise_exception('only one turn') }}").render([USER])
    assert caught.value.field == "messages"
    with pytest.raises(RequestError):
        ChatTemplate("{{ messages[7].content.text }}").render([USER])


WRITES_CALLS = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls %}[{{ c.function.name }} "
    "{{ c.function.arguments | tojson }}]{% endfor %};{% endfor %}"
)


def calling(arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": arguments}}]}


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ('{"a": "b"}', '{"a": "b"}'),
        ({"a": "b"}, '{"a": "b"}'),
        ('{"n": 100001, "x": [1.5, null, true]}', '{"n": 100001, "x": [1.5, null, true]}'),
        ('{"\\u00e9": "\\u597d"}', '{"é": "好"}'),
        ("", "{}"),
        ("  ", "{}"),
        (None, "{}"),
        ({}, "{}"),
    ],
)
def test_arguments_come_as_text_or_as_an_object(arguments: Any, written: str) -> None:
    text = ChatTemplate(WRITES_CALLS).render([USER, calling(arguments)])
    assert text == f"user:{USER['content']};assistant:[look {written}];"


@pytest.mark.parametrize(
    "arguments",
    [
        "[1]",
        "3",
        '"x"',
        "null",
        "{",
        "{'a': 1}",
        '{"a": NaN}',
        [1],
        3,
        True,
        "[" * 100_000,
        '{"a": ' + "1" * 5000 + "}",
    ],
)
def test_arguments_that_are_no_object_are_one_clear_error(arguments: Any) -> None:
    with pytest.raises(RequestError, match="arguments of tool call 0 of message 1 are not a JSON object") as caught:
        ChatTemplate(WRITES_CALLS).render([USER, calling(arguments)])
    assert caught.value.field == "messages" and caught.value.hint


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (3, "tool call 0 of message 1 is not an object"),
        ({"function": {"arguments": "{}"}}, "tool call 0 of message 1 has no name"),
        ({"function": {"name": "", "arguments": "{}"}}, "tool call 0 of message 1 has no name"),
        ({"function": "f"}, "tool call 0 of message 1 is not the call of a function"),
        ({"type": "custom", "custom": {"name": "f", "input": "x"}}, "is not the call of a function"),
    ],
)
def test_malformed_calls_are_named(call: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        ChatTemplate(WRITES_CALLS).render([USER, {"role": "assistant", "tool_calls": [call]}])


def test_a_call_without_its_wrapper_is_the_same_call() -> None:
    bare = {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {"a": 1}}]}
    template = ChatTemplate(WRITES_CALLS)
    assert template.render([USER, bare]) == template.render([USER, calling({"a": 1})])


@pytest.mark.parametrize("content", [None, "", [], [{"text": ""}], [{"type": "text", "text": ""}]])
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_no_content_is_an_empty_text_for_every_role(role: str, content: Any) -> None:
    text = ChatTemplate(SIMPLE).render([USER, {"role": role, "content": content}, ANSWER], add_generation_prompt=False)
    assert text == f"<user>{USER['content']}\n<{role}>\n<assistant>{ANSWER['content']}\n"


@pytest.mark.parametrize("key", ["tool_calls", "name", "refusal", "audio", "function_call", "reasoning_content", "x"])
def test_keys_without_a_value_are_dropped(key: str) -> None:
    shows = "{% for m in messages %}{{ m | tojson }}{% endfor %}"
    assert key not in ChatTemplate(shows).render([USER | {key: None}])


def test_a_template_that_reads_parts_of_one_role_gets_text_for_the_others() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'user' and m.content is not string %}{% for p in m.content %}"
        "{{ p.text }}{% endfor %}{% else %}{{ m.content }}{% endif %};{% endfor %}"
    )
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": role, "content": parts} for role in ("system", "user", "assistant")]
    assert ChatTemplate(source).render(messages) == "one\ntwo;onetwo;one\ntwo;"


def test_a_template_that_reads_the_first_part_only_gets_all_as_one_text() -> None:
    source = "{{ messages[0].content if messages[0].content is string else messages[0].content[0].text }}"
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert ChatTemplate(source).render([{"role": "user", "content": parts}]) == "one\ntwo"


KNOWN = (
    "{% for m in messages %}{% if m.role in roles or m.role == 'user' %}{{ m.role }}:{{ m.content }};"
    "{% endif %}{% endfor %}"
)


def test_developer_is_written_as_system_unless_the_template_knows_it() -> None:
    messages = [{"role": "developer", "content": "Be brief."}, USER]
    assert ChatTemplate(SIMPLE).render(messages).startswith("<system>Be brief.")
    knows = KNOWN.replace("roles", "['developer']")
    assert ChatTemplate(knows).render(messages).startswith("developer:Be brief.")
    with pytest.raises(RequestError, match=r"leaves out message 0 \(role 'system'\)"):
        ChatTemplate(KNOWN.replace("roles", "[]")).render(messages)


@pytest.mark.parametrize("role", ["human", "gpt", "Assistant", "bot", "User"])
def test_a_role_that_a_template_does_not_write_is_refused_by_name(role: str) -> None:
    template = ChatTemplate(KNOWN.replace("roles", "['system', 'assistant']"))
    with pytest.raises(RequestError, match=rf"leaves out message 1 \(role '{role}'\)") as caught:
        template.render([USER, {"role": role, "content": "Hi"}])
    assert caught.value.field == "messages"
    assert template.render([USER, ANSWER])


def test_calls_and_tools_that_a_template_leaves_out_are_refused() -> None:
    with pytest.raises(RequestError, match="leaves out tool call 0 of message 1") as caught:
        ChatTemplate(SIMPLE).render([USER, calling({"a": "b"})])
    assert caught.value.field == "messages"
    with pytest.raises(RequestError, match="leaves out the tool 'get_weather'") as caught:
        ChatTemplate(SIMPLE).render([USER], tools=[TOOL])
    assert caught.value.field == "tools"
    first = WRITES_CALLS.replace("m.tool_calls", "(m.tool_calls or [])[:1]")
    twice = calling({})["tool_calls"] * 2
    with pytest.raises(RequestError, match="leaves out tool call 1 of message 1"):
        ChatTemplate(first).render([USER, {"role": "assistant", "tool_calls": twice}])
    names = WRITES_CALLS.replace("{{ c.function.arguments | tojson }}", "")
    with pytest.raises(RequestError, match="leaves out tool call 0 of message 1"):
        ChatTemplate(names).render([USER, calling({"a": "b"})])


def test_words_beside_a_call_may_go_when_its_turn_is_over(shared: Path) -> None:
    source = (shared / "data" / "chat_templates" / "openai-gpt-oss-120b.jinja").read_text(encoding="utf-8")
    template = ChatTemplate(source)
    called = calling({"a": "b"}) | {"content": "I look."}
    turn = [USER, called, {"role": "tool", "content": "31"}]
    assert "I look." in template.render(turn)
    assert "I look." not in template.render([*turn, ANSWER, USER])
    never = WRITES_CALLS.replace("{{ m.content }}", "{% if not m.tool_calls %}{{ m.content }}{% endif %}")
    with pytest.raises(RequestError, match="leaves out message 1"):
        ChatTemplate(never).render(turn)


def test_a_template_that_looks_at_the_text_is_still_checked() -> None:
    looks = "{% if messages[0].content not in ['yes', 'no'] %}{{ raise_exception('?') }}{% endif %}"
    assert ChatTemplate(looks + "{{ messages[0].content }}").render([{"role": "user", "content": "yes"}]) == "yes"
    with pytest.raises(RequestError, match="leaves out message 0"):
        ChatTemplate(looks).render([{"role": "user", "content": "yes"}])


def test_conversations_of_one_shape_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(SIMPLE)
    template.render([USER, ANSWER, USER])
    runs = []
    run = template._run
    monkeypatch.setattr(template, "_run", lambda *arguments: runs.append(1) or run(*arguments))
    for number in range(50):
        template.render([{"role": r, "content": f"{r} {number}"} for r in ("user", "assistant", "user")])
    assert len(runs) == 50
