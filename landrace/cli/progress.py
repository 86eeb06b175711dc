"""Progress on stderr: a bar on a terminal, elsewhere a plain line every few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from landrace.cli.console import carries_unicode, err, human_bytes
from landrace.safe_text import shown_line

LINE_SECONDS = 8.0
"""From one plain line to the next, whatever wrote the one before. A timer writes them, so a step that takes minutes is
no silence."""
_written = [time.monotonic()]
"""When the last plain line was written; at first, when the program began."""

_NAME = TextColumn("{task.description}", markup=False)


class CountProgress(Protocol):
    """Call it with the number done, the total, and a word on how it goes."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def byte_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar over bytes: call it with the stage, the bytes done and the total, if known."""
    with _bar(_NAME, BarColumn(), DownloadColumn(), TimeRemainingColumn()) as bar, plain_lines("fetching") as say:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(shown_line(stage), total=total)
            bar.update(tasks[stage], completed=done, total=total)
            say(f"{stage}: {human_bytes(done)}" + (f" of {human_bytes(total)}" if total else ""))

        yield report


@contextmanager
def count_progress(description: str) -> Iterator[CountProgress]:
    """A bar over items."""
    note_column = TextColumn("{task.fields[note]}", markup=False)
    columns = (_NAME, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), note_column)
    with _bar(*columns) as bar, plain_lines(description) as say:
        task = bar.add_task(shown_line(description), total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=shown_line(note))
            say(f"{description}: {done} of {total}" + (f", {note}" if note else ""))

        yield report


@contextmanager
def spinner(description: str) -> Iterator[None]:
    """For work of unknown length."""
    wheel = SpinnerColumn("dots" if carries_unicode(err.file) else "line")
    with _bar(wheel, _NAME, TimeElapsedColumn()) as bar, plain_lines(description):
        bar.add_task(shown_line(description), total=None)
        yield


@contextmanager
def plain_lines(first: str) -> Iterator[Callable[[str], None]]:
    """Where stderr is no terminal, says every `LINE_SECONDS` how it stands: `first`, then what it was last called with,
    and the seconds since the beginning."""
    if err.is_terminal:
        yield lambda text: None
        return
    latest, ended, begun = [first], threading.Event(), time.monotonic()

    def write() -> None:
        while not ended.wait(max(0.0, _written[0] + LINE_SECONDS - time.monotonic())):
            _written[0] = time.monotonic()
            err.print(f"{latest[0]} ({time.monotonic() - begun:.0f} s)", soft_wrap=True)

    def say(text: str) -> None:
        latest[0] = text

    writer = threading.Thread(target=write, name="progress", daemon=True)
    writer.start()
    try:
        yield say
    finally:
        ended.set()
        writer.join()


def _bar(*columns: ProgressColumn) -> Progress:
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
