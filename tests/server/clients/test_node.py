"""Chats and responses through the `openai` client of Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
INSTALL_SECONDS = 180

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node's npm"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client, from npm."""
    path = tmp_path_factory.mktemp("node")
    (path / "package.json").write_text(json.dumps({"private": True, "type": "module"}))
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "openai"]
    try:
        done = subprocess.run(install, cwd=path, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not answer")
    if done.returncode:
        pytest.skip(f"npm cannot install openai: {done.stderr[-300:]}")
    shutil.copy(HERE / "client.mjs", path)
    return path


def test_the_client_of_node(reciting: Any, folder: Path) -> None:
    command = ["node", "client.mjs", f"{reciting.url}/v1", reciting.calls, json.dumps(reciting.schema)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["chat"] == told["stream"] == ["Let me look.", "Hm So", reciting.arguments]
    assert told["again"] == "tool_calls"
    assert told["response"] == ["Let me look.", ["reasoning", "message", "function_call"], reciting.arguments]
    assert told["events"][0] == "response.created" and told["events"][-1] == "response.completed"
    assert told["colour"] in ("red", "blue")
    assert told["errors"] == ["NotFoundError", "BadRequestError"]
