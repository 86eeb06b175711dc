"""Calls held to a family's own way to write them, by the same states and marks that read them.

A rule is made for each place that an answer can be in: a state of the grammar, the tool that is being called, and how
many of its arguments are written. The marks of the state lead from place to place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from landrace.errors import RequestError
from landrace.text.answers.arguments import types_of
from landrace.text.answers.bare_values import bare_value
from landrace.text.answers.declared_tools import Argument, DeclaredTool
from landrace.text.answers.grammar import CONTENT, REASONING, TOOL, Exit, Grammar, State
from landrace.text.answers.lark import ANY, NOTHING, SPACE, Lark, either, pattern, without
from landrace.text.answers.whole_calls import json_call, listed_calls, python_call

_NUMBER = "/[0-9]{1,3}/"
_HEADERS = (
    ("<|channel|>commentary to=functions.", " <|constrain|>json"),
    (" to=functions.", "<|channel|>commentary json"),
)
"""What stands around a tool's name in the header of a call, in both orders that gpt-oss writes."""
_CONTROL = re.compile(r"<[|｜][^<>]*[|｜]>")
"""A mark that is a control token in the vocabularies that have it."""
_FAR = 1 << 10
_OWED, _FREE, _DONE = "owed", "free", "done"
"""A call has to come; another may come; none may come any more."""


@dataclass(frozen=True)
class _Place:
    """Where an answer is. `tool` and `argument`: indices of what is called, and of what is written next of it; `kind`:
    what the answer has said of a value."""

    state: str
    phase: str
    tool: int | None = None
    argument: int = 0
    kind: str = ""


class CallRules:
    """The rules of calls of `tools`, in a vocabulary's `lark`."""

    def __init__(self, lark: Lark, grammar: Grammar, tools: Sequence[DeclaredTool], *, several: bool) -> None:
        """`several`: whether more than one call may be made."""
        self._lark = lark
        self._grammar = grammar
        self._tools = tools
        self._several = several
        self._states = {state.name: state for state in grammar.states}
        self._keyed = any(state.slot == "key" for state in grammar.states)
        ending = {state.name: 1 for state in grammar.states if any(exit.ends_call for exit in state.exits)}
        self._to_end = _steps(grammar, ending, lambda state, exit: (exit.to, state.name))
        self._from_start = _steps(grammar, {grammar.start: 0}, lambda state, exit: (state.name, exit.to))
        self._amid_text = False
        self._rules: dict[_Place, str] = {}

    def calls(self, *, amid_text: bool = False) -> str:
        """An answer that is a call or, if `several`, more of them. `amid_text`: or none, and text around them.

        Raises RequestError for a family that writes no calls, and for tools that it cannot write.
        """
        if self._opening(self._states[self._grammar.start]) is None:
            raise RequestError(
                "The model's chat template writes no tool calls, so that none can be forced.",
                field="tools",
                hint="Leave the choice of tools to the model, or take a model whose template knows tools.",
            )
        self._amid_text = amid_text
        return self._rule(_Place(self._grammar.start, _FREE if amid_text else _OWED))

    def _rule(self, place: _Place) -> str:
        if place not in self._rules:
            name = self._rules[place] = self._lark.reserve()
            self._lark.define(name, either(self._ways(self._states[place.state], place)))
        return self._rules[place]

    def _ways(self, state: State, place: _Place) -> list[str]:
        if state.slot == CONTENT or state.otherwise or state.name == self._grammar.start:
            return self._outside(state, place)
        if state.slot == "value":
            return [self._value(state, place)]
        if state.slot == "nested":
            raise RequestError("The model's family nests arguments in tags, which cannot be forced.", field="tools")
        if state.slot in ("json", "python"):
            ends = [f"{SPACE} {self._mark(state, exit, then)}" for exit, then in self._exits(state, place)]
            return [f"{self._whole(state, place)} {end}" for end in ends or [NOTHING]]
        ways = [
            f"{text} {self._mark(state, exit, then)}"
            for text, at in self._texts(state, place)
            for exit, then in self._exits(state, at)
        ]
        is_whole = place.phase != _OWED and not list(self._exits(state, replace(place, phase=_DONE)))
        return [*ways, NOTHING] if is_whole else ways

    def _mark(self, state: State, exit: Exit, then: _Place) -> str:
        return f"{self._lark.mark(exit.mark)} {self._rule(then)}"

    def _outside(self, state: State, place: _Place) -> list[str]:
        """Before, between and after calls."""
        exit = self._opening(state) if place.phase != _DONE else None
        openings = list(self._openings(state, exit)) if exit else []
        if self._amid_text and state.slot == CONTENT:
            text = without(ANY, [one.mark for one in state.exits if one.opens])
            calls = [f"{self._lark.until(text, exit.mark)} {self._rule(then)}" for _, then in openings if exit]
            return [*calls, self._lark.terminal(text)]
        # Where text may stand as well, white space is text.
        space = NOTHING if self._amid_text else SPACE
        calls = [f"{space} {lead} {self._rule(then)}" for lead, then in openings]
        if self._amid_text and openings:
            marks = [re.escape(mark) for one in state.exits if one.opens for mark in self._spelled(one.mark)]
            begun = pattern(rf"\s*({'|'.join(marks)})(?s:.*)")
            text = f"{ANY} & ~{begun}"
            return [*calls, self._lark.terminal(text)]
        return [*calls, *([NOTHING] if place.phase != _OWED else [])]

    def _opening(self, state: State) -> Exit | None:
        """The mark by which the family begins to call: the first, but for a control token that the vocabulary lacks."""
        exits = [exit for exit in state.exits if exit.opens]
        return min(exits, key=lambda exit: self._is_lacking(exit.mark), default=None)

    def _is_lacking(self, mark: str) -> bool:
        return _CONTROL.match(mark) is not None and not self._lark.begins_with_token(mark)

    def _openings(self, state: State, exit: Exit) -> Iterator[tuple[str, _Place]]:
        """What begins a call, and where it leads."""
        there = _Place(exit.to, _OWED)
        for index, tool in enumerate(self._tools):
            if state.slot == "header":
                for before, after in _HEADERS:
                    head = f"{self._lark.mark(before)} {self._lark.text(tool.name)} {self._lark.mark(after)}"
                    yield f"{head} {self._lark.mark(exit.mark)}", replace(there, tool=index)
            elif TOOL in exit.mark and not exit.keep:
                yield self._lark.text(exit.mark.replace(TOOL, tool.name)), replace(there, tool=index)
        if state.slot != "header" and (TOOL not in exit.mark or exit.keep):
            yield NOTHING if exit.keep else self._lark.mark(exit.mark), there

    def _spelled(self, mark: str) -> list[str]:
        return [mark.replace(TOOL, tool.name) for tool in self._tools] if TOOL in mark else [mark]

    def _exits(self, state: State, place: _Place) -> Iterator[tuple[Exit, _Place]]:
        """The marks that may end a state's text, and where they lead."""
        kinds = any(exit.sets for exit in state.exits)
        ended = self._opens_bare
        for exit in state.exits:
            target = self._states[exit.to]
            if exit.ends_call:
                if not (ended or self._lark.ends_answer(exit.mark) or self._is_required_left(place)):
                    another = self._several and not self._grammar.listed
                    yield exit, _Place(exit.to, _FREE if another else _DONE)
                ended = True
            elif exit.keep or (target.slot in (CONTENT, REASONING) and place.phase == _OWED):
                continue
            elif target.slot == "key":
                for index in self._next_arguments(place):
                    yield exit, replace(place, state=exit.to, argument=index)
            elif place.phase == _OWED:
                kind = dict(exit.sets).get("kind", place.kind)
                if (not kinds or kind in self._kinds(place)) and self._to_end[exit.to] <= self._to_end[state.name]:
                    yield exit, replace(place, state=exit.to, kind=kind)
            elif target.slot in ("", CONTENT) and self._from_start[exit.to] < self._from_start[state.name]:
                yield exit, replace(place, state=exit.to)
            elif place.phase == _FREE and self._to_end[exit.to] < self._to_end[state.name]:
                yield exit, _Place(exit.to, _OWED)

    @property
    def _opens_bare(self) -> bool:
        """Whether calls begin without a mark, and therefore end without one."""
        exit = self._opening(self._states[self._grammar.start])
        return exit is not None and exit.keep

    def _texts(self, state: State, place: _Place) -> Iterator[tuple[str, _Place]]:
        """What may stand in a state, and what is known then."""
        lark = self._lark
        if state.slot == "":
            yield SPACE, place
        elif state.slot in ("name", "id"):
            for index in range(len(self._tools)) if place.tool is None else (place.tool,):
                name = self._spoken(self._tools[index].name, state)
                text = lark.text(name) if state.slot == "name" else f"{lark.text(f'functions.{name}:')} {_NUMBER}"
                space = f" {SPACE}" if all(exit.mark.startswith("<") for exit in state.exits) else ""
                yield text + space, replace(place, tool=index)
        elif state.slot == "key":
            yield lark.text(self._spoken(self._argument(place).key, state)), place
        elif state.slot == "kind":
            for kind in sorted(self._types(place)):
                yield lark.text(kind), replace(place, kind=kind)
        else:
            yield lark.text("function") if state.slot == "type" else _NUMBER, place

    def _spoken(self, name: str, state: State) -> str:
        if any(exit.mark in name for exit in state.exits) or name.strip() != name or "\n" in name:
            raise RequestError(f"The name {name!r} cannot be written in this model's form of calls.", field="tools")
        return name

    def _value(self, state: State, place: _Place) -> str:
        (exit,) = state.exits
        argument, root = self._argument(place), self._called(place).schema
        try:
            value = bare_value(self._lark, argument.schema, root, place.kind, exit.mark, state.pad)
        except RequestError as error:
            raise RequestError(
                f"The argument {argument.key!r} of the tool {self._called(place).name!r} cannot be forced in this"
                f" model's form of calls: {error.message}",
                field="tools",
            ) from error
        then = replace(place, state=exit.to, argument=place.argument + 1, kind="")
        return f"{value} {self._rule(then)}"

    def _whole(self, state: State, place: _Place) -> str:
        """What stands in one piece: the arguments as JSON, or calls as JSON or Python."""
        lark = self._lark
        if state.slot == "python":
            return listed_calls(either([python_call(lark, tool) for tool in self._tools]), lark, self._several)
        if place.tool is not None:
            return f"{SPACE} {lark.json(self._called(place).schema)}"
        one = either([json_call(lark, tool, key) for tool in self._tools for key in self._grammar.arguments])
        return f"{SPACE} {listed_calls(one, lark, self._several) if self._grammar.listed else one}"

    def _called(self, place: _Place) -> DeclaredTool:
        assert place.tool is not None
        return self._tools[place.tool]

    def _argument(self, place: _Place) -> Argument:
        return self._called(place).arguments[place.argument]

    def _types(self, place: _Place) -> set[str]:
        """The JSON types of the argument that comes next; text where its schema does not say."""
        return types_of(self._argument(place).schema, self._called(place).schema) or {"string"}

    def _kinds(self, place: _Place) -> set[str]:
        """What may be said of the argument that comes next."""
        return {"string" if name == "string" else "json" for name in self._types(place)}

    def _next_arguments(self, place: _Place) -> Iterator[int]:
        """Which arguments may be written next: none may be left out that is required."""
        arguments = self._called(place).arguments
        for index in range(place.argument, len(arguments)):
            yield index
            if arguments[index].required:
                return

    def _is_required_left(self, place: _Place) -> bool:
        return self._keyed and any(one.required for one in self._called(place).arguments[place.argument :])


def _steps(
    grammar: Grammar, found: Mapping[str, int], leads: Callable[[State, Exit], tuple[str, str]]
) -> dict[str, int]:
    """How many marks lie between each state and the nearest of `found`, which have lengths of their own."""
    links = [leads(state, exit) for state in grammar.states for exit in state.exits]
    steps = {state.name: found.get(state.name, _FAR) for state in grammar.states}
    for _ in grammar.states:
        for near, far in links:
            steps[far] = min(steps[far], steps[near] + 1)
    return steps
