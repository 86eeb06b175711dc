"""How a family writes an answer, as data: states, and the marks that lead from one to another.

`landrace.text.answers.machine` runs it, and `grammars` lists those that are known. Everything here is frozen and plain,
so that it travels between processes with a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

CONTENT, REASONING = "content", "reasoning"
"""Slots whose text is passed on as it comes; states of these names exist in every grammar."""
TOOL = "{tool}"
"""In a mark: the name of a tool that the caller declared; the exit is there once for each."""

_START = "before anything is said"


@dataclass(frozen=True)
class Exit:
    """A mark that leads out of a state."""

    mark: str
    to: str
    keep: bool = False
    """Whether the mark belongs to the text of the state it leads to, which goes on where that has the same slot."""
    opens: bool = False
    """Whether a call begins here. Unless the grammar is `framed`, only callers who declare tools have these exits."""
    ends_call: bool = False
    where: str = ""
    """What the state's whole text must match (a regular expression); its named groups become slots."""
    sets: tuple[tuple[str, str], ...] = ()
    """Slots that this mark fills."""


@dataclass(frozen=True)
class State:
    """A stretch of an answer between marks. No mark of a state may begin with another of its marks."""

    name: str
    exits: tuple[Exit, ...]
    slot: str = ""
    """Where its text goes; "": it has none, and nothing but white space may stand between its marks."""
    otherwise: str = ""
    """The state that reads on where text stands that has no place here; "": the call is broken."""
    pad: str = ""
    """Stands once on either side of the slot's text and does not belong to it."""
    may_end: bool = False
    """Whether a call is whole if the answer ends here."""
    escaped: bool = False
    """Whether `&quot;` and `&amp;` stand for signs in the slot's text."""
    hidden: bool = False
    """Whether its text is part of the frame, and no reader's even where the answer ends in it."""


@dataclass(frozen=True)
class Thought:
    """The marks around a thought. `end` is what the family writes from a thought's end to the answer's beginning."""

    open: str
    close: str
    end: str


@dataclass(frozen=True)
class Grammar:
    """All states by name. `start`: where an answer begins, and where it goes on after a thought."""

    name: str
    states: tuple[State, ...]
    start: str = CONTENT
    thought: Thought | None = None
    framed: bool = False
    """Whether every part of an answer stands in a frame of its own, so that marks are there with and without tools."""
    silent: bool = False
    """Whether the marks are control tokens, which no reader sees: a broken call comes back without them."""
    arguments: tuple[str, ...] = ("arguments",)
    """What a call that is a JSON object calls its arguments; several where members of the family differ."""
    listed: bool = False
    """Whether calls that are JSON objects stand in one list."""
    sign: str = ""
    """A control token that stands before the tags of a call: a broken one comes back without it."""

    @property
    def marks(self) -> frozenset[str]:
        """All marks, those of thoughts too."""
        return frozenset(exit.mark for state in self.states for exit in state.exits)

    def thinking(self, thought: Thought) -> Grammar:
        """The grammar with marks of thoughts around what it says."""

        def with_marks(state: State) -> State:
            # A lone closing mark is that of a thought which the prompt had opened.
            own = (Exit(thought.open, REASONING), Exit(thought.close, self.start))
            if state.name in (CONTENT, self.start):
                return replace(state, exits=state.exits + own)
            return state

        inside = State(REASONING, (Exit(thought.close, self.start),), slot=REASONING)
        states = tuple(with_marks(state) for state in self.states if state.name != REASONING)
        return replace(self, states=(*states, inside), thought=thought)

    def wrapped(self, opening: str, closing: str) -> Grammar:
        """The grammar of a family that puts what it says in a tag, which is then no part of it."""
        own = (Exit(opening, CONTENT), Exit(closing, CONTENT))
        return replace(
            self,
            states=tuple(
                replace(state, exits=state.exits + own) if state.name == CONTENT else state for state in self.states
            ),
        )

    def guided(self) -> Grammar:
        """The grammar of an answer without calls that a guide shapes: once something is said, no mark is one."""

        def said(state: State) -> State:
            return State(CONTENT, (), slot=CONTENT) if state.name == CONTENT else state

        states = tuple(said(state) for state in self.states)
        if self.start != CONTENT:
            return replace(self, states=states)
        before = tuple(exit for state in self.states if state.name == CONTENT for exit in state.exits)
        start = State(_START, tuple(exit for exit in before if exit.to in (CONTENT, REASONING)), otherwise=CONTENT)
        thoughts = State(REASONING, (Exit(self.thought.close, _START),), slot=REASONING) if self.thought else None
        others = tuple(state for state in states if state.name != REASONING)
        return replace(self, states=(start, *others, *([thoughts] if thoughts else [])), start=_START)

    def begin(self, prompt: str) -> str:
        """The state that an answer to `prompt`, as the template wrote it, begins in."""
        if self.thought and prompt.rstrip().endswith(self.thought.open):
            return REASONING
        return self.start

    def of_tools(self, names: Sequence[str]) -> tuple[State, ...]:
        """The states for a caller with tools of these names."""

        def exits(state: State) -> tuple[Exit, ...]:
            found = []
            for exit in state.exits:
                if exit.opens and not names and not self.framed:
                    continue
                if TOOL not in exit.mark:
                    found.append(exit)
                else:
                    found += [
                        replace(exit, mark=exit.mark.replace(TOOL, name), sets=(*exit.sets, ("name", name)))
                        for name in names
                    ]
            return tuple(found)

        return tuple(replace(state, exits=exits(state)) for state in self.states)
