"""A tiny model for all tests of vectors."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 as Qwen3-Embedding is published: no head, an end token behind every text."""
    pytest.importorskip("transformers")
    from tiny_embedders import write_decoder

    return write_decoder(tmp_path_factory.mktemp("models") / "tiny")
