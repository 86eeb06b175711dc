"""`LogOptions`: what is logged, and how."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal, get_args

from landrace.errors import OptionError

LogFormat = Literal["text", "json"]


@dataclass(frozen=True)
class LogOptions:
    """Raises OptionError for a form that is none, and for what would be left out."""

    format: LogFormat = "text"
    calls: bool | None = None
    """Whether each call is a line; None: where the server listens on more than loopback, or texts are asked for."""
    addresses: bool = False
    """Whether the line has the client's address."""
    prompts: bool = False
    """Whether it has the texts of prompts and answers."""
    redact: str | None = None
    """FILE.py:FUNCTION or module:function, as in `redaction.py`."""

    def __post_init__(self) -> None:
        if self.format not in get_args(LogFormat):
            raise OptionError(f"--log-format is text or json, not {self.format!r}.")
        if self.calls is False and (self.prompts or self.addresses):
            name = "--log-prompts" if self.prompts else "--log-addresses"
            raise OptionError(f"{name} is part of the lines that --no-log-calls leaves out. Give one of the two.")

    def logs_calls(self, listens_on: str) -> bool:
        """Of a server that listens on this address, in digits."""
        if self.calls is not None:
            return self.calls
        return self.prompts or self.addresses or not ip_address(listens_on).is_loopback
