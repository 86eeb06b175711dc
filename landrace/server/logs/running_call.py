"""The id of the call that is being answered, for what is logged meanwhile."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class RunningCall:
    request_id: str | None
    """None once the call has ended: tasks that it began may outlive it, and what they do then is not its doing."""


_running: ContextVar[RunningCall | None] = ContextVar("landrace_call", default=None)


def note_running_call(request_id: str) -> RunningCall:
    """From now on this task answers this call, and so do those that it begins."""
    running = RunningCall(request_id)
    _running.set(running)
    return running


def current_request_id() -> str | None:
    """None outside of calls."""
    running = _running.get()
    return None if running is None else running.request_id
