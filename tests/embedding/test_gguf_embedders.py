"""Vectors from GGUF files: the end token and the pooling are what the metadata say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_embedders import END, QUERY, TEXTS, vocabulary

from landrace import open_embedder
from landrace.checkpoints import open_checkpoint
from landrace.checkpoints.gguf_file import read_gguf
from landrace.checkpoints.gguf_write import write_gguf
from landrace.errors import UnsupportedError
from landrace.quantize.quantize import quantize

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def write(decoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Write:
    """The tiny decoder as a GGUF file, with these metadata changed; None: left out."""
    folder = tmp_path_factory.mktemp("ggufs")
    first = folder / "first.gguf"
    quantize(str(decoder_folder), "f32", first, threads=1)
    file = read_gguf(first)

    def make(**changes: Any) -> Path:
        metadata = {**file.metadata, **{key.replace("__", "."): value for key, value in changes.items()}}
        kept = {key: value for key, value in metadata.items() if value is not None}
        path = folder / f"{len(list(folder.iterdir()))}.gguf"
        write_gguf(path, kept, {name: (info.raw(), info.dtype) for name, info in file.tensors.items()})
        return path

    return make


def test_the_end_token_comes_along(write: Write, decoder_folder: Path) -> None:
    embedder = open_embedder(str(write()))
    assert embedder.form.tokenizer.conventions.suffix_ids == (vocabulary().token_to_id(END),)
    found = embedder.embed(TEXTS, instruction="Find the cat")
    manner = open_embedder(str(decoder_folder)).embed(TEXTS, instruction="Find the cat")
    assert found.tokens == manner.tokens and np.allclose(found.vectors, manner.vectors, atol=2e-3)
    assert found.manner.prompt.text == QUERY.replace(
        "Given a web search query, retrieve relevant passages that answer the query", "Find the cat"
    )
    without = open_embedder(str(write(tokenizer__ggml__add_eos_token=False)))
    assert without.form.tokenizer.conventions.suffix_ids == ()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1, "mean (the file's qwen3.pooling_type)"),
        (2, "cls (the file's qwen3.pooling_type)"),
        (3, "last (the file's qwen3.pooling_type)"),
        (0, "last (the default for decoders)"),
        (None, "last (the default for decoders)"),
    ],
)
def test_the_pooling_is_the_file_s(value: int | None, said: str, write: Write) -> None:
    assert said in open_embedder(str(write(qwen3__pooling_type=value))).embed(["a"]).manner.told


def test_other_poolings_are_refused(write: Write) -> None:
    with pytest.raises(UnsupportedError, match="ranks documents"):
        open_embedder(str(write(qwen3__pooling_type=4)))
    with pytest.raises(UnsupportedError, match="is 9"):
        open_embedder(str(write(qwen3__pooling_type=9)))


def test_the_file_opens_as_any_other(write: Write) -> None:
    assert open_checkpoint(write(qwen3__pooling_type=3)).format == "gguf"
