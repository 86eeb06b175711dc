"""How the command line talks: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

from landrace.errors import LandraceError
from landrace.training.interrupt import TuneInterrupted

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def fail(error: LandraceError) -> None:
    """One sentence and, where there is one, a hint."""
    err.print(f"[bold red]error:[/] {_escape(error.message)}")
    if error.hint:
        err.print(f"[bold]hint:[/] {_escape(error.hint)}")


def note(stop: TuneInterrupted) -> None:
    """An interrupted run says where it was saved and how to go on."""
    err.print(f"\n[bold]stopped:[/] {_escape(stop.message)}")
    err.print(f"[bold]hint:[/] {_escape(stop.hint)}")


def notice(text: str | None) -> None:
    """What a user should know and need not act on."""
    if text:
        err.print(f"[bold]note:[/] {_escape(text)}")


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def print_json(value: Any) -> None:
    """For scripts: one JSON document on stdout."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
