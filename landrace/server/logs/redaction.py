"""The operator's own function from text to text, which what is logged or kept has to pass first."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from landrace.errors import LandraceError, OptionError
from landrace.ledger.conversations import Exchange, Feedback

_FORM = "--redact wants FILE.py:FUNCTION or module:function"
_MODULE = "landrace_redaction"
"""What the operator's file is called, so that it takes no other module's name."""
_STRUCTURE = ("role", "type", "id", "tool_call_id")
"""Fields of messages that say nothing of their own."""


class RedactionError(LandraceError):
    """A text could not be redacted. It says nothing of the text."""


class Redactor:
    """Its methods run the operator's code: never on the event loop."""

    def __init__(self, function: Callable[[str], str]) -> None:
        self._function = function

    @classmethod
    def load(cls, place: str) -> Redactor:
        """`FILE.py:FUNCTION` or `module:function`. Raises OptionError for what cannot be loaded, or does not return
        text for an empty one."""
        source, _, name = place.rpartition(":")
        if not source or not name.isidentifier():
            raise OptionError(f"{_FORM}, not {place!r}.")
        try:
            module = _from_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
        except Exception as error:  # whatever the operator's file does
            raise OptionError(f"--redact: {source} cannot be loaded: {type(error).__name__}: {error}.") from error
        function = getattr(module, name, None)
        if not callable(function):
            raise OptionError(f"--redact: {source} has no function {name}.")
        made = cls(function)
        try:
            made("")
        except RedactionError as error:
            raise OptionError(f"--redact: {name} was tried with an empty text. {error.message}") from error
        return made

    def __call__(self, text: str) -> str:
        """Raises RedactionError where the function raises, or returns something else than text."""
        try:
            redacted = self._function(text)
        except Exception as error:  # noqa: BLE001  its message may quote the text
            raise RedactionError(f"The redaction function raised {type(error).__name__}.") from None
        if not isinstance(redacted, str):
            raise RedactionError(f"The redaction function returned {type(redacted).__name__}, not str.")
        return redacted

    def exchange(self, exchange: Exchange) -> Exchange:
        """The conversation with every text of its messages and its answer redacted. Raises RedactionError."""
        messages = [self._message(message) for message in exchange.messages]
        return replace(exchange, messages=messages, answer=self._message(exchange.answer))

    def feedback(self, feedback: Feedback) -> Feedback:
        """What somebody wrote, redacted. Raises RedactionError."""
        correction, comment = (None if one is None else self(one) for one in (feedback.correction, feedback.comment))
        return replace(feedback, correction=correction, comment=comment)

    def _message(self, value: Mapping[str, Any], kept: Sequence[str] = _STRUCTURE) -> dict[str, Any]:
        return {name: one if name in kept else self._value(name, one) for name, one in value.items()}

    def _value(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            # A call that no longer names its function is of no use.
            return self._message(value, (*_STRUCTURE, "name") if name == "function" else _STRUCTURE)
        if isinstance(value, Sequence):
            return [self._value(name, one) for one in value]
        return value


def _from_file(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(_MODULE, file)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module
