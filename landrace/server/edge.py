"""`Edge`: what every call passes before it reaches a route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from landrace.server.access.keys import KeyDesk
from landrace.server.http.bounds import Bounds
from landrace.server.http.host_names import HostRule
from landrace.server.logs.watch import CallWatch


@dataclass(frozen=True)
class Edge:
    """Of an application inside another program, nothing but the bounds."""

    hosts: HostRule = field(default_factory=lambda: HostRule(frozenset(), everything=True))
    keys: KeyDesk | None = None
    """None: no key is asked for."""
    price_per_hour: float = 0.0
    """What an hour of the machine counts for in a key's money."""
    bounds: Bounds = field(default_factory=Bounds)
    watch: CallWatch | None = None
    """What is told of every call; None: nothing is."""
    cors_origins: Sequence[str] = ()
    """Pages of these origins may call the server from a browser; "*" is every page."""
