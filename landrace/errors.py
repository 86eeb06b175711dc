"""The errors a person sees: one sentence that says what is wrong, and a hint that says what to do."""

from __future__ import annotations

_LONGEST_REASON = 300


class LandraceError(Exception):
    """Base of every error raised on purpose. `message` is one sentence; `hint` is the way out of it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckpointError(LandraceError):
    """A model or adapter file is truncated, corrupt, hostile, or does not match its own description."""


class UnsupportedError(LandraceError):
    """The file is well formed, but asks for something this version does not implement."""


class StoreError(LandraceError):
    """A model could not be found, fetched, verified or removed."""


class DataError(LandraceError):
    """A data file or a row of it cannot be used; the message names the file and the line."""


class LedgerUnavailableError(DataError):
    """The ledger cannot be reached or written at the moment; nothing is wrong with what was to be stored in it.

    `reason` says why, without saying where the ledger is.
    """

    def __init__(self, message: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class OptionError(LandraceError):
    """An option has a value that cannot be honoured; the message names the option."""


class RequestError(LandraceError):
    """One request cannot be served. `field` names the offending input; every other request goes on."""

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


class StepError(RequestError):
    """The engine failed at a step that the request was part of; the request itself need not be the reason."""

    @classmethod
    def of(cls, cause: Exception, doing: str) -> StepError:
        """`doing`: what failed, after "The engine could not"."""
        reason = str(cause).strip().partition("\n")[0][:_LONGEST_REASON]
        error = cls(f"The engine could not {doing}: {type(cause).__name__}{': ' if reason else ''}{reason}")
        error.__cause__ = cause
        return error


class DeadlineError(RequestError):
    """The time that a request was given is up, and it has not ended."""


class OutOfMemoryError(StepError):
    """There was no memory for a step that the request was part of: the latest of its requests ends, the others go
    on."""


class PromptTooLongError(RequestError):
    """The prompt leaves no room for an answer: it has more tokens than a sequence may have."""
