"""Adapters over the API, on engines that have no process: what may be named, by whom, and what is told."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_engines import House, make_house
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from landrace.server.access.caller import Caller, note_caller
from landrace.server.app import create_app
from landrace.server.serving import Serving
from landrace.server.usage import UsageLog

Talk = Callable[[httpx.AsyncClient], Awaitable[None]]


def adapter_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


def talk(house: House, parent: Path | None, say: Talk, caller: Caller | None = None) -> None:
    """What `say` has to say to a server on the house's models."""

    async def run() -> None:
        registry = house.registry(memory=1000)
        await registry.start()
        usage_log = UsageLog(None, name="", command="", config={})
        app: ASGIApp = create_app(Serving(registry, usage_log, adapter_folder=parent))

        async def noted(scope: Scope, receive: Receive, send: Send) -> None:
            if caller is not None:
                note_caller(HTTPConnection(scope), caller)
            await app(scope, receive, send)

        transport = httpx.ASGITransport(noted)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await say(client)
        await registry.stop()

    asyncio.run(run())


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return make_house(monkeypatch, base=10)


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """With the adapters first and second, and much that is none."""
    folder = tmp_path / "adapters"
    for name in ("first", "second", ".hidden"):
        adapter_folder(folder, name)
    (folder / "empty").mkdir()
    (folder / "file").write_text("{}")
    outside = adapter_folder(tmp_path, "outside")
    (folder / "link").symlink_to(outside)
    (folder / "up").symlink_to("..")
    (folder / "self").symlink_to(".")
    (folder / "loop").symlink_to("loop")
    (folder / "again").symlink_to("first")
    (folder / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_config.json").write_text("{}")
    return folder


def test_adapters_are_loaded_replaced_and_unloaded(house: House, parent: Path) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        listed = (await client.get("/v1/adapters")).json()
        assert listed["data"] == [] and listed["folders"] == ["again", "first", "second"]
        added = await client.post("/v1/adapters", json={"name": "first"})
        assert added.status_code == 200, added.text
        told = added.json()
        assert (told["id"], told["parent"], told["state"]) == ("first", "base", "open")
        loaded = house.engine("base").adapters
        assert loaded == {"first": parent / "first"}
        body = {"name": "org/support:v2", "folder": "first", "model": "base"}
        assert (await client.post("/v1/adapters", json=body)).status_code == 200
        assert (await client.post("/v1/adapters", json={**body, "folder": "second"})).status_code == 200
        assert loaded == {"first": parent / "first", "org/support:v2": parent / "second"}
        names = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
        assert names == ["base", "first", "org/support:v2"]
        gone = await client.delete("/v1/adapters/org/support:v2")
        assert gone.json() == {"id": "org/support:v2", "object": "model", "deleted": True}
        assert loaded == {"first": parent / "first"}
        assert (await client.delete("/v1/adapters/org/support:v2")).status_code == 404
        assert (await client.delete("/v1/adapters/base")).status_code == 404

    talk(house, parent, say)


HOSTILE = [
    "",
    ".",
    "..",
    "./first",
    "first/",
    "../outside",
    "..\\outside",
    "first/../../outside",
    "/etc",
    "~",
    "$HOME",
    "file:///etc",
    "first\0",
    "\0",
    "%2e%2e",
    "..%2foutside",
    "．．／outside",
    "․․/outside",
    "\u202efirst",
    "First",
    "first\n",
    ".hidden",
    "empty",
    "file",
    "link",
    "up",
    "self",
    "loop",
    "adapter_config.json",
    "x" * 5000,
    "\ud800",
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_nothing_but_the_operator_s_folders_can_be_named(house: House, parent: Path, name: str) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        for path, body in (
            ("/v1/adapters", {"name": "fine", "folder": name}),
            ("/v1/adapters", {"name": name}),
            ("/v1/load_lora_adapter", {"lora_name": "fine", "lora_path": name}),
        ):
            sent = json.dumps(body)
            reply = await client.post(path, content=sent, headers={"Content-Type": "application/json"})
            assert reply.status_code in (400, 404), (reply.status_code, reply.text)
            assert len(reply.text) < 2000
        assert house.engine("base").adapters == {}

    talk(house, parent, say)


@pytest.mark.parametrize("path", [lambda parent: str(parent / "first"), lambda parent: str(parent.parent / "outside")])
def test_absolute_paths_are_no_names(house: House, parent: Path, path: Callable[[Path], str]) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        reply = await client.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": path(parent)})
        assert reply.status_code == 404
        assert house.engine("base").adapters == {}

    talk(house, parent, say)


def test_what_is_wrong_is_said(house: House, parent: Path) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        async def refused(status: int, words: str, **body: Any) -> None:
            reply = await client.post("/v1/adapters", json=body)
            assert reply.status_code == status and words in reply.json()["error"]["message"], reply.text

        await refused(404, "Did you mean first?", name="x", folder="frist")
        await refused(404, "There are: again, first, second", name="x", folder="zzzzzzzz")
        await refused(404, "Did you mean base?", name="first", model="bases")
        await refused(409, "another model's", name="base", folder="first")
        await refused(400, "There is no field 'path'", name="x", path="/etc")
        await refused(400, "is required", folder="first")
        for name in ("a b", "-x", "x\n", "é", "x" * 129, "<script>"):
            await refused(400, "is not a name for an adapter", name=name, folder="first")
        os.unlink(parent / "first" / "adapter_config.json")
        await refused(404, "no adapter folder 'first'", name="first")

    talk(house, parent, say)


def test_vllm_s_names_do_the_same(house: House, parent: Path) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        body: dict[str, Any] = {"lora_name": "own", "lora_path": "first"}
        assert (await client.post("/v1/load_lora_adapter", json=body)).text.startswith("Success")
        assert (await client.post("/v1/load_lora_adapter", json=body)).status_code == 400
        replaced = await client.post(
            "/v1/load_lora_adapter", json={**body, "lora_path": "second", "load_inplace": True}
        )
        assert replaced.status_code == 200
        assert house.engine("base").adapters == {"own": parent / "second"}
        assert (await client.post("/v1/unload_lora_adapter", json={"lora_name": "own"})).text.startswith("Success")
        assert (await client.post("/v1/unload_lora_adapter", json={"lora_name": "own"})).status_code == 404
        assert house.engine("base").adapters == {}

    talk(house, parent, say)


def test_only_admins_may(house: House, parent: Path) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        replies = [
            await client.get("/v1/adapters"),
            await client.post("/v1/adapters", json={"name": "first"}),
            await client.delete("/v1/adapters/first"),
            await client.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "first"}),
            await client.post("/v1/unload_lora_adapter", json={"lora_name": "first"}),
        ]
        assert [reply.status_code for reply in replies] == [403] * 5
        assert house.engine("base").adapters == {}

    talk(house, parent, say, Caller("1", "clerk", is_admin=False))


def test_without_a_folder_none_is_loaded(house: House) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/adapters")).json() == {"object": "list", "data": [], "folders": []}
        reply = await client.post("/v1/adapters", json={"name": "first"})
        assert reply.status_code == 403 and "--adapter-folder" in reply.json()["error"]["message"]

    talk(house, None, say)


def test_a_parent_must_be_named_where_there_are_several(monkeypatch: pytest.MonkeyPatch, parent: Path) -> None:
    house = make_house(monkeypatch, a=10, b=10)

    async def say(client: httpx.AsyncClient) -> None:
        reply = await client.post("/v1/adapters", json={"name": "first"})
        assert reply.status_code == 400 and "a, b" in reply.json()["error"]["message"]
        assert (await client.post("/v1/adapters", json={"name": "first", "model": "b"})).json()["parent"] == "b"

    talk(house, parent, say)
