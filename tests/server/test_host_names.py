"""Which Host headers are this server's."""

from __future__ import annotations

from typing import Any

import pytest

from landrace.errors import OptionError
from landrace.server.http.host_names import HostRule


@pytest.mark.parametrize(
    ("listens_on", "allowed", "header", "admitted"),
    [
        ("127.0.0.1", [], "localhost:8000", True),
        ("127.0.0.1", [], "LocalHost.", True),
        ("127.0.0.1", [], "127.0.0.1", True),
        ("127.0.0.1", [], "[::1]:8000", True),
        ("127.0.0.1", [], "evil.example.org:8000", False),
        ("127.0.0.1", [], "localhost.evil.example.org", False),
        ("127.0.0.1", [], "127.0.0.1.evil.example.org", False),
        ("127.0.0.1", [], "localhost:80@evil.example.org", False),
        ("127.0.0.1", [], "192.168.1.5", False),
        ("127.0.0.1", [], "", False),
        ("127.0.0.1", [], "[::1", False),
        ("127.0.0.1", ["Chat.Example.org"], "chat.example.org:443", True),
        ("127.0.0.1", ["chat.example.org"], "a.chat.example.org", False),
        ("127.0.0.1", ["*.example.org"], "a.b.example.org", True),
        ("127.0.0.1", ["*.example.org"], "example.org", False),
        ("127.0.0.1", ["*.example.org"], "evilexample.org", False),
        ("127.0.0.1", ["*"], "anything", True),
        ("127.0.0.1", ["[2001:db8::1]"], "[2001:db8::1]:80", True),
        ("192.168.1.5", [], "192.168.1.5:8000", True),
        ("192.168.1.5", [], "192.168.1.6", False),
        ("0.0.0.0", [], "192.168.1.6:8000", True),
        ("::", [], "[fe80::1]", True),
        ("0.0.0.0", [], "evil.example.org", False),
    ],
)
def test_admits(listens_on: str, allowed: list[str], header: str, admitted: bool) -> None:
    assert HostRule.of(listens_on, allowed).admits(header) is admitted


@pytest.mark.parametrize("name", ["", "a b", "http://a", "a/b", "a:80", "*.*", "a*", ".a", "*."])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="--allowed-host"):
        HostRule.of("127.0.0.1", [name])


def test_a_page_whose_name_was_rebound_gets_nothing(server: Any) -> None:
    for host in ("evil.example.org", "evil.example.org:8000"):
        for path in ("/health", "/v1/models", "/nosuch"):
            reply = server.http.get(server.url + path, headers={"Host": host})
            assert (reply.status_code, reply.json()["error"]["code"]) == (421, "unknown_host")
            assert "x-request-id" in reply.headers
