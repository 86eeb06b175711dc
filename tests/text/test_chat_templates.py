"""Chat templates: the same text as transformers, and hostile templates end in an error."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pytest

from landrace.errors import CheckpointError, LandraceError, RequestError
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
CALL = {"id": "call_001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Huế"}}}
USER = {"role": "user", "content": "Xin chào! <b>你好</b> 'quoted' \"twice\" 🦙"}
ANSWER = {"role": "assistant", "content": "Zdravo.\nKako ste?"}
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "user": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [SYSTEM, USER, ANSWER, {"role": "user", "content": "And now?"}]},
    "answered": {"messages": [USER, ANSWER], "add_generation_prompt": False},
    "thinking on": {"messages": [USER], "enable_thinking": True},
    "thinking off": {"messages": [SYSTEM, USER], "enable_thinking": False},
    "reasoning": {"messages": [USER, {**ANSWER, "reasoning_content": "A greeting."}, USER]},
    "tools": {"messages": [SYSTEM, USER], "tools": [TOOL]},
    "tool call": {
        "messages": [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "get_weather", "tool_call_id": "call_001", "content": "31 °C"},
        ],
        "tools": [TOOL],
    },
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "In parts"}]}]},
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def reference(source: str, case: dict[str, Any]) -> str:
    """The text transformers writes."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    arguments = {"add_generation_prompt": True, **TOKENS, **case}
    rendered = utils.render_jinja_template([arguments.pop("messages")], chat_template=source, **arguments)
    return rendered[0][0]


def test_every_shared_template_writes_what_transformers_writes(shared: Path) -> None:
    # Where a template knows only text, transformers gives it the list of parts as it is and we join the parts.
    files = sorted((shared / "data" / "chat_templates").glob("*.jinja"))
    assert len(files) > 40
    compared = refused = 0
    wrong = []
    for file in files:
        source = file.read_text(encoding="utf-8")
        ours = ChatTemplate(source, **TOKENS)
        for name, case in CONVERSATIONS.items():
            arguments = dict(case)
            if name == "parts" and not ours._takes_parts:
                continue
            try:
                expected = reference(source, case)
            except (jinja2.TemplateError, TypeError, ValueError, KeyError):
                with pytest.raises(LandraceError):
                    ours.render(arguments.pop("messages"), **arguments)
                refused += 1
                continue
            compared += 1
            if ours.render(arguments.pop("messages"), **arguments) != expected:
                wrong.append((file.name, name))
    assert wrong == []
    assert compared > 350
    assert refused < compared / 10


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
    template = ChatTemplate(SIMPLE, eos_token="$")
    assert (
        template.render([USER | {"content": "Hi"}, ANSWER]) == "<user>Hi$\n<assistant>Zdravo.\nKako ste?$\n<assistant>"
    )
    assert re.fullmatch("[0-9a-f]{64}", template.sha256)
    assert template.sha256 != ChatTemplate(SIMPLE + " ").sha256
    assert template.sha256 == ChatTemplate({"default": SIMPLE}).sha256


def test_the_tool_template_is_used_for_tools_only() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "{{ tools[0].function.name }}"})
    assert template.render([USER]) == "plain"
    assert template.render([USER], tools=[TOOL]) == "get_weather"
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
        [{"role": "user", "content": None}],
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
