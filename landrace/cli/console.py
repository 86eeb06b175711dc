"""How the command line talks: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

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


@contextmanager
def byte_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar over bytes: call it with the stage, the bytes done and the total, if known."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


class CountProgress(Protocol):
    """Call it with the number done, the total, and a word on how it goes."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def count_progress(description: str) -> Iterator[CountProgress]:
    """A bar over items."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(description, total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield report


@contextmanager
def spinner(description: str) -> Iterator[None]:
    """For work of unknown length."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        progress.add_task(description, total=None)
        yield
