"""How the page's files are sent. The files are made up, so that these tests need neither npm nor a browser."""

from __future__ import annotations

import gzip
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from landrace.server.http import errors
from landrace.server.page import bundle, routes
from landrace.server.serving import Serving

NOBODY: Serving = types.SimpleNamespace()  # type: ignore[assignment]
INDEX = b"<!doctype html><title>page</title>"
SCRIPT = b"console.log('page');" * 40


@pytest.fixture
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "page" / "static"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_bytes(INDEX)
    (folder / "admin.html").write_bytes(INDEX)
    (folder / "assets" / "app-1A2B.js").write_bytes(SCRIPT)
    (folder / "assets" / "font-3C4D.woff2").write_bytes(b"wOF2")
    (folder.parent / "secret.txt").write_text("secret")
    (folder / "secret.txt").write_text("secret")
    monkeypatch.setattr(bundle, "BUILT", folder)
    return folder


@pytest.fixture
def client(static: Path) -> Iterator[TestClient]:
    yield from _client()


def _client() -> Iterator[TestClient]:
    app = FastAPI(openapi_url=None)
    errors.install(app)
    app.include_router(routes.routes(NOBODY))
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/assets/app-1A2B.js", "/assets/font-3C4D.woff2"])
def test_every_file_comes_under_the_policy(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    directives = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert directives[name] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_index_is_asked_for_each_time_and_what_has_a_hash_never_again(client: TestClient) -> None:
    index, script = client.get("/"), client.get("/assets/app-1A2B.js")
    assert (index.content, script.content) == (INDEX, SCRIPT)
    assert index.headers["cache-control"] == "no-cache"
    assert "immutable" in script.headers["cache-control"]
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert client.get("/assets/font-3C4D.woff2").headers["content-type"] == "font/woff2"


def test_who_has_the_file_is_told_so(client: TestClient) -> None:
    tag = client.get("/").headers["etag"]
    again = client.get("/", headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get("/", headers={"If-None-Match": '"other"'}).status_code == 200


def test_texts_are_compressed_for_those_who_can_read_it(client: TestClient) -> None:
    with client.stream("GET", "/assets/app-1A2B.js", headers={"Accept-Encoding": "gzip"}) as reply:
        assert reply.headers["content-encoding"] == "gzip"
        assert gzip.decompress(b"".join(reply.iter_raw())) == SCRIPT
    plain = client.get("/assets/app-1A2B.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers and plain.content == SCRIPT


def test_head_is_answered_as_get_is(client: TestClient) -> None:
    head = client.head("/", headers={"Accept-Encoding": "identity"})
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(INDEX)))


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../secret.txt", "/assets/%2e%2e/secret.txt", "/assets/..%2fsecret.txt", "/assets/..%2f..%2fsecret.txt",
        "/assets/..%5csecret.txt", "/assets/%2fetc%2fpasswd", "/assets/", "/assets", "/secret.txt",
        "/index.html", "/assets/app-1A2B.js%00", "/assets/.", "/static/index.html",
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder(client: TestClient, path: str) -> None:
    reply = client.get(path)
    assert reply.status_code == 404
    assert "secret" not in reply.text.replace("secret.txt", "")


def test_a_server_without_the_page_says_how_to_build_it(static: Path) -> None:
    (static / "index.html").unlink()
    client = next(_client())
    reply = client.get("/")
    assert reply.status_code == 200 and "make page" in reply.text
    assert "content-security-policy" in reply.headers
    assert client.get("/assets/app-1A2B.js").status_code == 404
