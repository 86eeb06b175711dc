"""`EndedCall`: what is known of a call when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from landrace.server.access.caller import Caller
from landrace.server.access.tally import Tally


@dataclass(frozen=True)
class EndedCall:
    method: str
    path: str
    route: str | None
    """The template of its path, such as `/v1/models/{name}`; None where there is no such route."""
    status: int
    error: str | None
    """The code of its error, or its type where it has none."""
    request_id: str | None
    caller: Caller
    tally: Tally
    address: str | None
    """The client's."""
    trace: Mapping[str, str]
    """The headers by which a trace goes on, as they came."""
    arrived: float
    """Seconds since the epoch."""
    seconds: float
    """From then to the end of its reply."""

    @property
    def ended(self) -> float:
        return self.arrived + self.seconds

    @property
    def answering_after(self) -> float:
        """Seconds from its arrival to when it was given to the engine; what choices tell is counted from then."""
        return 0.0 if self.tally.began is None else self.tally.began - self.arrived

    @property
    def first_token_seconds(self) -> float | None:
        """From its arrival."""
        firsts = [one.first_token_seconds for one in self.tally.choices if one.first_token_seconds is not None]
        return self.answering_after + min(firsts) if firsts else None
