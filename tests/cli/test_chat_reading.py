"""What is typed: several lines, pastes, history and completion, without a terminal."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from landrace.cli.chat.completing import CommandCompleter
from landrace.cli.chat.editing import Pastes
from landrace.cli.chat.history import HistoryFile
from landrace.cli.chat.reading import LineReader, goes_on, with_line


def history(path: Path) -> HistoryFile:
    return HistoryFile(path, str)


def completions(text: str) -> list[str]:
    found = CommandCompleter().get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + one.start_position] + one.text for one in found]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one"], "one"),
        (["one\\", "two"], "one\ntwo"),
        (['"""', "one\\", "two", '"""'], '"""\none\\\ntwo\n"""'),
        (['"""one', 'two"""'], '"""one\ntwo"""'),
        (['"""one"""'], '"""one"""'),
        (["\\", ""], "\n"),
    ],
)
def test_several_lines(lines: list[str], message: str) -> None:
    text, *rest = lines
    for line in rest:
        assert goes_on(text)
        text = with_line(text, line)
    assert (text, goes_on(text)) == (message, False)


def test_lines_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('a\\\nb\r\n"""\nc\n"""\n"""unclosed\n'))
    reader = LineReader()
    assert [reader.read() for _ in range(3)] == ["a\nb", '"""\nc\n"""', '"""unclosed']
    with pytest.raises(EOFError):
        reader.read()


def test_a_long_paste_is_a_word_of_the_line() -> None:
    pastes = Pastes()
    assert pastes.folded("a\r\nb\rc") == "a\nb\nc"
    long, lines = "x" * 1_000_000, "y\n" * 100
    signs = pastes.folded(long), pastes.folded(lines)
    assert signs == ("[paste 1: 1,000,000 characters]", "[paste 2: 101 lines]")
    assert pastes.unfolded(f"See {signs[1]} and {signs[0]}.") == f"See {lines} and {long}."


def test_history_is_kept_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "home" / "history.jsonl"
    first = history(path)
    for text in ("one", "two\nlines", "x" * 100_000, "a\udcff"):
        first.append_string(text)
    assert list(history(path).load_history_strings()) == ["a\udcff", "two\nlines", "one"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    history(path).append_string("three")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_history_is_no_longer_than_its_use(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(str(n)) + "\n" for n in range(3000)))
    assert list(history(path).load_history_strings())[:2] == ["2999", "2998"]
    assert len(path.read_text().splitlines()) == 1000


def test_history_that_cannot_be_kept_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "history.jsonl"):
        kept = history(path)
        kept.append_string("one")
        assert list(kept.load_history_strings()) == []
        assert kept.get_strings() == ["one"]
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(b'"one"\n"tw\n[3]\n\xff\xfe\n"three"')
    assert list(history(broken).load_history_strings()) == ["three", "one"]


def test_tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tools.json").touch()
    os.mkdir("texts")
    (tmp_path / "t\x1b[2J").touch()
    assert completions("/s") == ["/system", "/set", "/schema", "/show", "/save"]
    assert completions("/set top") == ["/set top_p", "/set top_k"]
    assert completions("/set stats o") == ["/set stats on", "/set stats off"]
    assert completions("/think ") == ["/think on", "/think off"]
    assert completions("/tools to") == ["/tools tools.json"]
    assert completions("/load te") == ["/load texts"]
    assert completions("/tools o") == ["/tools off"]
    shown = [one.display_text for one in CommandCompleter().get_completions(Document("/load t"), CompleteEvent())]
    assert shown == ["texts/", "tools.json", "t\\x1b[2J"] or shown == ["t\\x1b[2J", "texts/", "tools.json"]
    for text in ("hello", "//s", "/none x", "/clear x", "/set temperature 0"):
        assert completions(text) == []
