"""Which names this server answers to. Others are refused: a page of the web can give its own name this machine's
address (DNS rebinding), and then counts in the browser as a page of this server."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from landrace.errors import OptionError
from landrace.server.http.errors import ApiError, refuse

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("", "0.0.0.0", "::")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


@dataclass(frozen=True)
class HostRule:
    """The names, in small letters. An address of digits stands for itself and cannot be rebound."""

    names: frozenset[str]
    domains: tuple[str, ...] = ()
    """`.example.org`: every name that ends so."""
    addresses: bool = False
    """Every address of digits, where the server listens on all that the machine has."""
    everything: bool = False

    @classmethod
    def of(cls, listens_on: str, allowed: Sequence[str]) -> HostRule:
        """Names of loopback, the address it listens on, and those of `allowed`: NAME, *.DOMAIN or * for every name.
        Raises OptionError for what is no name."""
        given = [name.lower() for name in allowed]
        for name in given:
            if not (name == "*" or _is_address(name) or _NAME.fullmatch(name.removeprefix("*."))):
                raise OptionError(
                    f"--allowed-host wants a name such as chat.example.org, *.example.org or *, not {name!r}."
                )
        everywhere = listens_on in _EVERYWHERE
        own = socket.gethostname().lower() if everywhere else listens_on.lower()
        return cls(
            names=frozenset([*_LOOPBACK, own, *(_bare(name) for name in given if not name.startswith("*"))]),
            domains=tuple(name[1:] for name in given if name.startswith("*.")),
            addresses=everywhere,
            everything="*" in given,
        )

    def admits(self, header: str) -> bool:
        """Whether a Host header names this server; its port may be any."""
        if self.everything:
            return True
        host, _, after = header.lower().rpartition("]") if header.startswith("[") else header.lower().partition(":")
        name = host.removeprefix("[").removesuffix(".")
        if after and not after.removeprefix(":").isdigit():
            return False
        return name in self.names or name.endswith(self.domains) or (self.addresses and _is_address(name))


class HostNames:
    """ASGI middleware: a call to another name gets status 421. HTTP/1.0 needs no Host header, and no browser speaks
    it."""

    def __init__(self, app: ASGIApp, rule: HostRule) -> None:
        self._app = app
        self._rule = rule

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            old = not hosts and scope["http_version"] == "1.0"
            if not old and (len(hosts) != 1 or not self._rule.admits(hosts[0].decode("latin-1"))):
                await refuse(_unknown(hosts), scope, receive, send)
                return
        await self._app(scope, receive, send)


def _unknown(hosts: list[bytes]) -> ApiError:
    if len(hosts) != 1:
        return ApiError(400, "A request has one Host header.", code="invalid_host")
    name = hosts[0].decode("latin-1")
    message = f"This server does not answer to the name {name!r}. Its operator can allow it with --allowed-host."
    return ApiError(421, message, code="unknown_host")


def _is_address(name: str) -> bool:
    try:
        ip_address(_bare(name))
    except ValueError:
        return False
    return True


def _bare(name: str) -> str:
    return name.removeprefix("[").removesuffix("]")
