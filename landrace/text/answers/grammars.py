"""The grammars that are known, nine kinds of them, and the marks of thoughts."""

from __future__ import annotations

from itertools import product

from landrace.text.answers.grammar import CONTENT, REASONING, TOOL, Exit, Grammar, State, Thought
from landrace.text.answers.nested import SIGN


def _json(name: str, *exits: Exit, may_end: bool = True) -> tuple[State, ...]:
    """A state that reads JSON, with a twin for the strings in it, in which no mark is one."""
    string = f"{name} string"
    inside = (Exit("\\\\", string, keep=True), Exit('\\"', string, keep=True), Exit('"', name, keep=True))
    outside = State(name, (Exit('"', string, keep=True), *exits), slot="json", may_end=may_end)
    return outside, State(string, inside, slot="json")


def _content(*exits: Exit) -> State:
    return State(CONTENT, exits, slot=CONTENT)


def _json_in(opening: str, closing: str, *, listed: bool) -> Grammar:
    """JSON objects, or a list of them, in a tag."""
    states = (
        _content(Exit(opening, "json", opens=True)),
        *_json("json", Exit(closing, CONTENT, ends_call=True)),
    )
    return Grammar(f"JSON in {opening}", states, listed=listed)


_SPACES = ("", " ", "\n", "\n  ", "\n    ")
_KEYS = ("name", "type", "function", "parameters", "arguments")
_BARE = tuple(f'{{{space}"{key}"' for space, key in product(_SPACES, _KEYS))


def _bare(name: str, *exits: Exit, states: tuple[State, ...], arguments: tuple[str, ...] = ("arguments",)) -> Grammar:
    """A call that is the answer from its first character on, without a mark before it."""
    states = (State("start", exits, otherwise=CONTENT), _content(), *states)
    return Grammar(name, states, start="start", arguments=arguments)


def _functions(opening: str, closing: str, pad: str) -> Grammar:
    """`<function=NAME><parameter=KEY>VALUE</parameter></function>` in a tag, which some models leave out."""
    function = Exit("<function=", "name", opens=True)
    states = (
        _content(Exit(opening, "calls", opens=True), function),
        State("calls", (Exit("<function=", "name"), Exit(closing, CONTENT)), may_end=True),
        State("name", (Exit(">", "parameters"),), slot="name"),
        State("parameters", (Exit("<parameter=", "key"), Exit("</function>", "calls", ends_call=True))),
        State("key", (Exit(">", "value"),), slot="key"),
        State("value", (Exit("</parameter>", "parameters"),), slot="value", pad=pad),
    )
    return Grammar(f"<function=> in {opening}", states)


_DSML = "｜DSML｜"


def _invoked(after: str, *then: Exit, prefix: str = "", call: str = "invoke", value: str = "parameter") -> list[State]:
    """The states of `<invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>`, from before a call on.

    `prefix` stands before every name of a tag. DSML says of each value whether it is text.
    """
    typed = [
        Exit(f'" string="{flag}">', "value", sets=(("kind", kind),))
        for flag, kind in (("true", "string"), ("false", "json"))
        if prefix == _DSML
    ]
    return [
        State(after, (Exit(f'<{prefix}{call} name="', "name"), *then), may_end=True),
        State("name", (Exit('">', "parameters"),), slot="name"),
        State(
            "parameters",
            (Exit(f'<{prefix}{value} name="', "key"), Exit(f"</{prefix}{call}>", after, ends_call=True)),
        ),
        State("key", (Exit('">', "value"), *typed), slot="key"),
        State("value", (Exit(f"</{prefix}{value}>", "parameters"),), slot="value"),
    ]


def _invoke(prefix: str, opening: str, closing: str) -> Grammar:
    states = _invoked("calls", Exit(closing, CONTENT), prefix=prefix)
    return Grammar(f"<invoke> in {opening}", (_content(Exit(opening, "calls", opens=True)), *states))


_PARAM = Grammar(
    "<function name>, <param>",
    (
        _content(Exit('<function name="', "name", opens=True)),
        *_invoked("calls", call="function", value="param"),
    ),
)


def _arg_keys(name: str, before: State, after: str) -> Grammar:
    """`<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`."""
    then = (Exit("<arg_key>", "key"), Exit("</tool_call>", after, ends_call=True))
    states = (
        State("name", (*then, Exit("<tool_sep>", "arguments")), slot="name"),
        State("arguments", then),
        State("key", (Exit("</arg_key>", "between"),), slot="key"),
        State("between", (Exit("<arg_value>", "value"),)),
        State("value", (Exit("</arg_value>", "arguments"),), slot="value"),
    )
    section = State("calls", (Exit("<tool_call>", "name"), Exit("</tool_calls>", CONTENT)), may_end=True)
    return Grammar(name, (before, *states, *([section] if after == "calls" else [])))


def _sections(name: str, opening: str, call: str, closing: str, *states: State) -> Grammar:
    """Calls in a section, each in marks that are control tokens; `states` from a call's first mark ("call") on."""
    head = (
        _content(Exit(opening, "section", opens=True)),
        State("section", (Exit(call, "call"), Exit(closing, CONTENT)), may_end=True),
    )
    return Grammar(name, (*head, *states), silent=True)


_DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁calls▁end｜>")
_STEP = ("<｜tool_calls_begin｜>", "<｜tool_call_begin｜>", "<｜tool_calls_end｜>")

_SECTIONS = (
    _sections(
        "DeepSeek sections",
        *_DEEPSEEK,
        State("call", (Exit("<｜tool▁sep｜>", "json"),), slot="name"),
        *_json("json", Exit("<｜tool▁call▁end｜>", "section", ends_call=True)),
    ),
    _sections(
        "DeepSeek sections, fenced",
        *_DEEPSEEK,
        State("call", (Exit("<｜tool▁sep｜>", "name"),), slot="type"),
        State("name", (Exit("\n", "fence"),), slot="name"),
        State("fence", (Exit("```json", "json"),)),
        *_json("json", Exit("```", "end of call"), may_end=False),
        State("end of call", (Exit("<｜tool▁call▁end｜>", "section", ends_call=True),), may_end=True),
    ),
    _sections(
        "Kimi-K2 sections",
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_calls_section_end|>",
        State(
            "call",
            (Exit("<|tool_call_argument_begin|>", "json", where=r"\s*(?:functions\.)?(?P<name>.*?)(?::\d+)?\s*"),),
            slot="id",
        ),
        *_json("json", Exit("<|tool_call_end|>", "section", ends_call=True)),
    ),
    _sections(
        "Step-3 sections",
        *_STEP,
        State("call", (Exit("<｜tool_sep｜>", "invoke"),), slot="type"),
        *_invoked("invoke", Exit("<｜tool_call_end｜>", "section"), prefix="steptml:"),
    ),
)

_RECIPIENT = r".*?\bto=(?:functions\.)?(?P<name>[^\s<]+).*"
_MESSAGE = (
    Exit("<|message|>", "json", opens=True, where=_RECIPIENT),
    Exit("<|message|>", REASONING, where=r".*<\|channel\|>\s*analysis.*"),
    Exit("<|message|>", CONTENT),
)
_CHANNEL = Exit("<|channel|>", "header", keep=True)
_FRAME = (Exit("<|start|>", "header"), Exit("<|end|>", "between"), Exit("<|return|>", "between"), _CHANNEL)
_HARMONY = Grammar(
    "harmony channels",
    (
        # The prompt has begun the header; a model that knows nothing of channels says its answer here.
        State("start", (_CHANNEL, *_MESSAGE), slot="header"),
        State("header", (_CHANNEL, Exit("<|constrain|>", "header", keep=True), *_MESSAGE), slot="header", hidden=True),
        State(REASONING, _FRAME, slot=REASONING),
        _content(*_FRAME),
        State("between", (Exit("<|start|>", "header"), Exit("<|call|>", "between")), otherwise=CONTENT),
        *_json(
            "json",
            Exit("<|call|>", "between", ends_call=True),
            Exit("<|end|>", "between", ends_call=True),
            Exit("<|start|>", "header", ends_call=True),
        ),
    ),
    start="start",
    thought=Thought(
        "<|channel|>analysis<|message|>", "<|end|>", "<|end|><|start|>assistant<|channel|>final<|message|>"
    ),
    framed=True,
    silent=True,
)

_KIMI_K3 = Grammar(
    "Kimi-K3 open and close",
    (
        State(
            "between",
            (
                Exit("<|open|>think<|sep|>", REASONING),
                Exit("<|open|>response<|sep|>", CONTENT),
                Exit("<|open|>tools<|sep|>", "calls", opens=True),
                Exit("<|close|>response<|sep|>", "between"),  # of an empty one that the prompt has opened
                Exit("<|close|>message<|sep|>", "between"),
                Exit("<|end_of_msg|>", "between"),
            ),
            otherwise=CONTENT,
        ),
        State(REASONING, (Exit("<|close|>think<|sep|>", "between"),), slot=REASONING),
        _content(Exit("<|close|>response<|sep|>", "between"), Exit("<|open|>tools<|sep|>", "calls", opens=True)),
        State("calls", (Exit('<|open|>call tool="', "name"), Exit("<|close|>tools<|sep|>", "between")), may_end=True),
        State("name", (Exit('" index="', "index"), Exit('"<|sep|>', "arguments")), slot="name", escaped=True),
        State("index", (Exit('"<|sep|>', "arguments"),), slot="index"),
        State(
            "arguments",
            (
                Exit('<|open|>argument key="', "key"),
                Exit('<|open|>json type="object"<|sep|>', "json"),
                Exit("<|close|>call<|sep|>", "calls", ends_call=True),
            ),
        ),
        *_json("json", Exit("<|close|>json<|sep|>", "arguments"), may_end=False),
        State("key", (Exit('" type="', "kind"), Exit('"<|sep|>', "value")), slot="key", escaped=True),
        State("kind", (Exit('"<|sep|>', "value"),), slot="kind"),
        State("value", (Exit("<|close|>argument<|sep|>", "arguments"),), slot="value"),
    ),
    start="between",
    thought=Thought("<|open|>think<|sep|>", "<|close|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>"),
    framed=True,
    silent=True,
)

_MINIMAX_M3 = Grammar(
    "nested tags in <tool_call>",
    (
        _content(Exit(f"{SIGN}<tool_call>", "calls", opens=True)),
        State(
            "calls",
            (Exit(f'{SIGN}<invoke name="', "name"), Exit(f"{SIGN}</tool_call>", CONTENT)),
            may_end=True,
        ),
        State("name", (Exit('">', "nested"),), slot="name"),
        State("nested", (Exit(f"{SIGN}</invoke>", "calls", ends_call=True),), slot="nested"),
    ),
    sign=SIGN,
)

PLAIN = Grammar("", (_content(),))
"""Of a template without marks."""

GRAMMARS: tuple[Grammar, ...] = (
    _HARMONY,
    _KIMI_K3,
    *_SECTIONS,
    _arg_keys("<arg_key> in <tool_calls>", _content(Exit("<tool_calls>", "calls", opens=True)), after="calls"),
    _arg_keys("<arg_key>", _content(Exit("<tool_call>", "name", opens=True)), after=CONTENT),
    _functions("<tool_call>", "</tool_call>", pad="\n"),
    _functions("<seed:tool_call>", "</seed:tool_call>", pad=""),
    _invoke("", "<minimax:tool_call>", "</minimax:tool_call>"),
    _MINIMAX_M3,
    _invoke(_DSML, "<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
    _invoke(_DSML, "<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>"),
    _PARAM,
    _json_in("<tool_call>", "</tool_call>", listed=False),
    _json_in("<tool_calls>", "</tool_calls>", listed=True),
    _bare(
        "bare JSON",
        *(Exit(mark, "json", keep=True, opens=True, sets=(("bare", ""),)) for mark in _BARE),
        Exit("<|python_tag|>", "json", opens=True),
        states=_json("json"),
        arguments=("parameters", "arguments"),
    ),
    _bare(
        "name and JSON",
        Exit(f"{TOOL}\n", "json", opens=True),
        states=_json("json"),
    ),
    _bare(
        "Python calls",
        Exit("<|python_start|>", "python", opens=True),
        Exit(f"[{TOOL}(", "python", keep=True, opens=True),
        states=(State("python", (Exit("<|python_end|>", CONTENT, ends_call=True),), slot="python", may_end=True),),
    ),
)
"""The first that reads back what a template writes is that template's, so that the stricter ones stand first."""

THOUGHTS: tuple[tuple[str, str], ...] = (
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<mm:think>", "</mm:think>"),
    ("<think>", "</think>"),
)
"""Marks around thoughts that are the same in all grammars."""
