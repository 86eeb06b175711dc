"""`embed`: texts to vectors."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from landrace.cli.console import err, notice, out, print_json, styled
from landrace.cli.options import (
    READING_ADAPTER,
    JsonOption,
    KernelsOption,
    MaxLengthOption,
    ReadingAdapterOption,
    ThreadsOption,
    TruncateOption,
    WeightsOption,
    opened_to_read,
)
from landrace.cli.progress import count_progress, spinner
from landrace.cli.texts import ColumnOption, FileOption, read_texts
from landrace.errors import OptionError
from landrace.safe_text import shown_line

if TYPE_CHECKING:
    from landrace.embedding import Embeddings

_FORMS = (".npy", ".jsonl", ".json")
_MOST_COMPARED = 8
"""Texts in a table of how alike they are."""
_SHOWN = 4
"""First numbers of a vector, where there are more texts."""
_WIDTH = 40


def embed(
    model: Annotated[str, typer.Argument(help="A stored model, a folder or a .gguf file.")],
    texts: Annotated[list[str] | None, typer.Argument(help="The texts; - reads them from stdin, one a line.")] = None,
    file: FileOption = None,
    column: ColumnOption = None,
    out_path: Annotated[
        Path | None, typer.Option("--out", help="Write the vectors there: .npy, .jsonl or .json.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="The name of one of the model's prompts, or a text of several words to put before each."),
    ] = None,
    query: Annotated[bool, typer.Option("--query", help="The texts are queries: the same as --prompt query.")] = False,
    instruction: Annotated[
        str | None, typer.Option(help="The texts are queries, and this is what they search for, in a sentence.")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many numbers of each vector, normalised again.")
    ] = None,
    no_normalize: Annotated[bool, typer.Option("--no-normalize", help="Leave each vector its own length.")] = False,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="How rows become one vector, instead of the checkpoint's way: last, mean, cls, max, mean_sqrt_len or "
            "weighted_mean."
        ),
    ] = None,
    truncate: TruncateOption = False,
    batch: Annotated[int, typer.Option(min=1, help="Texts given to the model at once.")] = 64,
    adapter: ReadingAdapterOption = None,
    weights: WeightsOption = "stored",
    kernels: KernelsOption = "auto",
    threads: ThreadsOption = None,
    max_length: MaxLengthOption = None,
    json: JsonOption = False,
) -> None:
    """Turn texts into vectors that are close where the texts mean the same."""
    if out_path is not None and out_path.suffix.lower() not in _FORMS:
        raise OptionError(f"--out is {out_path.name!r}; its name must end in {', '.join(_FORMS)}.")
    if query and (prompt is not None or instruction is not None):
        raise OptionError("--query is a prompt itself.", hint="Leave it out, or --prompt and --instruction.")
    asked = read_texts(texts or (), file, column, "texts")
    with spinner(f"opening {model}"):
        from landrace.embedding import open_embedder

        embedder = open_embedder(
            model,
            pooling=pooling,
            **opened_to_read(adapter, weights, kernels, threads, max_length),
        )
    notice(embedder.notice)
    with count_progress("embedding") as progress:
        found = embedder.embed(
            asked,
            prompt="query" if query else prompt,
            instruction=instruction,
            dimensions=dimensions,
            normalize=False if no_normalize else None,
            truncate=truncate,
            adapter=READING_ADAPTER if adapter else None,
            batch=batch,
            report=progress,
        )
    if out_path is not None:
        _write(out_path, asked, found, model)
    if json:
        print_json(_facts(asked, found, model, vectors=out_path is None))
        return
    if out_path is None:
        out.print(_table(asked, found))
    err.print(found.manner.told, style="dim", soft_wrap=True)
    if found.truncated:
        err.print(f"{found.truncated} of {len(asked)} texts were cut; they were too long.", soft_wrap=True)
    if out_path is not None:
        err.print(styled(f"{len(asked)} vectors are in ", (out_path, "bold"), "."), soft_wrap=True)


def _write(path: Path, texts: list[str], found: Embeddings, model: str) -> None:
    from landrace.checkpoints.folder import whole_file

    with whole_file(path) as part:
        match path.suffix.lower():
            case ".npy":
                import numpy as np

                with open(part, "wb") as stream:
                    np.save(stream, found.vectors, allow_pickle=False)
            case ".jsonl":
                with open(part, "w", encoding="utf-8") as lines:
                    for row in _rows(texts, found):
                        lines.write(json_text.dumps(row, ensure_ascii=False) + "\n")
            case _:
                whole = json_text.dumps(_facts(texts, found, model, vectors=True), ensure_ascii=False)
                part.write_text(whole + "\n", encoding="utf-8")


def _rows(texts: list[str], found: Embeddings) -> list[dict[str, Any]]:
    numbers = ([float(f"{x:.9g}") for x in vector.tolist()] for vector in found.vectors)  # what a float32 holds
    return [
        {"text": text, "tokens": tokens, "cut_tokens": cut, "embedding": vector}
        for text, tokens, cut, vector in zip(texts, found.tokens, found.cut_tokens, numbers, strict=True)
    ]


def _facts(texts: list[str], found: Embeddings, model: str, *, vectors: bool) -> dict[str, Any]:
    manner = found.manner
    return {
        "model": model,
        "dimensions": manner.dimensions,
        "full_dimensions": manner.full_dimensions,
        "pooling": list(manner.pooling.kinds),
        "pooling_from": manner.pooling.reason,
        "normalized": manner.normalized,
        "prompt": manner.prompt.text,
        "tokens": sum(found.tokens),
        "truncated": found.truncated,
        "texts": _rows(texts, found) if vectors else len(texts),
    }


def _table(texts: list[str], found: Embeddings) -> Table:
    """How alike the texts are, where they are few; else how each vector begins."""
    table = Table(box=None, pad_edge=False)
    compared = 1 < len(texts) <= _MOST_COMPARED
    table.add_column("text")
    table.add_column("tokens", justify="right")
    names = [str(number + 1) for number in range(len(texts))] if compared else ["vector"]
    for name in names:
        table.add_column(name, justify="right" if compared else "left")
    alike = _cosines(found)
    for number, (text, tokens) in enumerate(zip(texts, found.tokens, strict=True)):
        if compared:
            cells = [f"{value:.3f}" for value in alike[number]]
        else:
            first = " ".join(f"{value:+.4f}" for value in found.vectors[number][:_SHOWN])
            cells = [f"{first} ..."]
        short = text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
        table.add_row(f"{number + 1} {shown_line(short)}", str(tokens), *cells)
    return table


def _cosines(found: Embeddings) -> Any:
    import numpy as np

    exact = found.vectors[:_MOST_COMPARED].astype(np.float64)
    unit = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T
