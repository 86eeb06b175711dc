"""Options that several verbs share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from landrace.engine.options import EngineOptions

WeightsOption = Annotated[
    str, typer.Option(help="How matrices are held: stored (as in the file), float32, bfloat16, int8 or int4.")
]
KernelsOption = Annotated[
    str, typer.Option(help="auto, cpu (the C++ kernels) or reference (PyTorch, slower, in float32).")
]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", help="Read a column under another name: OLD=NEW, such as question=prompt; repeatable."),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")]
MaxLengthOption = Annotated[
    int | None, typer.Option(help="Longest sequence the model is opened for; default: what it was trained at.")
]
DraftOption = Annotated[
    str | None,
    typer.Option(
        help="Guess tokens, for the same answers sooner: ngram (from what was said before), mtp (by the model's own "
        "layer for further tokens) or a smaller model's name."
    ),
]


def opened_for(max_length: int | None, draft: str | None = None) -> EngineOptions:
    """The usual engine, with a cache that one sequence of `max_length` fits into."""
    from landrace.engine.options import EngineOptions

    usual = EngineOptions()
    if max_length is None or max_length <= usual.cache_tokens:
        return EngineOptions(max_length=max_length, draft=draft)
    blocks = -(-max_length // usual.block_size)
    return EngineOptions(max_length=max_length, cache_tokens=blocks * usual.block_size, draft=draft)
