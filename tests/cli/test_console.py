"""Whatever is printed is data: no markup, no control characters, in every encoding."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from landrace.cli import console
from landrace.cli.console import GuardedStream, SafeConsole, print_json, styled

CLI = Path(console.__file__).parent
EVIL = "\x1b[31m[bold]x[/] [/nothing] [link=http://e]y[/link] :smile: \x9b\r\nz\u202e\udcff"
SAFE = r"\x1b[31m[bold]x[/] [/nothing] [link=http://e]y[/link] :smile: \x9b\x0d\x0az\u202e\udcff"


def printed(*objects: object, **how: object) -> str:
    file = io.StringIO()
    SafeConsole(file=file, force_terminal=True, width=200, highlight=False, color_system=None).print(*objects, **how)
    return file.getvalue()


def test_a_string_is_one_line_of_data() -> None:
    assert printed(EVIL) == SAFE + "\n"
    assert printed(styled("in ", (EVIL, "bold"), ".")) == f"in {SAFE}.\n"
    assert printed(Path("a\nb")) == r"a\x0ab" + "\n"


def test_tables_take_data_everywhere() -> None:
    table = Table(title=EVIL, caption=EVIL)
    table.add_column(EVIL, footer=EVIL)
    table.add_row(EVIL)
    text = printed(table)
    assert text.count(SAFE) == 4
    assert not set(text) & set("\x1b\x9b\r\u202e\udcff")


def test_a_renderable_that_was_not_made_safe_is_still_shown_safely() -> None:
    text = printed(Text.from_markup("[link=http://example.org]a\x1b[2J[/link]"))
    assert text == "a\\x1b[2J\n"


def test_standard_error_of_everybody_else_is_guarded() -> None:
    inner = io.StringIO()
    print("Traceback: \x1b[2J", file=GuardedStream(inner))
    assert inner.getvalue() == "Traceback: \\x1b[2J\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252", "cp437", "koi8-r"])
def test_json_is_valid_and_harmless_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    value = {"text": EVIL + "\u00e9\U0001f468\u200d\U0001f469", "loss": float("nan")}
    print_json(value)
    sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert json.loads(text) == {**value, "loss": None}
    assert not set(text) & set("\x1b\x9b\r\u202e")


def calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("file", sorted(CLI.glob("*.py")), ids=lambda file: file.name)
def test_no_verb_goes_round_the_console(file: Path) -> None:
    """Outside of console.py nothing prints by itself, makes a console, or speaks rich's markup; bars have one."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    used = calls(tree)
    assert not used & {"print", "Text.from_markup", "Text.from_ansi", "typer.secho", "Text.append"}
    if file.name != "console.py":
        assert not used & {"Console", "Text", "sys.stderr.write"}
    if file.name != "progress.py":
        assert "Progress" not in used
    echoed = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.echo"]
    assert len(echoed) == (file.name == "main.py")  # the version
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in strings if "[/]" in text or "[bold]" in text]
    written = {call for call in used if call == "sys.stdout.write"}
    assert not written or file.name in ("run.py", "printing.py", "console.py"), "answers and JSON only"
