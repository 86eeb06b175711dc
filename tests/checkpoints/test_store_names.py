"""Names and paths: what is found, what is refused, and what the errors suggest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landrace.checkpoints.hub_source import HubName, parse_hub_name
from landrace.checkpoints.manifest import Manifest, StoredFile, write_manifest
from landrace.checkpoints.store import ModelStore, default_home
from landrace.checkpoints.store_home import StoreHome
from landrace.errors import LandraceError, StoreError

HOSTILE = [
    "../x",
    "/etc",
    "..",
    ".",
    "a/../b",
    "a/..",
    "../../etc/passwd",
    "a//b",
    "a/b/c",
    "a\0b",
    "",
    " ",
    "~",
    "a/b:../c.gguf",
]
HOSTILE += [
    "a/b:/etc/c.gguf",
    "a--b/c",
    "a/b:c",
    "org/" + "x" * 5000,
    "x" * 5000,
    "a\\b",
    "C:\\x",
    "\ud800/x",
    "a/b:./c.gguf",
]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


def put(store: ModelStore, name: str, folder: str) -> Path:
    path = store.home / "models" / folder
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"12345")
    files = (StoredFile("model.safetensors", 5, "00"),)
    write_manifest(path, Manifest(name, "hub:x/y@0", "safetensors", None, "2026-01-01T00:00:00+00:00", files))
    return path


def test_default_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LANDRACE_HOME", str(tmp_path / "x"))
    assert default_home() == tmp_path / "x"
    assert ModelStore().home == tmp_path / "x"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LANDRACE_HOME", "~/y")
    assert default_home() == tmp_path / "y"
    monkeypatch.setenv("LANDRACE_HOME", "")
    assert default_home() == tmp_path / ".cache" / "landrace"


def test_reading_creates_nothing(store: ModelStore) -> None:
    assert store.list() == []
    with pytest.raises(StoreError):
        store.resolve("smollm2")
    assert not store.home.exists()


def test_not_found_lists_what_is_there_and_how_to_get_it(store: ModelStore) -> None:
    put(store, "Qwen/Qwen3-0.6B", "Qwen--Qwen3-0.6B")
    with pytest.raises(StoreError, match=r"no model Qwen/Qwen3-0\.6b-Base") as caught:
        store.resolve("Qwen/Qwen3-0.6b-Base")
    hint = str(caught.value.hint)
    assert "Run `landrace pull Qwen/Qwen3-0.6b-Base`." in hint
    assert "Did you mean Qwen/Qwen3-0.6B?" in hint
    with pytest.raises(StoreError) as caught:
        store.resolve("smolm2")
    assert "Did you mean smollm2?" in str(caught.value.hint)
    assert "has Qwen/Qwen3-0.6B" in str(caught.value.hint)
    with pytest.raises(StoreError) as caught:
        store.resolve("smollm2")
    assert "Run `landrace pull smollm2`." in str(caught.value.hint)


def test_stored_folder_resolves(store: ModelStore) -> None:
    folder = put(store, "org/name", "org--name")
    assert store.resolve("org/name") == folder
    assert [model.name for model in store.list()] == ["org/name"]
    store.remove("org/name")
    assert not folder.exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_by_every_verb(store: ModelStore, name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (store.home / "models").mkdir(parents=True)
    for verb in (store.remove, store.show, store.resolve, store.pull):
        with pytest.raises(StoreError):
            verb(name)
    assert victim.is_dir()
    assert list((store.home / "models").iterdir()) == []


@pytest.mark.parametrize("folder", ["", ".", "..", "a/b", "a\0"])
def test_the_disk_layer_refuses_paths_too(tmp_path: Path, folder: str) -> None:
    disk = StoreHome(tmp_path)
    with pytest.raises(StoreError):
        disk.model_folder(folder)
    with pytest.raises(StoreError):
        disk.partial_folder(folder)


@given(st.text(max_size=40) | st.from_regex(r"[\w.-]+/[\w.-]+(:[\w./-]+\.gguf)?", fullmatch=True))
def test_any_accepted_name_maps_to_its_own_plain_folder(text: str) -> None:
    store = ModelStore(Path("/nowhere/landrace"))
    try:
        folder = store._folder_name(text)
    except LandraceError:
        return
    assert "/" not in folder
    assert folder not in ("", ".", "..")
    if text not in store._builtins:
        repo, _, file = folder.partition("@")
        rebuilt = repo.replace("--", "/") + (":" + file.replace("--", "/") if file else "")
        assert rebuilt == text


def test_hub_names() -> None:
    assert parse_hub_name("Qwen/Qwen3-0.6B") == HubName("Qwen/Qwen3-0.6B")
    assert parse_hub_name("a/b:sub/c.Q4_0.gguf") == HubName("a/b", "sub/c.Q4_0.gguf")
    assert str(HubName("a/b", "c.gguf")) == "a/b:c.gguf"
    for text in ("smollm2", "a/b/c", "a/b:c.bin", "-a/b", "a/b\n"):
        assert parse_hub_name(text) is None


def test_a_gguf_path_is_used_in_place(store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    model = store.pull(str(path))
    assert (model.path, model.source, model.pulled_at, model.size) == (path, "path", None, 24)
    assert store.resolve(path) == store.resolve(str(path)) == path
    monkeypatch.chdir(tmp_path)
    assert store.resolve("my.gguf") == path
    assert store.resolve("./my.gguf") == path
    assert store.show("my.gguf").model.path == path
    assert store.list() == []
    assert not store.home.exists()
    with pytest.raises(StoreError):
        store.remove(str(path))
    assert path.exists()


def test_a_folder_is_used_in_place_unless_a_stored_model_has_its_name(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"no \*\.safetensors"):
        store.resolve("org/name")
    (folder / "model.safetensors").write_bytes(b"123")
    with pytest.raises(StoreError, match=r"no config\.json"):
        store.pull("org/name")
    (folder / "config.json").write_text("{}")
    assert store.resolve("org/name") == folder
    assert store.pull("org/name").format == "safetensors"
    stored = put(store, "org/name", "org--name")
    assert store.resolve("org/name") == stored
    assert store.resolve("./org/name") == store.resolve(Path("org/name")) == folder


def test_bad_paths(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "not.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(StoreError, match="not a GGUF file"):
        store.resolve(tmp_path / "not.gguf")
    with pytest.raises(StoreError, match="no file or folder"):
        store.resolve(str(tmp_path / "absent.gguf"))
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(StoreError, match="not a model") as caught:
        store.resolve(tmp_path)
    assert str(tmp_path / "some.gguf") in str(caught.value.hint) or "not.gguf" in str(caught.value.hint)


def test_importing_the_store_is_light() -> None:
    script = "import sys; import landrace.checkpoints.store; print([m for m in HEAVY if m in sys.modules])"
    script = script.replace("HEAVY", "('torch', 'huggingface_hub', 'numpy', 'httpx', 'httpx2')")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"
