"""The chat on a pseudo-terminal: one process for many things a user does, and for each way it may end."""

from __future__ import annotations

import io
import re
import signal
import sys
from pathlib import Path

import pytest
from chatting import ANSWER, write_caller, write_rambler, write_talker, write_tools
from pseudo_terminal import Terminal
from reciting_model import ENDLESS, THINKING, write_reciting_model

from landrace.cli import pulling
from landrace.cli.console import SafeConsole
from landrace.safe_text import HIDDEN

GREEDY = ("--temperature", "0", "--threads", "1")
STYLES = re.compile(rb"\x1b\[[0-9;]*m")
PASTE = "\x1b[200~%s\x1b[201~"


def opened(model: Path, home: Path, *options: str, **environment: str) -> Terminal:
    chat = Terminal("run", str(model), *GREEDY, *options, home=home, **environment)
    chat.wait_for_prompt()
    return chat


def said(chat: Terminal, line: str, answer: str) -> None:
    """Types a line and waits for what comes of it, and for the next prompt."""
    chat.type(f"{line}\r")
    chat.wait_for(answer)
    chat.wait_for_prompt()


def plain(chat: Terminal) -> str:
    """What was shown, without styles."""
    return STYLES.sub(b"", chat.shown).decode()


def test_a_conversation(tmp_path: Path) -> None:
    chat = opened(write_talker(tmp_path), tmp_path)
    chat.type("Hello\r")
    chat.wait_for("\x1b[1mbold\x1b[0m")  # Markdown
    chat.wait_for("moon")
    chat.wait_for_prompt()
    said(chat, "/hlep", "Did you mean /help?")
    said(chat, "/help", "Alt-Enter")
    said(chat, "/set temperature 1000", "temperature must be a number")
    said(chat, "/set stats on", "")
    said(chat, "first\x1b\rsecond", "tokens of context left")  # Alt-Enter
    said(chat, "one\\\rtwo", "tokens of context left")
    said(chat, PASTE % "three\rfour\r\nfive", "tokens of context left")
    said(chat, PASTE % "/usr\r" + "x" * 10, "There is no command /usr")
    said(chat, "//usr", "tokens of context left")
    said(chat, "dropped\x03", "")
    said(chat, "/sav\t " + str(tmp_path / "chat.json"), "10 messages are saved")
    said(chat, "/load " + str(tmp_path), "is no file")
    said(chat, "/set markdown off", "")
    said(chat, "Hello", ANSWER)
    said(chat, "/clear", "forgotten")
    said(chat, "/load " + str(tmp_path / "chat.json"), "10 messages are loaded")
    chat.type("\x04")
    assert chat.end() == 0
    text = (tmp_path / "chat.json").read_text()
    for message in ("first\\nsecond", "one\\ntwo", "three\\nfour\\nfive", "/usr"):
        assert f'"content": "{message}"' in text
    assert "dropped" not in text
    assert "Traceback" not in plain(chat)
    # The next chat remembers what was typed in this one.
    again = opened(tmp_path / "talker", tmp_path)
    again.type("\x1b[A")
    again.wait_for("chat.json")
    again.type("\x03")
    again.wait_for_prompt()
    again.type("/exit\r")
    assert again.end() == 0


def test_ctrl_c_stops_an_answer_and_keeps_the_chat(tmp_path: Path) -> None:
    chat = opened(write_rambler(tmp_path), tmp_path, "--max-length", "4096")
    chat.type("Hello\r")
    for _ in range(20):
        chat.wait_for("word")
    chat.type("\x03\x03")
    chat.wait_for("What was said so far is kept")
    chat.wait_for_prompt()
    chat.kill(signal.SIGINT)
    chat.wait_for("Ctrl-D or /exit ends the chat")
    chat.wait_for_prompt()
    said(chat, "/show", "messages")
    chat.type("/retry\r")
    chat.wait_for("word word")
    for columns in (30, 7, 120):  # while it comes
        chat.resize(columns)
        chat.wait_for("word")
    chat.kill(signal.SIGINT)
    chat.wait_for("is kept")
    chat.wait_for_prompt()
    said(chat, "/set max_tokens 3", "")
    said(chat, "Again", "reached max_tokens")
    chat.type("Hello\r")
    chat.wait_for("word")
    chat.kill(signal.SIGTERM)
    assert chat.end() == 128 + signal.SIGTERM
    assert "Traceback" not in plain(chat)


def test_calls_of_tools_are_shown_and_asked_for(tmp_path: Path) -> None:
    chat = opened(write_caller(tmp_path), tmp_path)
    said(chat, f"/tools {write_tools(tmp_path)}", "The model may call weather")
    chat.type("How is it?\r")
    chat.wait_for("weather:")
    assert 'call weather(city="Nis")\r\ncall weather(city="Ohrid")\r\n' in plain(chat)
    chat.type("18 degrees\r")
    chat.wait_for("weather:")
    chat.type("dry\r")
    chat.wait_for("Sunny")
    chat.wait_for_prompt()
    for way in ("\r", "\x03", "\x04"):
        chat.type("And there?\r")
        chat.wait_for("weather:")
        chat.type(way)
        chat.wait_for("No result")
        chat.wait_for_prompt()
    said(chat, "/show", "messages")
    chat.type("/bye\r")
    assert chat.end() == 0
    assert re.search(r"messages +5\b", plain(chat))


def test_thoughts_stop_too_and_the_message_is_dropped(tmp_path: Path) -> None:
    chat = opened(write_reciting_model(tmp_path / "model", tmp_path / "extras", ENDLESS, THINKING), tmp_path)
    chat.type("Is it?\r")
    chat.wait_for("\x1b[2m Hm\x1b[0m")
    chat.type("\x03")
    chat.wait_for("the message is not kept")
    chat.wait_for_prompt()
    said(chat, "/think 2", "")
    said(chat, "/retry", "Sure")
    chat.hang_up()
    assert chat.ended() == 128 + signal.SIGHUP


def test_a_megabyte_is_pasted(tmp_path: Path) -> None:
    chat = opened(write_talker(tmp_path), tmp_path)
    chat.type(PASTE % ("lorem ipsum\r" * 90_000))
    chat.wait_for("90,001 lines]")
    chat.type("\r")
    chat.wait_for("maximum context length")
    chat.wait_for_prompt()
    said(chat, "Hello", "moon")
    chat.type("\x04")
    assert chat.end() == 0


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_terminals_that_want_less(environment: dict[str, str], tmp_path: Path) -> None:
    model = write_talker(tmp_path)
    chat = Terminal("run", str(model), *GREEDY, home=tmp_path, **environment)
    chat.wait_for("/help")
    dumb = "TERM" in environment
    chat.type("Hello\n")
    chat.wait_for("moon.")
    chat.wait_for("> ")
    chat.type("\x03")
    chat.wait_for("> " if dumb else "ends the chat")
    chat.type("/exit\n")
    assert chat.end() == 0
    if dumb:
        assert f"{ANSWER}\r\n" in plain(chat)
        assert not HIDDEN.search(plain(chat).replace("\r", ""))
    else:
        assert not re.search(rb"\x1b\[[0-9;]*(3[0-7]|9[0-7])m", chat.shown)


def test_a_model_that_is_not_there_is_offered(tmp_path: Path) -> None:
    terminal = Terminal("run", "smollm2", home=tmp_path)
    terminal.wait_for("smollm2 is not in the store. Pull it (92.9 MB)? [Y/n]")
    terminal.type("n\r")
    assert terminal.end() == 1
    assert "There is no model smollm2 in the store." in plain(terminal)
    assert not list(tmp_path.glob("models/*"))


def test_a_model_that_is_wanted_is_pulled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pulled: list[str] = []
    monkeypatch.setenv("LANDRACE_HOME", str(tmp_path))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(pulling, "err", SafeConsole(force_terminal=True, file=io.StringIO()))
    monkeypatch.setattr("typer.confirm", lambda question, **how: "92.9 MB" in question)
    monkeypatch.setattr(pulling.ModelStore, "pull", lambda self, name, progress: pulled.append(name))
    for name in ("smollm2", "./smollm2", "no-such-model"):
        pulling.offer_pull(name)
    assert pulled == ["smollm2"]
