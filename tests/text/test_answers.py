"""Answers taken apart: every grammar, however an answer is cut, and what comes of a broken one."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_answers import TOOLS

from landrace.text.answers import AnswerParser, Content, Parts, Reasoning, ToolCall
from landrace.text.answers.grammar import REASONING, Grammar, Thought
from landrace.text.answers.grammars import GRAMMARS, PLAIN, THOUGHTS
from landrace.text.answers.nested import SIGN, nested

THINK = Thought("<think>", "</think>", "</think>")
BY_NAME = {one.name: one if one.thought else one.thinking(THINK) for one in (*GRAMMARS, PLAIN)}
WEATHER = {"city": "Zürich", "days": 3, "sure": True, "hours": [1, 2], "options": {"a": "<b>"}}
TELL = {"text": 'a "quoted" {brace}\n</tool'}
BOTH = [("get_weather", WEATHER), ("tell", TELL)]
TEXTS = {"get_weather": ["Zürich", "3", "true", "[1, 2]", '{"a": "<b>"}'], "tell": [TELL["text"]]}


def _json(name: str, arguments: dict[str, Any]) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def _each(calls: list[tuple[str, dict[str, Any]]], form: str, argument: str, between: str = "") -> str:
    """Calls of bare text: `form` of a name and its arguments, `argument` of a key and a value."""
    return between.join(
        form.replace("NAME", name).replace(
            "ARGS",
            "".join(
                argument.replace("KEY", key).replace("VALUE", text)
                for key, text in zip(arguments, TEXTS[name], strict=True)
            ),
        )
        for name, arguments in calls
    )


def _invoke(prefix: str, outer: str, argument: str = '<Pparameter name="KEY">VALUE</Pparameter>\n') -> str:
    calls = _each(BOTH, '<Pinvoke name="NAME">\nARGS</Pinvoke>\n', argument)
    return f"<P{outer}>\n{calls}</P{outer}>".replace("<P", f"<{prefix}").replace("</P", f"</{prefix}")


def _tags(value: Any) -> str:
    """As MiniMax-M3 writes a value."""
    if isinstance(value, dict):
        return "".join(f"{SIGN}<{key}>{_tags(one)}{SIGN}</{key}>" for key, one in value.items())
    if isinstance(value, list):
        return "".join(f"{SIGN}<item>{_tags(one)}{SIGN}</item>" for one in value)
    return value if isinstance(value, str) else json.dumps(value)


def _m3(calls: list[tuple[str, dict[str, Any]]]) -> str:
    each = "".join(f'{SIGN}<invoke name="{name}">{_tags(arguments)}{SIGN}</invoke>\n' for name, arguments in calls)
    return f"{SIGN}<tool_call>\n{each}{SIGN}</tool_call>"


def _k3(name: str, arguments: dict[str, Any], index: int) -> str:
    kinds = {"city": "string", "days": "integer", "sure": "boolean", "hours": "array", "options": "object"}
    values = "".join(
        f'<|open|>argument key="{key}" type="{kinds.get(key, "string")}"<|sep|>{text}<|close|>argument<|sep|>'
        for key, text in zip(arguments, TEXTS[name], strict=True)
    )
    return f'<|open|>call tool="{name}" index="{index}"<|sep|>{values}<|close|>call<|sep|>'


FUNCTIONS = _each(BOTH, "<function=NAME>\nARGS</function>\n", "<parameter=KEY>\nVALUE\n</parameter>\n")
SEED = _each(BOTH, "<function=NAME>\nARGS</function>\n", "<parameter=KEY>VALUE</parameter>\n")
KEYS = "<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n"
CALLS: dict[str, tuple[str, list[tuple[str, dict[str, Any]]]]] = {
    "JSON in <tool_call>": ("\n".join(f"<tool_call>\n{_json(*call)}\n</tool_call>" for call in BOTH), BOTH),
    "JSON in <tool_calls>": (f"<tool_calls>[{', '.join(_json(*call) for call in BOTH)}]</tool_calls>", BOTH),
    "<function=> in <tool_call>": (f"<tool_call>\n{FUNCTIONS}</tool_call>", BOTH),
    "<function=> in <seed:tool_call>": (f"<seed:tool_call>\n{SEED}</seed:tool_call>", BOTH),
    "<invoke> in <minimax:tool_call>": (
        _invoke("", "calls").replace("<calls>", "<minimax:tool_call>").replace("</calls>", "</minimax:tool_call>"),
        BOTH,
    ),
    "<invoke> in <｜DSML｜function_calls>": (_invoke("｜DSML｜", "function_calls"), BOTH),
    "<invoke> in <｜DSML｜tool_calls>": (_invoke("｜DSML｜", "tool_calls"), BOTH),
    "<function name>, <param>": (
        _each(BOTH, '<function name="NAME">ARGS</function>', '<param name="KEY">VALUE</param>', "\n"),
        BOTH,
    ),
    "<arg_key>": (_each(BOTH, "<tool_call>NAME\nARGS</tool_call>", KEYS), BOTH),
    "<arg_key> in <tool_calls>": (
        f"<tool_calls>{_each(BOTH, '<tool_call>NAME<tool_sep>ARGS</tool_call>', KEYS)}</tool_calls>",
        BOTH,
    ),
    "DeepSeek sections": (
        "<｜tool▁calls▁begin｜>"
        + "".join(
            f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{json.dumps(arguments)}<｜tool▁call▁end｜>"
            for name, arguments in BOTH
        )
        + "<｜tool▁calls▁end｜>",
        BOTH,
    ),
    "DeepSeek sections, fenced": (
        "<｜tool▁calls▁begin｜>"
        + "\n".join(
            f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{json.dumps(arguments)}\n```<｜tool▁call▁end｜>"
            for name, arguments in BOTH
        )
        + "<｜tool▁calls▁end｜>",
        BOTH,
    ),
    "Kimi-K2 sections": (
        "<|tool_calls_section_begin|>"
        + "".join(
            f"<|tool_call_begin|>functions.{name}:{n}<|tool_call_argument_begin|>{json.dumps(arguments)}<|tool_call_end|>"
            for n, (name, arguments) in enumerate(BOTH)
        )
        + "<|tool_calls_section_end|>",
        BOTH,
    ),
    "Step-3 sections": (
        "<｜tool_calls_begin｜>"
        + _each(
            BOTH,
            "<｜tool_call_begin｜>function<｜tool_sep｜>"
            '<steptml:invoke name="NAME">ARGS</steptml:invoke><｜tool_call_end｜>',
            '<steptml:parameter name="KEY">VALUE</steptml:parameter>',
        )
        + "<｜tool_calls_end｜>",
        BOTH,
    ),
    "harmony channels": (
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        f"{json.dumps(WEATHER)}<|call|><|start|>assistant to=functions.tell<|channel|>commentary json<|message|>"
        f"{json.dumps(TELL)}",
        BOTH,
    ),
    "nested tags in <tool_call>": (_m3(BOTH), BOTH),
    "Kimi-K3 open and close": (
        f"<|open|>tools<|sep|>{_k3(*BOTH[0], 1)}{_k3(*BOTH[1], 2)}<|close|>tools<|sep|><|close|>message<|sep|>",
        BOTH,
    ),
}
WHOLE: dict[str, tuple[str, list[tuple[str, dict[str, Any]]]]] = {
    "bare JSON": (f'{{"name": "tell", "parameters": {json.dumps(TELL)}}}', BOTH[1:]),
    "name and JSON": (f"get_weather\n{json.dumps(WEATHER)}", BOTH[:1]),
    "Python calls": (f"[get_weather(city='Zürich', days=3), tell(text={TELL['text']!r})]", []),
}
"""Calls that are the answer from its first character on."""
THOUGHTS_OF = {
    "harmony channels": (
        "<|channel|>analysis<|message|>Hm.\nSo.<|end|>",
        "<|start|>assistant<|channel|>final<|message|>",
    ),
    "Kimi-K3 open and close": ("<|open|>think<|sep|>Hm.\nSo.<|close|>think<|sep|>", "<|open|>response<|sep|>"),
}


def parse(grammar: Grammar, *pieces: str, begin: str | None = None, tools: Any = TOOLS) -> Parts:
    parser = AnswerParser(grammar, begin or grammar.start, tools)
    events = [event for piece in pieces for event in parser.push(piece)] + parser.flush()
    parts = Parts.of(events)
    return Parts(parts.reasoning, parts.content, tuple(ToolCall("", one.name, one.arguments) for one in parts.calls))


def called(parts: Parts) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, call.arguments) for call in parts.calls]


def test_every_grammar_is_here() -> None:
    assert [*CALLS, *WHOLE] == sorted([one.name for one in GRAMMARS], key=[*CALLS, *WHOLE].index)


@pytest.mark.parametrize("name", CALLS)
def test_thought_text_and_calls_are_told_apart(name: str) -> None:
    text, calls = CALLS[name]
    thought, say = THOUGHTS_OF.get(name, ("<think>\nHm.\nSo.\n</think>\n\n", ""))
    end = {"Kimi-K3 open and close": "<|close|>response<|sep|>", "harmony channels": "<|end|>"}.get(name, "\n")
    parts = parse(BY_NAME[name], f"{thought}{say}Let me < look.{end}{text}")
    assert parts.reasoning == "Hm.\nSo."
    assert parts.content == "Let me < look."
    assert called(parts) == calls


@pytest.mark.parametrize("name", WHOLE)
def test_a_call_without_marks_is_the_whole_answer(name: str) -> None:
    text, calls = WHOLE[name]
    calls = calls or [("get_weather", {"city": "Zürich", "days": 3}), BOTH[1]]
    grammar = BY_NAME[name]
    assert called(parse(grammar, text)) == calls
    assert called(parse(grammar, f"<think>Hm.</think>\n\n{text}")) == calls
    assert parse(grammar, f"So: {text}") == Parts("", f"So: {text}", ())
    assert parse(grammar, f"{text} That is it.") == Parts("", f"{text} That is it.", ())


@pytest.mark.parametrize("name", [*CALLS, *WHOLE])
def test_one_character_after_another_gives_the_same(name: str) -> None:
    text = "<think>Hm.</think>" + (CALLS | WHOLE)[name][0] + "\n\nSo much for that.  "
    assert parse(BY_NAME[name], *text) == parse(BY_NAME[name], text)


MARKS = sorted({mark for one in BY_NAME.values() for mark in one.marks})
PIECES = st.lists(
    st.one_of(
        st.sampled_from(MARKS),
        st.sampled_from(MARKS).map(lambda mark: mark[: max(1, len(mark) // 2)]),
        st.sampled_from(["get_weather", "tell", "city", " ", "\n", '{"city": "a"}', '{"name": "tell"}', "x", "{", '"']),
        st.text(max_size=8),
    ),
    max_size=24,
)


@st.composite
def _cut(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("name", BY_NAME)
@given(data=st.data())
def test_how_an_answer_is_cut_changes_nothing(name: str, data: st.DataObject) -> None:
    grammar = BY_NAME[name]
    own = (
        st.lists(st.sampled_from(sorted(grammar.marks)) | PIECES.map("".join), max_size=12) if grammar.marks else PIECES
    )
    text = "".join(data.draw(own))
    begin = data.draw(st.sampled_from([grammar.start, REASONING]))
    whole = parse(grammar, text, begin=begin)
    assert parse(grammar, *data.draw(_cut(text)), begin=begin) == whole
    assert parse(grammar, *text, begin=begin) == whole


NOTHING_UNSAID = [one for one in CALLS if one not in (*THOUGHTS_OF, "DeepSeek sections, fenced", "Step-3 sections")]
"""Grammars in which every text is a name, an argument or said."""


@pytest.mark.parametrize("name", NOTHING_UNSAID)
@given(data=st.data())
def test_no_word_is_lost(name: str, data: st.DataObject) -> None:
    grammar = BY_NAME[name]
    chosen = data.draw(
        st.lists(st.sampled_from([*sorted(grammar.marks), "W", "W", " ", "\n", '{"a": "W"}']), max_size=14)
    )
    words = iter(range(len(chosen)))
    text = "".join(re.sub("W", lambda _: f"word{next(words)}w", piece) for piece in chosen)
    parts = parse(grammar, text)
    kept = parts.reasoning + parts.content + "".join(call.name + json.dumps(call.arguments) for call in parts.calls)
    assert all(word in kept for word in re.findall(r"word\d+w", text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("JSON in <tool_call>", '<tool_call>\n{"name": "tell", "arguments": {]}\n</tool_call>'),
        ("JSON in <tool_call>", '<tool_call>{"name": "tell", "argu'),
        ("JSON in <tool_call>", "<tool_call></tool_call>"),
        ("JSON in <tool_call>", '<tool_call>{"name": 3}</tool_call>'),
        ("JSON in <tool_call>", '<tool_call>{"name": "tell", "arguments": {"text": NaN}}</tool_call>'),
        ("<function=> in <tool_call>", "<tool_call>\n<function=tell>\nNo.\n</function>\n</tool_call>"),
        ("<function=> in <tool_call>", "<tool_call>\n<function=tell>\n<parameter=text>\nNever ends"),
        ("<arg_key>", "<tool_call>tell<arg_key>text</arg_key>None"),
        ("<arg_key>", "<tool_call>two words</tool_call>"),
        ("<invoke> in <minimax:tool_call>", "<minimax:tool_call>\n<invoke>tell</invoke>"),
        ("bare JSON", '{"name": "Ada", "type": "person"}'),
        ("bare JSON", '{"name": "tell", "parameters": {"text": "never ends'),
        ("Python calls", "[tell(text=print())]"),
        ("name and JSON", "tell\nme more"),
    ],
)
def test_a_broken_call_comes_back_as_it_was(name: str, text: str) -> None:
    for after in ("", " And so on."):
        assert parse(BY_NAME[name], text + after) == Parts("", text + after, ())


def test_a_broken_call_of_control_tokens_comes_back_without_them() -> None:
    begin = "<|tool_calls_section_begin|><|tool_call_begin|>functions.tell:0"
    broken = f'{begin}<|tool_call_argument_begin|>{{"no"}}<|tool_call_end|>'
    assert parse(BY_NAME["Kimi-K2 sections"], broken) == Parts("", 'functions.tell:0{"no"}', ())
    harmony = BY_NAME["harmony channels"]
    assert parse(harmony, '<|channel|>commentary to=functions.tell<|message|>{no: "x"}') == Parts("", '{no: "x"}', ())
    assert parse(harmony, "Plain words") == Parts("", "Plain words", ())
    assert parse(harmony, "<|channel|>fin") == Parts("", "", ())


def test_a_broken_call_of_nested_tags_comes_back_without_the_sign_before_them() -> None:
    broken = f'{SIGN}<tool_call>\n{SIGN}<invoke name="tell">{SIGN}<text>Hm.{SIGN}</test>{SIGN}</invoke>'
    grammar = BY_NAME["nested tags in <tool_call>"]
    for text in (broken, f"{SIGN}<tool_call>\n{SIGN}<invoke name"):
        assert parse(grammar, text) == Parts("", text.replace(SIGN, ""), ())
    assert parse(grammar, f"{broken}\n{SIGN}</tool_call>") == parse(grammar, broken)


NESTED = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "stops": {"type": "array", "items": {"$ref": "#/$defs/stop"}},
        "more": {"anyOf": [{"type": "object", "additionalProperties": {"type": "integer"}}, {"type": "null"}]},
        "names": {"type": "array", "items": {"type": "string"}},
        "free": {"type": "object"},
    },
    "$defs": {"stop": {"type": "object", "properties": {"at": {"type": "number"}, "name": {"type": "string"}}}},
}


@pytest.mark.parametrize(
    "arguments",
    [
        {"id": "7", "stops": [{"at": 1.5, "name": "3"}, {"at": 2, "name": "Huế\n<b>"}], "more": {"a": 1}},
        {"stops": [], "more": None, "names": ["1", "true"], "free": {}},
        {"names": [], "free": {"item": 1, "b": [True, None, {"c": [[1, 2], [3]]}], "d": "x y"}},
        {"unknown": [{"b": ["a", 1]}, 2]},
        {"id": ""},
        {},
    ],
)
def test_nested_tags_are_typed_by_the_schema(arguments: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "plan", "parameters": NESTED}}]
    for text in (_m3([("plan", arguments)]), _m3([("plan", arguments)]).replace("><", ">\n<")):
        found = called(parse(BY_NAME["nested tags in <tool_call>"], text, tools=tools))
        assert found == [("plan", arguments)]
        assert json.dumps(found[0][1]) == json.dumps(arguments)  # true is no 1


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ("N<a>1N</a>N<a>2N</a>", {"a": [1, 2]}),
        ("N<names>oneN</names>N<names>2N</names>", {"names": ["one", "2"]}),
        ("Nticket.txtN</id>N<free>N<b>1N</b>N</free>", {"id": "ticket.txt", "free": {"b": 1}}),
        ('N<free>{"b": [1]}N</free>', {"free": {"b": [1]}}),
        ("N<a>1N</b>", None),
        ("N<a>1", None),
        ("N</a>", None),
        ("text N<a>1N</a>", None),
        ("N<a>N<b>1N</b> and N<b>2N</b>N</a>", None),
        ("N<a>and N<b>1N</b>N</a>", None),
        ("N<>1N</>", None),
        ("N<a", None),
        ("N<a>" * 70 + "N</a>" * 70, None),
    ],
)
def test_nested_tags_that_are_odd_or_broken(body: str, arguments: dict[str, Any] | None) -> None:
    assert nested(body.replace("N", SIGN), NESTED) == arguments


def test_kimi_k3_writes_a_call_as_json_too_and_escapes_names() -> None:
    grammar = BY_NAME["Kimi-K3 open and close"]
    json_call = '<|open|>json type="object"<|sep|>{"text": "<|close|>"}<|close|>json<|sep|><|close|>call<|sep|>'
    key = (
        '<|open|>argument key="a &quot;b&amp;quot;" type="null"<|sep|>null<|close|>argument<|sep|><|close|>call<|sep|>'
    )
    text = f'<|open|>tools<|sep|><|open|>call tool="tell" index="1"<|sep|>{json_call}'
    text += f'<|open|>call tool="tell" index="2"<|sep|>{key}<|close|>tools<|sep|>'
    assert called(parse(grammar, text)) == [("tell", {"text": "<|close|>"}), ("tell", {'a "b&quot;': None})]
    assert parse(grammar, f"<|close|>response<|sep|>{text}").content == ""
    assert parse(grammar, f" Look.<|close|>response<|sep|>{text}").content == " Look."


def test_a_call_after_a_broken_one_is_read() -> None:
    text = '<tool_call>{"name": tell}</tool_call>\n<tool_call>{"name": "tell"}</tool_call>'
    parts = parse(BY_NAME["JSON in <tool_call>"], text)
    assert called(parts) == [("tell", {})]
    assert parts.content == '<tool_call>{"name": tell}</tool_call>'


def test_marks_within_an_argument_are_text() -> None:
    text = "Write </tool_call> and <tool_call>."
    parts = parse(BY_NAME["JSON in <tool_call>"], f"<tool_call>{_json('tell', {'text': text})}</tool_call>")
    assert called(parts) == [("tell", {"text": text})]
    inner = "<tool_call>\n<function=tell>\n<parameter=text>\n</tool_call>\n</parameter>\n</function>\n</tool_call>"
    assert called(parse(BY_NAME["<function=> in <tool_call>"], inner)) == [("tell", {"text": "</tool_call>"})]


def test_text_before_between_and_after_calls() -> None:
    one = '<tool_call>{"name": "tell"}</tool_call>'
    parts = parse(BY_NAME["JSON in <tool_call>"], f"First.\n\n{one}\nThen.\n{one}{one}Last.\n")
    assert parts.content == "First.\n\n\nThen.\nLast.\n"
    assert len(parts.calls) == 3


def test_without_tools_calls_are_text() -> None:
    text = f"<tool_call>\n{_json('tell', TELL)}\n</tool_call>"
    assert parse(BY_NAME["JSON in <tool_call>"], text, tools=()) == Parts("", text, ())


@pytest.mark.parametrize(("opening", "closing"), THOUGHTS)
def test_thoughts(opening: str, closing: str) -> None:
    grammar = PLAIN.thinking(Thought(opening, closing, closing))
    assert grammar.begin(f"<user>{opening}</user><assistant>{opening}\n") == REASONING
    assert grammar.begin(f"<assistant>{opening}\n\n{closing}\n\n") == grammar.start
    assert parse(grammar, f"\nHm.\n{closing}\n\nYes.", begin=REASONING) == Parts("Hm.", "Yes.", ())
    assert parse(grammar, f"{opening}Hm.{closing}Yes. {opening}Oh{closing}No") == Parts("Hm.\nOh", "Yes. No", ())
    assert parse(grammar, f"{opening}Hm") == Parts("Hm", "", ())
    assert parse(grammar, f"{closing}\nYes.") == Parts("", "Yes.", ())
    assert parse(grammar, f" Yes {opening[:-1]}") == Parts("", f" Yes {opening[:-1]}", ())


def test_plain_answers_are_left_alone() -> None:
    text = "\n <tool_call> <think> {} \n"
    assert parse(PLAIN, text) == Parts("", text, ())


def test_what_can_be_said_is_said_at_once() -> None:
    parser = AnswerParser(BY_NAME["JSON in <tool_call>"], "content", TOOLS)
    assert parser.push("Hello <") == [Content("Hello")]
    assert parser.push("b") == [Content(" <b")]
    assert parser.push("<think>Hm") == [Reasoning("Hm")]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, " 42 ", " 42 "),
        ({"type": "string"}, "null", "null"),
        ({"type": "integer"}, "42", 42),
        ({"type": "integer"}, "4.0", 4),
        ({"type": "integer"}, "four", "four"),
        ({"type": "number"}, "1e3", 1000.0),
        ({"type": "number"}, "Infinity", "Infinity"),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "yes", "yes"),
        ({"type": "array"}, "[1, {}]", [1, {}]),
        ({"type": "object"}, "{'a': None}", {"a": None}),
        ({"type": "object"}, "[1]", "[1]"),
        ({"type": ["integer", "null"]}, "None", None),
        ({"type": ["string", "integer"]}, "7", 7),
        ({"type": "string", "nullable": True}, "null", None),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "x7", "x7"),
        ({"enum": [1, 2]}, "2", 2),
        ({"const": "2"}, "2", "2"),
        ({"$ref": "#/$defs/n"}, "2", 2),
        ({"$ref": "#/$defs/loop"}, "2", "2"),
        ({"properties": {}}, '{"a": 1}', {"a": 1}),
        ({}, "2", "2"),
        (None, "2", "2"),
    ],
)
def test_arguments_are_typed_by_the_schema(schema: Any, text: str, value: Any) -> None:
    parameters = {"properties": {"v": schema}, "$defs": {"n": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    call = f"<tool_call>f<arg_key>v</arg_key><arg_value>{text}</arg_value></tool_call>"
    assert called(parse(BY_NAME["<arg_key>"], call, tools=tools)) == [("f", {"v": value})]


def test_ids_are_the_familys_own() -> None:
    parser = AnswerParser(BY_NAME["Kimi-K2 sections"], "content", TOOLS)
    text, _ = CALLS["Kimi-K2 sections"]
    assert [call.id for call in Parts.of(parser.push(text)).calls] == ["functions.get_weather:0", "functions.tell:1"]
    parser = AnswerParser(BY_NAME["<arg_key>"], "content", TOOLS)
    first, second = Parts.of(parser.push(CALLS["<arg_key>"][0])).calls
    assert first.id != second.id
    assert re.fullmatch("call_[0-9a-f]{24}", first.id)


@pytest.mark.parametrize("grammar", BY_NAME.values(), ids=BY_NAME)
def test_no_mark_of_a_state_begins_with_another(grammar: Grammar) -> None:
    for state in grammar.of_tools(["tell"]):
        marks = {exit.mark for exit in state.exits}
        assert not [(a, b) for a in marks for b in marks if a != b and b.startswith(a)]
        assert all(exit.to in {one.name for one in grammar.states} for exit in state.exits)
