"""`rerank`: documents in the order of what they say to a query."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from landrace.cli.console import err, notice, out, print_json
from landrace.cli.options import KernelsOption, MaxLengthOption, ThreadsOption, WeightsOption, opened_for
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
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut documents that are too long, which are errors otherwise.")
    ] = False,
    adapter: Annotated[Path | None, typer.Option(help="A LoRA adapter folder in peft's format.")] = None,
    weights: WeightsOption = "stored",
    kernels: KernelsOption = "auto",
    threads: ThreadsOption = None,
    max_length: MaxLengthOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Put documents in the order of how well they answer a query."""
    asked = read_texts(documents or (), file, column, "documents")
    with spinner(f"opening {model}"):
        from landrace.embedding import open_reranker

        reranker = open_reranker(
            model,
            adapters={"adapter": adapter} if adapter else {},
            weights=weights,
            kernels=kernels,
            threads=threads,
            options=opened_for(max_length),
        )
    notice(reranker.notice)
    with spinner("judging"):
        ranking = reranker.rerank(
            query, asked, instruction=instruction, truncate=truncate, adapter="adapter" if adapter else None
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
    out.print(table)
    err.print(ranking.told, style="dim", soft_wrap=True)
    if ranking.truncated:
        err.print(f"{ranking.truncated} of {len(asked)} documents were cut; they were too long.", soft_wrap=True)
