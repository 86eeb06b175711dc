"""The page's build: checked by its types, the same each time, and with the licences of what is inside."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

WEB = Path(__file__).resolve().parents[3] / "web"
LIBRARIES = ("marked", "dompurify", "katex", "highlight.js")
MAX_LINES = 450


@pytest.fixture
def tools() -> None:
    if shutil.which("node") is None or not (WEB / "node_modules").exists():
        pytest.skip("needs Node.js and the page's libraries: make page")


def built(folder: Path) -> dict[str, bytes]:
    subprocess.run(["node", "build.mjs", str(folder)], cwd=WEB, check=True, capture_output=True)
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.usefixtures("tools")
def test_two_builds_are_the_same_and_whole(tmp_path: Path) -> None:
    first, second = built(tmp_path / "one"), built(tmp_path / "two")
    assert first == second
    for page, files in (("index.html", 5), ("admin.html", 4)):
        text = first[page].decode()
        assert "%" not in text and "http" not in text
        named = [part.split('"')[0] for part in text.split('"assets/')[1:]]
        assert len(named) == files and all(f"assets/{name}" in first for name in named)
    licences = next(data.decode() for name, data in first.items() if "licences" in name)
    assert all(f"\n{library} " in licences for library in LIBRARIES)


@pytest.mark.usefixtures("tools")
def test_the_types_hold() -> None:
    done = subprocess.run(["npm", "run", "--silent", "check"], cwd=WEB, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_library_is_fixed_by_its_hash_and_comes_from_no_named_place() -> None:
    lock = json.loads((WEB / "package-lock.json").read_text())
    inside = {name: entry for name, entry in lock["packages"].items() if name}
    assert all(entry["integrity"].startswith("sha512-") for entry in inside.values())
    assert not any("resolved" in entry for entry in inside.values())


@pytest.mark.parametrize("file", sorted([*WEB.glob("src/**/*.ts"), *WEB.glob("styles/*.css")]), ids=lambda f: f.name)
def test_a_file_of_the_page_is_short_and_writes_no_markup(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES, "the file asks to be two"
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert sink not in text
