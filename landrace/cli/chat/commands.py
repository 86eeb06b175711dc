"""The commands that begin with a slash: what they change, and what they have to say. Nothing is printed here."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from landrace.cli.chat.conversation import Conversation
from landrace.cli.chat.files import checked_tools, read_chat, read_tools, write_chat
from landrace.cli.chat.reading import quoted, unquoted
from landrace.cli.chat.settings import NAMES, Display, shown_settings, with_setting
from landrace.cli.guided import read_guide
from landrace.errors import DataError, RequestError

_COMMAND = re.compile(r"/(?P<name>\S*)\s*(?P<argument>.*)", re.DOTALL)
_LONGEST = 200
"""Characters of a system message or a schema that `/show` shows."""

Told = str | tuple[str, str]
"""A line, or a name and what belongs to it."""


@dataclass(frozen=True)
class Reply:
    """What comes of a command."""

    told: tuple[Told, ...] = ()
    next: Literal["read", "retry", "end"] = "read"


@dataclass(frozen=True)
class State:
    """What commands may change."""

    talk: Conversation
    display: Display


@dataclass(frozen=True)
class Command:
    """`words`: what its argument may be, for completion."""

    usage: str
    help: str
    run: Callable[[State, str], Reply]
    words: tuple[str, ...] = ()
    takes_file: bool = False


def message_in(line: str) -> str | None:
    """The message that a line is; None for a command. Two slashes at its beginning stand for one, and quotes around it
    for nothing."""
    if quoted(line):
        return unquoted(line)
    if line.startswith("//"):
        return line[1:]
    return None if line.startswith("/") else line


def run_command(state: State, line: str) -> Reply:
    """Does what the line says. Raises RequestError or DataError, and has changed nothing then."""
    match = _COMMAND.fullmatch(line.strip())
    assert match is not None
    name, argument = match["name"], match["argument"].strip()
    command = COMMANDS.get(_ALSO.get(name, name))
    if command is None:
        near = difflib.get_close_matches(name, [*COMMANDS, *_ALSO], n=1, cutoff=0.5)
        nearest = f"Did you mean /{near[0]}? " if near else ""
        raise RequestError(
            f"There is no command /{name[:40]}.",
            hint=f"{nearest}/help lists them; // begins a message with a slash.",
        )
    if argument and not command.usage:
        raise RequestError(f"/{name} takes nothing after it, and {argument[:40]!r} stands there.")
    return command.run(state, argument)


def _help(state: State, _: str) -> Reply:
    return Reply(
        (
            *((f"/{name} {command.usage}".rstrip(), command.help) for name, command in COMMANDS.items()),
            "",
            ("Alt-Enter", "begins a new line, as a \\ at the end of one does"),
            ('"""', "around a text of several lines keeps it as it is"),
            ("//", "begins a message with a slash"),
            ("Ctrl-C", "stops an answer, or drops what is typed; Ctrl-D ends the chat"),
        )
    )


def _clear(state: State, _: str) -> Reply:
    state.talk.clear()
    return Reply(("The conversation is forgotten.",))


def _end(state: State, _: str) -> Reply:
    return Reply(next="end")


def _retry(state: State, _: str) -> Reply:
    if not state.talk.asked:
        raise RequestError("There is no message yet that could be answered again.")
    params = state.talk.params
    if params.temperature == 0 or params.seed is not None:
        why = "temperature is 0" if params.temperature == 0 else "a seed is set"
        return Reply((f"The same answer comes again, since {why}.",), next="retry")
    return Reply(next="retry")


def _system(state: State, text: str) -> Reply:
    talk = state.talk
    if not text:
        return Reply((talk.system or "There is no system message.",))
    _refuse_raw(talk, "a system message")
    talk.use_system(None if text == "off" else unquoted(text))
    return Reply(("The system message is gone." if text == "off" else "The system message is set.",))


def _set(state: State, argument: str) -> Reply:
    name, _, value = argument.partition(" ")
    shown = shown_settings(state.talk.params, state.display)
    if not value.strip():
        wanted = [pair for pair in shown if name.replace("-", "_") in ("", pair[0])]
        if not wanted:
            with_setting(state.talk.params, state.display, name, "")  # says which names there are
        return Reply(tuple(wanted))
    state.talk.params = with_setting(state.talk.params, state.display, name, value.strip())
    return Reply()


def _think(state: State, word: str) -> Reply:
    talk = state.talk
    if not word:
        return Reply((("thinking", talk.thinking),))
    _refuse_raw(talk, "thoughts")
    talk.think(word)
    return Reply()


def _tools(state: State, argument: str) -> Reply:
    talk = state.talk
    if not argument:
        return Reply((talk.tool_names or "There are no tools.",))
    _refuse_raw(talk, "tools")
    talk.use_tools([] if argument == "off" else read_tools(_file(argument)))
    return Reply(("There are no tools now." if argument == "off" else f"The model may call {talk.tool_names}.",))


def _schema(state: State, argument: str) -> Reply:
    talk = state.talk
    if not argument:
        return Reply((talk.guide.source if talk.guide is not None else "Answers are free.",))
    if argument == "off":
        talk.use_guide(None)
        return Reply(("Answers are free again.",))
    file = _file(argument)
    try:
        talk.use_guide(read_guide(file, None, None))
    except RequestError as error:
        raise DataError(f"{file} cannot be followed: {error.message}", hint=error.hint) from error
    return Reply(("Answers are JSON of this schema from now on.",))


def _save(state: State, argument: str) -> Reply:
    talk, file = state.talk, _named(argument)
    if not talk.messages:
        raise RequestError("Nothing was said yet that could be saved.")
    write_chat(file, talk.whole, talk.tools, talk.variables)
    return Reply((f"{len(talk.messages)} messages are saved in {file}.",))


def _load(state: State, argument: str) -> Reply:
    talk = state.talk
    _refuse_raw(talk, "a conversation")
    file = _file(argument)
    chat = read_chat(file)
    tools = checked_tools(file, chat.get("tools") or [])
    try:
        talk.begin(chat["messages"], tools, chat.get("chat_template_kwargs", {}))
    except RequestError as error:
        raise DataError(f"{file} cannot be continued: {error.message}", hint=error.hint) from error
    waits = talk.messages and talk.messages[-1]["role"] == "user"
    more = (" The last one has no answer yet: /retry answers it.",) if waits else ()
    return Reply((f"{len(talk.messages)} messages are loaded." + "".join(more),))


def _show(state: State, _: str) -> Reply:
    talk = state.talk
    used = talk.used()
    left = "" if used is None else f"{used:,} tokens used, {max(0, talk.context - used):,} left"
    facts = {
        "model": talk.serving.model.name + (f" with {talk.adapter}" if talk.adapter else ""),
        "kernels": talk.serving.kernels,
        "context": f"{left or 'unknown'} of {talk.context:,}",
        "messages": f"{len(talk.messages)}",
        "system": _cut(talk.system or "none"),
        "tools": talk.tool_names or "none",
        "schema": _cut(talk.guide.source) if talk.guide is not None else "none",
        "thinking": talk.thinking,
    }
    return Reply((*facts.items(), *shown_settings(talk.params, state.display)))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"


def _refuse_raw(talk: Conversation, what: str) -> None:
    if talk.raw:
        raise RequestError(f"--raw writes no template that {what} could be put into.")


def _named(argument: str) -> Path:
    if not argument:
        raise RequestError("The name of a file is missing.")
    return Path(os.path.expanduser(argument))  # leaves ~ and a name that nobody has as it is


def _file(argument: str) -> Path:
    """A regular file: what waits for its writer would keep the chat waiting too."""
    file = _named(argument)
    try:
        there, regular = file.exists(), file.is_file()
    except (OSError, ValueError):
        there = regular = False
    if not regular:
        raise DataError(f"{file} is no file." if there else f"There is no file {file}.")
    return file


COMMANDS: Mapping[str, Command] = {
    "help": Command("", "lists the commands", _help),
    "clear": Command("", "forgets the conversation", _clear),
    "retry": Command("", "answers the last message again", _retry),
    "system": Command("[TEXT|off]", "shows or sets the system message", _system, ("off",)),
    "set": Command("[NAME [VALUE]]", "shows or sets how answers are sampled and shown", _set, NAMES),
    "think": Command(
        "[on|off|N]", "shows or sets whether the model thinks, or for how many tokens", _think, ("on", "off")
    ),
    "tools": Command("[FILE|off]", "declares functions that the model may call", _tools, ("off",), takes_file=True),
    "schema": Command("[FILE|off]", "holds answers to a JSON schema", _schema, ("off",), takes_file=True),
    "show": Command("", "shows model, context, settings", _show),
    "save": Command("FILE", "writes the conversation as JSON", _save, takes_file=True),
    "load": Command("FILE", "goes on from a saved conversation", _load, takes_file=True),
    "exit": Command("", "ends the chat, as Ctrl-D does", _end),
}
_ALSO: Mapping[str, str] = {"bye": "exit", "quit": "exit", "?": "help"}
