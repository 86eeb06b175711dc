"""Templates of our own, for checkpoints that carry none: what the makers' formats say, through both doors."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from doors import NAMED, Doors

from landrace.errors import RequestError
from landrace.text import ChatTemplate, Tokenizer, encode_chat, load_tokenizer, tokenizer_from_gguf

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather now.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name."},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"type": "integer"},
                "parts": {"type": "array", "items": {"type": "string"}},
                "exact": {"type": "boolean"},
            },
            "required": ["city"],
        },
    },
}
BARE = {"type": "function", "function": {"name": "now", "description": "What time it is.", "parameters": {}}}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Will it rain in Huế?"}
ANSWER = {"role": "assistant", "content": "No."}
THOUGHT = {**ANSWER, "reasoning_content": "It is dry."}


def calling(**more: Any) -> dict[str, Any]:
    arguments = {"city": "Huế", "days": 3, "parts": ["a"], "exact": True}
    call = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call], **more}


RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": 'rain, "24" °C'}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "question": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, ANSWER, USER],
    "thoughts": [USER, THOUGHT, USER],
    "call": [USER, calling(), RESULT],
    "thoughtful call": [USER, calling(reasoning_content="A city."), RESULT],
    "told call": [USER, calling(content="I look."), RESULT],
    "finished call": [SYSTEM, USER, calling(reasoning_content="A city."), RESULT, THOUGHT, USER],
    "two rounds": [USER, calling(), RESULT, ANSWER, USER, calling(reasoning_content="Again."), RESULT],
}
DEEPSEEK = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜end▁of▁sentence｜>"]
VERSIONS = {
    "harmony": ("gpt_oss", "gpt-oss", ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"]),
    "v3.2": ("deepseek_v32", "deepseek32", DEEPSEEK),
    "v4": ("deepseek_v4", "deepseek4", DEEPSEEK),
    "kimi k3": ("kimi_k3", "kimi-k3", ["<|open|>", "<|sep|>", "<|close|>", "<|end_of_msg|>"]),
    "ernie": ("ernie4_5", "ernie4_5-moe", ["<|begin_of_sentence|>", "<|end_of_sentence|>"]),
}
"""Type, architecture and marks."""
PUBLISHED = {
    "harmony": "openai-gpt-oss-120b",
    "v3.2": "deepseek-ai-DeepSeek-V3.2",
    "v4": "deepseek-ai-DeepSeek-V4",
}


@pytest.fixture(scope="module")
def makers(shared: Path) -> Doors:
    return Doors(shared / "data" / "tokenizers" / "minimind")


def opened(makers: Doors, folder: Path, version: str) -> list[Tokenizer]:
    """By a folder and by a GGUF file, neither with a template."""
    model_type, architecture, marks = VERSIONS[version]
    made = makers.folder(folder / "model", "", marks)
    (made / "chat_template.jinja").unlink()
    (made / "config.json").write_text(json.dumps({"model_type": model_type}))
    metadata = {**makers.metadata("", marks), "general.architecture": architecture}
    del metadata["tokenizer.chat_template"]
    return [load_tokenizer(made), tokenizer_from_gguf(metadata)]


def template_of(makers: Doors, folder: Path, version: str) -> ChatTemplate:
    template = opened(makers, folder, version)[0].chat_template
    assert template is not None and template.built_in
    return template


def in_turns(text: str) -> str:
    """What stands behind the declared tools, which each template tells in words of its own."""
    return "".join(text.partition("<｜User｜>")[1:])


@pytest.mark.parametrize("version", PUBLISHED)
@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("tools", [None, [TOOL, BARE]])
def test_conversations_are_those_of_published_renderings(
    makers: Doors, shared: Path, tmp_path: Path, version: str, thinking: bool, tools: Any
) -> None:
    source = (shared / "data" / "chat_templates" / f"{PUBLISHED[version]}.jinja").read_text(encoding="utf-8")
    theirs = ChatTemplate(source, tokens=NAMED)
    options = {"tools": tools, "thinking": thinking}
    for ours in opened(makers, tmp_path, version):
        assert ours.chat_template is not None
        for name, messages in CONVERSATIONS.items():
            written, expected = (one.render(messages, **options) for one in (ours.chat_template, theirs))
            if version == "v3.2" and not thinking and expected.endswith("<think></think>"):
                # The maker's code ends a prompt without thoughts as it begins such an answer of a past turn.
                expected = expected.removesuffix("<think></think>") + "</think>"
            if tools and version != "harmony":
                assert all(tool["function"]["name"] in written for tool in tools)
                written, expected = in_turns(written), in_turns(expected)
            assert written == expected, name


def test_harmony_writes_more_than_the_published_template(makers: Doors, tmp_path: Path) -> None:
    template = template_of(makers, tmp_path, "harmony")
    assert "Reasoning: high\n" in template.render([USER], reasoning_effort="high")
    told = template.render([USER, calling(reasoning_content="A city.", content="I look."), RESULT])
    assert (
        "<|channel|>analysis<|message|>A city.<|end|><|start|>assistant<|channel|>commentary<|message|>I look." in told
    )
    later = template.render([USER, ANSWER, SYSTEM, USER])
    assert later.count("<|start|>developer<|message|># Instructions\n\nBe brief.\n\n<|end|>") == 1
    final = template.render([USER, {**ANSWER, "reasoning": "It is dry."}], add_generation_prompt=False)
    assert final.endswith(
        "analysis<|message|>It is dry.<|end|><|start|>assistant<|channel|>final<|message|>No.<|return|>"
    )


def test_results_in_harmony_carry_the_name_of_their_call(makers: Doors, tmp_path: Path) -> None:
    template = template_of(makers, tmp_path, "harmony")
    (first,) = calling()["tool_calls"]
    second = {**first, "id": "call00002", "function": {"name": "now", "arguments": {}}}
    results = [{"role": "tool", "tool_call_id": one, "content": one} for one in ("call00002", "call00001")]
    both = template.render([USER, calling(tool_calls=[first, second]), *results])
    assert both.count("<|call|>") == 2
    assert '<|start|>functions.now to=assistant<|channel|>commentary<|message|>"call00002"<|end|>' in both
    assert '<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>"call00001"<|end|>' in both
    with pytest.raises(RequestError, match="follows no call"):
        template.render([USER, {"role": "tool", "content": "31"}])


def test_harmony_declares_types(makers: Doors, tmp_path: Path) -> None:
    fields = {
        "a": {"type": ["integer", "null"]},
        "b": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "number", "default": 1}}}},
        "d": {"anyOf": [{"type": "string"}, {"type": "integer"}], "nullable": True},
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": fields}}}
    declared = template_of(makers, tmp_path, "harmony").render([USER], tools=[tool])
    assert "a?: number | null,\nb?: {\nc?: number, // default: 1\n}[],\nd?: string | number | null,\n" in declared


def test_v4_takes_effort(makers: Doors, tmp_path: Path) -> None:
    template = template_of(makers, tmp_path, "v4")
    written = [template.render([USER], thinking=True, **({"reasoning_effort": one} if one else {})) for one in EFFORTS]
    assert len(set(written)) == 3
    assert [text.count("Reasoning Effort") for text in written] == [0, 1, 1]


EFFORTS = (None, "high", "max")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_role_and_what_a_format_lacks_are_named(makers: Doors, tmp_path: Path, version: str) -> None:
    for ours in opened(makers, tmp_path, version):
        with pytest.raises(RequestError, match="has no role critic"):
            encode_chat(ours, [USER, {"role": "critic", "content": "Hm."}])
        if version == "ernie":
            with pytest.raises(RequestError, match="leaves out the tool 'get_weather'"):
                encode_chat(ours, [USER], tools=[TOOL])


def test_ernie(makers: Doors, tmp_path: Path) -> None:
    for ours in opened(makers, tmp_path, "ernie"):
        assert ours.chat_template is not None
        assert ours.chat_template.render([SYSTEM, USER, ANSWER, USER]) == (
            "<|begin_of_sentence|>Be brief.\nUser: Will it rain in Huế?\nAssistant: No.<|end_of_sentence|>"
            "User: Will it rain in Huế?\nAssistant: "
        )
        assert ours.token_id("<|end_of_sentence|>") in ours.eos_ids


def k3(*parts: str) -> str:
    """Kimi K3's marks, written shorter: {a} opens, {/a} closes, and {.} ends a message."""
    text = "".join(parts).replace("{.}", "<|end_of_msg|>")
    return re.sub(r"\{([^{}]*)\}", r"<|open|>\1<|sep|>", re.sub(r"\{/(\w+)\}", r"<|close|>\1<|sep|>", text))


def test_kimi_k3(makers: Doors, tmp_path: Path) -> None:
    calls = (
        '{call tool="get_weather" index="1"}{argument key="city" type="string"}Huế{/argument}'
        '{argument key="days" type="number"}3{/argument}{argument key="parts" type="array"}["a"]{/argument}'
        '{argument key="exact" type="boolean"}true{/argument}{/call}'
    )
    for ours in opened(makers, tmp_path, "kimi k3"):
        template = ours.chat_template
        assert template is not None
        text = template.render([SYSTEM, USER, calling(reasoning_content="A city."), RESULT, ANSWER, USER])
        effort, _, turns = text.partition("<|end_of_msg|>")
        assert effort.startswith(k3('{message role="system" type="thinking-effort"}'))
        assert effort.endswith(k3("`thinking_effort=max`.{/message}"))
        assert turns == k3(
            '{message role="system"}Be brief.{/message}{.}{message role="user"}Will it rain in Huế?{/message}{.}',
            '{message role="assistant"}{think}A city.{/think}{response}{/response}{tools}',
            calls,
            '{/tools}{/message}{.}{message role="tool" tool="get_weather" index="1"}rain, "24" °C{/message}{.}',
            '{message role="assistant"}{think}{/think}{response}No.{/response}{/message}{.}',
            '{message role="user"}Will it rain in Huế?{/message}{.}{message role="assistant"}{think}',
        )
        assert ours.token_id("<|end_of_msg|>") in ours.eos_ids
        assert ours.token_id("<|close|>") not in ours.eos_ids
        assert ours.answer_grammar.name == "Kimi-K3 open and close"
        off = template.render([USER, THOUGHT, USER], thinking=False)
        assert off == k3(
            '{message role="user"}Will it rain in Huế?{/message}{.}{message role="assistant"}{response}No.{/response}',
            '{/message}{.}{message role="user"}Will it rain in Huế?{/message}{.}{message role="assistant"}{response}',
        )
        declared = template.render([USER], tools=[BARE], thinking_effort="low")
        tool = '{"function":{"description":"What time it is.","name":"now","parameters":{}},"type":"function"}'
        assert f"\n```json\n[{tool}]\n```<|close|>" in declared
        assert "thinking_effort=low" in declared
        with pytest.raises(RequestError, match="not extreme"):
            template.render([USER], thinking_effort="extreme")


def test_results_of_kimi_k3_stand_in_the_order_of_their_calls(makers: Doors, tmp_path: Path) -> None:
    template = template_of(makers, tmp_path, "kimi k3")
    (first,) = calling()["tool_calls"]
    second = {**first, "id": "call00002", "function": {"name": 'now "&"', "arguments": {}}}
    results = [{"role": "tool", "tool_call_id": one, "content": one} for one in ("call00002", "call00001")]
    both = template.render([USER, calling(tool_calls=[first, second]), *results])
    in_order = k3(
        '{message role="tool" tool="get_weather" index="1"}call00001{/message}{.}',
        '{message role="tool" tool="now &quot;&amp;&quot;" index="2"}call00002{/message}{.}',
    )
    assert in_order in both
    unnamed = [{"role": "tool", "content": one} for one in ("a", "b")]
    told = template.render([USER, calling(tool_calls=[first, second]), *unnamed])
    assert in_order.replace("call00001", "a").replace("call00002", "b") in told
    with pytest.raises(RequestError, match="follows no call"):
        template.render([USER, {"role": "tool", "content": "31"}])


def test_baichuan(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "baichuan2"
    shutil.copytree(shared / "data" / "tokenizers" / "baichuan2", folder, copy_function=shutil.copyfile)
    (folder / "config.json").write_text(json.dumps({"model_type": "baichuan"}))
    with pytest.raises(RequestError, match="no chat template, as a base model has none"):
        encode_chat(load_tokenizer(folder), [USER])
    (folder / "generation_config.json").write_text(json.dumps({"user_token_id": 195, "assistant_token_id": 196}))
    ours = load_tokenizer(folder)
    said = [ours.encode(text, add_bos=False) for text in ("Be brief.", USER["content"], "No.")]
    assert encode_chat(ours, [SYSTEM, USER]) == [*said[0], 195, *said[1], 196]
    assert encode_chat(ours, [USER, ANSWER, USER]) == [195, *said[1], 196, *said[2], 195, *said[1], 196]
    forged = encode_chat(ours, [{"role": "user", "content": "a<reserved_107>b"}])
    assert forged.count(196) == 1 and "<reserved_107>" in ours.decode(forged[:-1])


def test_a_vocabulary_without_the_marks_gets_no_template(makers: Doors, tmp_path: Path) -> None:
    folder = makers.folder(tmp_path / "model", "", ["<|start|>"])
    (folder / "chat_template.jinja").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_oss"}))
    assert load_tokenizer(folder).chat_template is None


def test_a_template_of_the_checkpoint_goes_first(makers: Doors, tmp_path: Path) -> None:
    model_type, _, marks = VERSIONS["harmony"]
    folder = makers.folder(tmp_path / "model", "{{ messages[0].content }}", marks)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    template = load_tokenizer(folder).chat_template
    assert template is not None and template.built_in is None and template.render([USER]) == USER["content"]
