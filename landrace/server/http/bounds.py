"""`Bounds`: how much of the server one client can hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """Of connections and what is slow on them; times are seconds."""

    connections: int = 1000
    """Most at once; further ones are turned away."""
    head_seconds: float = 15.0
    """From the first byte of a request, or the opening of a connection, to the end of the request's headers."""
    body_seconds: float = 30.0
    """For a body, and as long again for each 512 KiB that came."""
    idle_seconds: float = 75.0
    """How long a connection is kept for the next request; longer than the 60 s that proxies keep theirs."""
    send_seconds: float = 60.0
    """How long a client may take nothing of what is sent to it."""

    @property
    def body_bytes_per_second(self) -> float:
        """The least rate of a body that is longer than `body_seconds` on its way."""
        return 2**19 / self.body_seconds
