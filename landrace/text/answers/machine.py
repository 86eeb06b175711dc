"""`AnswerParser`: runs a grammar over an answer that arrives in pieces."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from landrace.text.answers.calls import Tools, Written
from landrace.text.answers.events import Content, Event, Reasoning
from landrace.text.answers.grammar import CONTENT, REASONING, Exit, Grammar, State
from landrace.text.answers.passages import Passages

_PASSED_ON = (CONTENT, REASONING)
_CONTROL = re.compile(r"<[|｜][^<>]*[|｜]>")
"""A control token in a grammar whose marks are made of them."""


class AnswerParser:
    """Takes an answer apart as it comes. How it is cut into pieces changes nothing but the borders of texts.

    Nothing that may still become a mark is let out. Calls come whole. The text of one that breaks its grammar comes
    back as content, its marks too where they are text.
    """

    def __init__(self, grammar: Grammar, begin: str, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        """`begin`: the state that the answer begins in (`Grammar.begin`). Without `tools` calls are text."""
        self._tools = Tools(tools)
        self._silent, self._sign = grammar.silent, grammar.sign
        self._states = {state.name: _Reader(state) for state in grammar.of_tools(self._tools.names)}
        self._reader = self._states[begin]
        self._buffer, self._at = "", 0
        """What has come and is not read yet, from `_at` on."""
        self._text: list[str] = []
        """Of the state's slot."""
        self._raw: list[str] = []
        """What comes back if the call that is being read turns out to be none."""
        self._within, self._called = False, False
        """Whether this is within what a mark has opened for calls, and whether anything has come of it."""
        self._written = Written()
        self._events: list[Event] = []
        self._passages = {CONTENT: Passages(), REASONING: Passages()}
        if begin == REASONING:
            self._passages[REASONING].mark()

    def push(self, text: str) -> list[Event]:
        """The events that `text` completes."""
        self._buffer, self._at = self._buffer[self._at :] + text, 0
        while self._step():
            pass
        return self._out()

    def flush(self) -> list[Event]:
        """The last events, when no more text will come."""
        state, rest = self._reader.state, self._buffer[self._at :]
        self._buffer, self._at = "", 0
        if self._silent:
            rest = rest[: match.start()] if (match := _CONTROL.search(rest)) else rest
        if state.slot in _PASSED_ON:
            self._say(state.slot, rest)
        elif not state.hidden:
            self._end(state, rest)
        for slot in _PASSED_ON:
            self._emit(slot, self._passages[slot].end())
        return self._out()

    def _end(self, state: State, rest: str) -> None:
        """The answer ends within a call, or before anything was said."""
        self._raw.append(rest)
        if state.may_end and (state.slot or not rest.strip()):
            if state.slot:
                self._text.append(rest)
                self._written.put(state.slot, "".join(self._text))
            if self._written and self._call():
                return
        self._give_back()

    def _step(self) -> bool:
        """Reads up to the next mark; False where there is none yet."""
        reader, state = self._reader, self._reader.state
        match = reader.pattern.search(self._buffer, self._at)
        end = match.start() if match else reader.possible_start(self._buffer, self._at)
        before = self._buffer[self._at : end]
        if state.slot in _PASSED_ON:
            self._say(state.slot, before)
        elif state.slot:
            self._text.append(before)
            self._raw.append(before)
        elif before.strip():
            self._give_back()  # text stands where none may
            self._reader = self._states[state.otherwise or CONTENT]
            return True
        else:
            self._raw.append(before)
        self._at = match.end() if match else end
        if match is None:
            return False
        self._leave(reader, match[0])
        return True

    def _leave(self, reader: _Reader, mark: str) -> None:
        state = reader.state
        if self._within and (inner := reader.within(mark)) is not None:
            # The commonest, quotes in JSON: its text is not put together each time.
            self._text.append(mark)
            self._raw.append(mark)
            self._reader = self._states[inner.to]
            return
        text = "".join(self._text)
        exit, captured = reader.exit(mark, text)
        target = self._states[exit.to].state
        if not (exit.keep and target.slot == state.slot):
            self._text = []
            if state.slot and state.slot not in _PASSED_ON:
                self._written.put(state.slot, _read(text, state))
        if exit.keep:
            self._text.append(mark)
        for slot, value in (*captured, *exit.sets):
            self._written.put(slot, value)
        if exit.opens:
            self._raw = [] if state.slot else self._raw
            self._within, self._called = True, False
        if not self._silent:
            self._raw.append(mark)
        if exit.ends_call and not self._call():
            self._give_back()
            self._called = True
        self._reader = self._states[exit.to]
        if target.slot in _PASSED_ON or target.hidden or target.otherwise:
            self._outside(said=exit.ends_call)
        elif not self._within:
            self._raw = []

    def _outside(self, *, said: bool) -> None:
        """No call is being read any more. `said`: what the last mark meant for the texts is said already."""
        if self._within and not self._called:
            self._give_back()
        else:
            self._raw, self._written = [], Written()
            if not said:
                self._mark()
        self._within = False

    def _call(self) -> bool:
        """Lets out the calls that were read, if they are whole."""
        calls = self._tools.read(self._written)
        if calls is None:
            return False
        self._mark()
        self._events += calls
        self._raw, self._written, self._called = [], Written(), True
        return True

    def _give_back(self) -> None:
        """What was read is no call, but text."""
        text, self._raw = "".join(self._raw), []
        text = text.replace(self._sign, "") if self._sign else text
        self._text, self._written, self._within = [], Written(), False
        self._say(CONTENT, text)

    def _mark(self) -> None:
        for passages in self._passages.values():
            passages.mark()

    def _say(self, slot: str, text: str) -> None:
        if text:
            self._emit(slot, self._passages[slot].push(text))

    def _emit(self, slot: str, text: str) -> None:
        kind = Content if slot == CONTENT else Reasoning
        if not text:
            return
        if self._events and isinstance(self._events[-1], kind):
            self._events[-1] = kind(self._events[-1].text + text)
        else:
            self._events.append(kind(text))

    def _out(self) -> list[Event]:
        events, self._events = self._events, []
        return events


class _Reader:
    """Finds the marks of one state."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._exits: dict[str, list[Exit]] = {}
        for exit in state.exits:
            self._exits.setdefault(exit.mark, []).append(exit)
        marks = sorted(self._exits, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, marks)) if marks else "(?!)")

    @cached_property
    def _beginnings(self) -> tuple[int, frozenset[str]]:
        beginnings = {mark[:size] for mark in self._exits for size in range(1, len(mark))}
        return max(map(len, beginnings), default=0), frozenset(beginnings)

    def possible_start(self, text: str, at: int) -> int:
        """Index, `at` or later, from which `text` is the beginning of a mark; its length if there is none."""
        longest, beginnings = self._beginnings
        for start in range(max(at, len(text) - longest), len(text)):
            if text[start:] in beginnings:
                return start
        return len(text)

    def within(self, mark: str) -> Exit | None:
        """The exit by `mark`, where that is a part of JSON and decides nothing."""
        first = self._exits[mark][0]
        return first if first.keep and self.state.slot == "json" else None

    def exit(self, mark: str, text: str) -> tuple[Exit, list[tuple[str, str]]]:
        """The first exit by `mark` for a state with this text, and what its pattern captured."""
        *tried, last = self._exits[mark]
        for exit in (*tried, last):
            match = re.fullmatch(exit.where, text, re.DOTALL) if exit.where else None
            if match or not exit.where:
                return exit, list(match.groupdict().items()) if match else []
        return last, []


def _read(text: str, state: State) -> str:
    """What the text of a slot says."""
    if state.escaped:
        text = text.replace("&quot;", '"').replace("&amp;", "&")
    return text.removeprefix(state.pad).removesuffix(state.pad) if state.pad else text
