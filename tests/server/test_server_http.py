"""What is around the answers: methods, headers of every reply, pages of other origins, the fingerprint."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fake_engines import registry_of

from landrace.cli.serve import checked_origin
from landrace.errors import OptionError
from landrace.server import serving as serving_module
from landrace.server.app import create_app
from landrace.server.edge import Edge
from landrace.server.serving import Serving
from landrace.server.usage import UsageLog

CHAT = "/v1/chat/completions"
MESSAGES: Any = [{"role": "user", "content": "Hello"}]
PAGE = "https://chat.example.org"


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> str:
    return str(tiny_model)


@pytest.fixture(scope="module")
def body(base: str) -> dict[str, Any]:
    return {"model": base, "messages": MESSAGES, "max_tokens": 2, "temperature": 0}


@pytest.fixture(scope="module")
def open_to_a_page(start_server: Any, base: str) -> Any:
    return start_server(base, "--cors-origin", f"{PAGE}/", "--cors-origin", "http://localhost:3000")


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/tuned", "/v1/models/nosuch", "/nosuch", CHAT])
def test_head_is_get_without_a_body(server: Any, path: str) -> None:
    got, head = server.get(path), server.http.head(server.url + path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    names = ("content-type", "content-length", "allow")
    if path != CHAT:  # where neither is allowed the sentence names the method
        assert [head.headers.get(name) for name in names] == [got.headers.get(name) for name in names]


@pytest.mark.parametrize(("path", "methods"), [("/health", {"GET", "HEAD"}), (CHAT, {"POST"})])
def test_options_tells_the_methods(server: Any, path: str, methods: set[str]) -> None:
    reply = server.http.options(server.url + path)
    assert reply.status_code == 204
    assert set(reply.headers["allow"].split(", ")) == {*methods, "OPTIONS"}
    assert server.http.options(f"{server.url}/nosuch").status_code == 404
    assert server.http.delete(server.url + path).status_code == 405


def test_without_the_option_no_page_may_call(server: Any, body: dict[str, Any]) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    for reply in (
        server.http.options(server.url + CHAT, headers=asked),
        server.http.post(server.url + CHAT, json=body, headers={"Origin": PAGE}),
    ):
        assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000"])
def test_a_page_that_is_allowed_may_call(open_to_a_page: Any, body: dict[str, Any], origin: str) -> None:
    http, url = open_to_a_page.http, open_to_a_page.url + CHAT
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    before = http.options(url, headers=asked)
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == origin
    assert "POST" in before.headers["access-control-allow-methods"]
    assert "x-stainless-lang" in before.headers["access-control-allow-headers"]
    for fields in ({}, {"stream": True}, {"temperature": "warm"}, {"model": "nosuch"}):
        reply = http.post(url, json={**body, **fields}, headers={"Origin": origin})
        assert reply.headers["access-control-allow-origin"] == origin, fields
        assert "x-request-id" in reply.headers["access-control-expose-headers"].split(", ")
        assert "x-request-id" in reply.headers


def test_another_page_may_not(open_to_a_page: Any, body: dict[str, Any]) -> None:
    http, url = open_to_a_page.http, open_to_a_page.url + CHAT
    for origin in ("https://evil.example.org", f"{PAGE}.evil.org", "http://localhost:3001", "null"):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        assert http.options(url, headers=asked).status_code == 400
        reply = http.post(url, json=body, headers={"Origin": origin})
        assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("*", "*"),
        ("https://example.org", "https://example.org"),
        ("https://Example.org:443/", "https://example.org"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_an_origin_is_written_as_browsers_do(given: str, origin: str) -> None:
    assert checked_origin(given) == origin


@pytest.mark.parametrize(
    "given",
    ["", "example.org", "https://", "https://a/b", "https://a?b", "ftp://a", "http://a:x", "http://u@a", "null"],
)
def test_what_no_browser_sends_is_no_origin(given: str) -> None:
    with pytest.raises(OptionError, match="--cors-origin"):
        checked_origin(given)


def test_every_reply_has_an_id(server: Any, body: dict[str, Any]) -> None:
    replies = [
        server.get("/health"),
        server.get("/nosuch"),
        server.http.options(f"{server.url}/health"),
        server.post(CHAT, body),
        server.post(CHAT, {**body, "stream": True}),
        server.post(CHAT, {**body, "top_p": 7}),
    ]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("req_[0-9a-f]{32}", one) for one in ids)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("trace-1.a:b/c=d+e@f_", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("a b", False),
        ("<script>", False),
        ('a"b', False),
        ("é", False),
        ("a\tb", False),
    ],
)
def test_a_callers_id_is_kept_if_it_is_one(server: Any, given: str, kept: bool) -> None:
    reply = server.http.get(f"{server.url}/health", headers={"X-Request-Id": given.encode("latin-1")})
    assert (reply.headers["x-request-id"] == given) is kept
    assert len(reply.headers.get_list("x-request-id")) == 1


def test_the_client_shows_the_id(server: Any, body: dict[str, Any]) -> None:
    reply = server.client.chat.completions.create(**body, extra_headers={"X-Request-Id": "mine-7"})
    assert reply._request_id == "mine-7"


def test_a_bug_has_the_headers_of_every_reply() -> None:
    def encode(text: str, **_: Any) -> list[int]:
        raise ZeroDivisionError("a secret")

    engine: Any = SimpleNamespace(
        tokenizer=SimpleNamespace(encode=encode),
        settings=SimpleNamespace(model="m"),
        abilities=SimpleNamespace(check_writes=lambda model: None),
        check_alive=lambda: None,
        max_length=9,
        prompt_limit=9,
    )
    usage_log = UsageLog(None, name="m", command="", config={})
    app = create_app(Serving(registry_of("m", engine), usage_log), Edge(cors_origins=["*"]))

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            call = {"model": "m", "prompt": "a"}
            return await client.post("/v1/completions", json=call, headers={"Origin": PAGE, "x-request-id": "r1"})

    reply = asyncio.run(post())
    assert (reply.status_code, reply.json()["error"]["type"]) == (500, "server_error")
    assert (reply.headers["x-request-id"], reply.headers["access-control-allow-origin"]) == ("r1", "*")


def fingerprints(server: Any, model: str) -> set[str]:
    """Of a chat and a completion, whole and streamed."""
    client = server.client
    calls = (
        (client.chat.completions, {"messages": MESSAGES}),
        (client.completions, {"prompt": "Hello"}),
    )
    found = set()
    for api, own in calls:
        found.add(api.create(model=model, max_tokens=2, **own).system_fingerprint)
        for chunk in api.create(model=model, max_tokens=2, stream=True, **own):
            found.add(chunk.system_fingerprint)
    return found


def test_the_fingerprint_tells_models_apart_and_stays(
    server: Any, open_to_a_page: Any, base: str, start_server: Any, tmp_path: Path
) -> None:
    (own,) = fingerprints(server, base)
    assert re.fullmatch("fp_[0-9a-f]{16}", own)
    assert fingerprints(open_to_a_page, base) == {own}, "of another process with other sizes"
    (tuned,) = fingerprints(server, "tuned")
    other = tmp_path / "other"
    shutil.copytree(base, other)
    settings = json.loads((other / "tokenizer_config.json").read_text())
    settings["chat_template"] += " "
    (other / "tokenizer_config.json").write_text(json.dumps(settings))
    changed = tmp_path / "changed"
    shutil.copytree(base, changed)
    (weights,) = changed.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    start = len(data) // 2
    data[start : start + 256] = bytes(256)
    weights.write_bytes(bytes(data))
    several = start_server(str(other), str(changed), base, "--cache-dtype", "int8")
    found = {fingerprint for model in (str(other), str(changed), base) for fingerprint in fingerprints(several, model)}
    assert len({own, tuned, *found}) == 5


def test_no_route_finds_a_model_beside_what_keys_allow() -> None:
    root = Path(serving_module.__file__).parent
    found = [path.name for path in root.rglob("*.py") if "registry.find(" in path.read_text(encoding="utf-8")]
    assert found == ["serving.py"]
