"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from landrace.embedding.opening import Opening
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
GuidedOption = Annotated[bool, typer.Option("--guided", help="Hold answers to the task's labels, options or schema.")]
ShotsOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="Training rows, drawn by --seed, to show with their answers before every question; compare shows "
        "none to adapters.",
    ),
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
CacheDtypeOption = Annotated[
    str, typer.Option(help="How keys and values are kept: auto, float32, float16, bfloat16, int8 or int4.")
]
ContextOverflowOption = Annotated[
    str,
    typer.Option(help="What is too long for the model: error, or shift, which goes on without the oldest part."),
]
ContextKeepOption = Annotated[
    int, typer.Option(help="First tokens that a shift keeps, such as those of a system message.")
]
ReadingAdapterOption = Annotated[Path | None, typer.Option("--adapter", help="A LoRA adapter folder in peft's format.")]
TruncateOption = Annotated[
    bool, typer.Option("--truncate", help="Cut texts that are too long, which are errors otherwise.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
READING_ADAPTER = "adapter"
"""What a model that only reads calls its adapter."""


def opened_to_read(
    adapter: Path | None, weights: str, kernels: str, threads: int | None, max_length: int | None
) -> Opening:
    """How a model is opened that only reads."""
    return {
        "adapters": {READING_ADAPTER: adapter} if adapter else {},
        "weights": weights,
        "kernels": kernels,
        "threads": threads,
        "options": opened_for(max_length),
    }


def opened_for(max_length: int | None, **more: Any) -> EngineOptions:
    """The usual engine, with a cache that one sequence of `max_length` fits into, and with what else is set."""
    from landrace.engine.options import EngineOptions

    usual = EngineOptions()
    blocks = -(-max(max_length or 0, usual.cache_tokens) // usual.block_size)
    return EngineOptions(max_length=max_length, cache_tokens=blocks * usual.block_size, **more)
