"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

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
