"""Several real models in one server within a memory budget, and adapters while it serves."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import SECONDS, wait_until

from landrace.server.engines.describing import main_memory, usual_share
from landrace.server.engines.estimate import description
from landrace.server.engines.messages import EngineSettings

ROOM = "2.5"
"""In units of what one tiny model is expected to take: room for two."""
LONG = {"max_tokens": 100_000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three models that differ in name alone, and one that does not open."""
    home = tmp_path_factory.mktemp("three")
    for name in ("a", "b", "c", "broken"):
        shutil.copytree(tiny_model, home / name)
    weights = next((home / "broken").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-64])
    return [str(home / name) for name in ("a", "b", "c", "broken")]


@pytest.fixture(scope="module")
def room(models: list[str]) -> int:
    return int(description(EngineSettings(models[0])).n_bytes * float(ROOM))


@pytest.fixture(scope="module")
def adapters(tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator's folder: a good adapter, and one that is cut off."""
    folder = tmp_path_factory.mktemp("allowed")
    for name in ("tuned", "other", "broken"):
        shutil.copytree(tiny_adapter, folder / name)
    file = folder / "broken" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])
    return folder


@pytest.fixture(scope="module")
def house(start_server: Any, models: list[str], room: int, adapters: Path) -> Any:
    arguments = ["--memory", str(room), "--on-demand", models[1], "--on-demand", models[2]]
    arguments += ["--cache-tokens", "131072", "--alias", f"gpt-4o-mini={models[0]}", "--adapter-folder", str(adapters)]
    return start_server(models[0], *arguments, patience=2 * SECONDS)


def state(server: Any) -> dict[str, str]:
    """By the last part of a name."""
    listed = server.get("/v1/models").json()["data"]
    return {model["id"].rpartition("/")[2]: model["state"] for model in listed if model["parent"] is None}


def answer(server: Any, model: str) -> str:
    reply = server.post("/v1/completions", {"model": model, "prompt": "abc", "max_tokens": 8, "temperature": 0})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


def test_models_are_listed_closed_ones_too(house: Any, models: list[str], room: int) -> None:
    listed = {model["id"]: model for model in house.get("/v1/models").json()["data"]}
    assert list(listed) == [*models[:3], "gpt-4o-mini"]
    assert listed["gpt-4o-mini"]["alias_of"] == models[0]
    first, second = listed[models[0]], listed[models[1]]
    assert first["state"] == "open" and 0 < first["memory_bytes"] <= room
    assert (second["state"], second["memory_bytes"], second["error"]) == ("closed", 0, None)
    for model in (first, second):
        assert model["max_model_len"] == 131072
        assert model["capabilities"] == ["completion", "chat", "embedding"]


def test_models_open_when_asked_for_and_the_oldest_goes(house: Any, models: list[str]) -> None:
    a, b, c, _ = models
    with ThreadPoolExecutor() as pool:
        texts = list(pool.map(lambda model: answer(house, model), [b, "gpt-4o-mini", b, b]))
    assert len(set(texts)) == 1
    assert state(house) == {"a": "open", "b": "open", "c": "closed", "gpt-4o-mini": "open"}
    assert len(house.engine_pids()) == 2
    answer(house, a)
    assert answer(house, c) == texts[0]
    assert state(house) == {"a": "open", "b": "closed", "c": "open", "gpt-4o-mini": "open"}
    assert len(house.engine_pids()) == 2


def test_streams_go_on_while_another_model_opens(house: Any, models: list[str]) -> None:
    a, b, c, _ = models
    for model in (a, b):
        answer(house, model)
    body = {"prompt": "abc", **LONG}
    with (
        httpx.Client(timeout=SECONDS) as client,
        ThreadPoolExecutor() as pool,
        client.stream("POST", f"{house.url}/v1/completions", json={**body, "model": a}) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        # b is idle and goes, though a was used before it.
        opened = pool.submit(answer, house, c)
        n_events = 0
        while not opened.done():
            n_events += next(lines).startswith("data: ")
        assert opened.result() and n_events > 3
        assert state(house) | {"gpt-4o-mini": ""} == {"a": "open", "b": "closed", "c": "open", "gpt-4o-mini": ""}
        with client.stream("POST", f"{house.url}/v1/completions", json={**body, "model": c}) as other:
            others = other.iter_lines()  # dropping it would close the stream
            next(others)
            waiting = pool.submit(answer, house, b)
            wait_until(lambda: state(house)["b"] == "opening")
            assert answer(house, a) and len(house.engine_pids()) == 2
            assert not waiting.done()
        waiting.result(SECONDS)
        assert state(house)["c"] == "closed"


def test_an_unknown_model_is_told_the_nearest(house: Any, models: list[str]) -> None:
    reply = house.post("/v1/completions", {"model": "gpt-4o", "prompt": "a"})
    assert reply.status_code == 404
    assert "Did you mean gpt-4o-mini" in reply.json()["error"]["message"]


def test_adapters_while_it_serves(house: Any, models: list[str], ask: Any) -> None:
    a, prompt = models[0], [10, 20, 30]
    tuned, plain = ask(prompt, adapter="tuned").text, ask(prompt).text
    assert tuned != plain

    def said(model: str) -> str:
        body = {"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0}
        reply = house.post("/v1/completions", body)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["choices"][0]["text"])

    added = house.post("/v1/adapters", {"name": "mine", "folder": "tuned", "model": a})
    assert added.status_code == 200 and added.json()["parent"] == a, added.text
    assert (said("mine"), said(a)) == (tuned, plain)
    broken = house.post("/v1/adapters", {"name": "mine", "folder": "broken", "model": a})
    assert broken.status_code == 400 and broken.json()["error"]["param"] == "folder", broken.text
    assert said("mine") == tuned
    # Its model is closed and opened again, with it.
    answer(house, models[1])
    answer(house, models[2])
    assert state(house)["a"] == "closed"
    assert said("mine") == tuned
    # Replaced under a stream that goes on with what it began with.
    body = {"model": "mine", "prompt": "abc", **LONG}
    with (
        httpx.Client(timeout=SECONDS) as client,
        client.stream("POST", f"{house.url}/v1/completions", json=body) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        assert house.post("/v1/adapters", {"name": "mine", "folder": "other", "model": a}).status_code == 200
        assert said("mine") == tuned
        assert [next(lines) for _ in range(8)]
    assert house.http.delete(f"{house.url}/v1/adapters/mine").json()["deleted"] is True
    assert house.post("/v1/completions", {"model": "mine", "prompt": "a"}).status_code == 404


def test_a_model_that_does_not_open_is_told_of(start_server: Any, models: list[str], room: int) -> None:
    """Its header is whole: only opening it shows what is wrong."""
    a, b, _, broken = models
    failed = start_server(a, broken)
    assert failed.process.wait(SECONDS) == 1
    assert any(line.startswith("error:") for line in failed.lines), failed.lines
    for arguments in (("--memory", str(room // 10)), ("--on-demand", b, "--memory", "1MB")):
        small = start_server(a, *arguments)
        assert small.process.wait(SECONDS) == 1
        assert any("needs about" in line and "--memory" in "".join(small.lines) for line in small.lines), small.lines


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LANDRACE_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"


def test_a_server_is_seen_and_stopped(
    start_server: Any, models: list[str], own_home: Path, launch: str, runs: Any
) -> None:
    def landrace(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", launch, *arguments], capture_output=True, text=True, check=False)

    def seen() -> dict[str, list[dict[str, Any]]]:
        """The models of each server, by its address."""
        return {server["url"]: server["models"] for server in json.loads(landrace("ps", "--json").stdout)}

    one = start_server(models[0], "--on-demand", models[1], "--cache-tokens", "131072")
    killed = start_server(models[1])
    assert {one.url, killed.url} and len(seen()) == 2
    with httpx.Client(timeout=SECONDS) as client:
        body = {"model": models[0], "prompt": "abc", **LONG}
        with client.stream("POST", f"{one.url}/v1/completions", json=body) as stream:
            lines = stream.iter_lines()  # dropping it would close the stream
            next(lines)
            wait_until(lambda: [model["running"] for model in seen()[one.url]] == [1, 0])
            first, second = seen()[one.url]
            assert (first["state"], second["state"]) == ("open", "closed")
            assert first["memory_bytes"] > 10**8 and second["memory_bytes"] == 0
            killed.process.send_signal(signal.SIGKILL)
            killed.process.wait()
            assert list(seen()) == [one.url]
            assert one.url in landrace("ps").stdout
            pids = one.engine_pids()
            stopped = landrace("stop", "--now")
            assert stopped.returncode == 0, stopped.stderr
            assert "has stopped" in stopped.stderr
    assert one.process.wait(SECONDS) == 0
    assert not any(runs(pid) for pid in pids)
    assert seen() == {} and list((own_home / "servers").iterdir()) == []


def test_what_the_machine_has() -> None:
    assert 2**27 < main_memory() < 2**50
    assert usual_share(1000) == 900
