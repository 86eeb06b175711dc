"""`rerank`: documents in the order of what they say to a query."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from landrace.cli.console import err, notice, print_json, print_table
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
from landrace.cli.progress import spinner
from landrace.cli.texts import ColumnOption, FileOption, read_texts

_WIDTH = 100


def rerank(
    model: Annotated[str, typer.Argument(help="A stored model, a folder or a .gguf file.")],
    query: Annotated[str, typer.Argument(help="What is searched for.")],
    documents: Annotated[
        list[str] | None, typer.Argument(help="The documents; - reads them from stdin, one a line.")
    ] = None,
    file: FileOption = None,
    column: ColumnOption = None,
    top: Annotated[int | None, typer.Option(min=1, help="Show only the best so many.")] = None,
    instruction: Annotated[
        str | None, typer.Option(help="What makes a document a good one, in a sentence, for models that take one.")
    ] = None,
    truncate: TruncateOption = False,
    adapter: ReadingAdapterOption = None,
    weights: WeightsOption = "stored",
    kernels: KernelsOption = "auto",
    threads: ThreadsOption = None,
    max_length: MaxLengthOption = None,
    json: JsonOption = False,
) -> None:
    """Put documents in the order of how well they answer a query."""
    asked = read_texts(documents or (), file, column, "documents")
    with spinner(f"opening {model}"):
        from landrace.embedding import open_reranker

        reranker = open_reranker(
            model,
            **opened_to_read(adapter, weights, kernels, threads, max_length),
        )
    notice(reranker.notice)
    with spinner("judging"):
        ranking = reranker.rerank(
            query, asked, instruction=instruction, truncate=truncate, adapter=READING_ADAPTER if adapter else None
        )
    results = ranking.results[:top]
    if json:
        print_json(
            {
                "model": model,
                "scores": ranking.told,
                "tokens": sum(ranking.tokens),
                "truncated": ranking.truncated,
                "results": [{"index": one.index, "score": one.score, "document": one.document} for one in results],
            }
        )
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("score", justify="right")
    table.add_column("document")
    for one in results:
        text = one.document if len(one.document) <= _WIDTH else f"{one.document[: _WIDTH - 3]}..."
        table.add_row(f"{one.score:.4f}", f"{one.index + 1} {text}")
    print_table(table)
    err.print(ranking.told, style="dim", soft_wrap=True)
    if ranking.truncated:
        err.print(f"{ranking.truncated} of {len(asked)} documents were cut; they were too long.", soft_wrap=True)
