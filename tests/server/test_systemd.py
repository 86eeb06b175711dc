"""What a service manager is told, over a real socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from patience import SECONDS

from landrace.server.systemd import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A socket, and its address as systemd writes it."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@landrace-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        listener.settimeout(SECONDS)
        yield listener, address


def told(listener: socket.socket) -> dict[str, str]:
    """The assignments of the next datagram."""
    return dict(line.split("=", 1) for line in listener.recv(65536).decode().splitlines())


def until(listener: socket.socket, name: str) -> dict[str, str]:
    """The next datagram that says something of `name`."""
    while name not in (found := told(listener)):
        pass
    return found


@pytest.mark.parametrize("listening", ["path"], indirect=True)
def test_a_server_tells_its_service_manager(
    listening: Any, start_server: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, address = listening
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    server = start_server(str(tiny_model))
    assert told(listener) == {"READY": "1"}
    assert server.get("/health").status_code == 200
    assert until(listener, "STATUS")["STATUS"] == f"Serving {tiny_model}; 0 unfinished requests."
    for _ in range(3):
        assert until(listener, "WATCHDOG")["WATCHDOG"] == "1"
    (engine,) = server.engine_pids()
    os.kill(engine, signal.SIGKILL)
    while "exit code -9" not in until(listener, "STATUS")["STATUS"]:
        pass
    while "Serving" not in until(listener, "STATUS")["STATUS"]:
        pass
    server.process.terminate()
    assert until(listener, "STOPPING")["STOPPING"] == "1"
    assert server.process.wait(SECONDS) == 0


@pytest.mark.parametrize("watched", [{}, {"WATCHDOG_USEC": "60000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}])
def test_a_watchdog_of_nobody_or_another_process_is_not_fed(listening: Any, watched: dict[str, str]) -> None:
    listener, address = listening
    environment = {"NOTIFY_SOCKET": address, **watched, "HOME": "/"}

    async def serve() -> None:
        registry: Any = SimpleNamespace(engines=[])
        async with ServiceManager(environment).told(registry, lambda: False):
            await asyncio.sleep(0.2)

    asyncio.run(serve())
    assert environment == {"HOME": "/"}
    listener.setblocking(False)
    said = []
    try:
        while True:
            said.append(told(listener))
    except BlockingIOError:
        pass
    assert said[0] == {"READY": "1"} and said[-1]["STOPPING"] == "1"
    assert not any("WATCHDOG" in one for one in said)


@pytest.mark.parametrize("address", ["", "/nowhere/notify"])
def test_nobody_who_listens_is_no_reason_not_to_serve(address: str) -> None:
    async def serve() -> bool:
        registry: Any = SimpleNamespace(engines=[])
        async with ServiceManager({"NOTIFY_SOCKET": address}).told(registry, lambda: False):
            await asyncio.sleep(0)
            return True

    assert asyncio.run(serve())
