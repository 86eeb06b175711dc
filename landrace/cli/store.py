"""`pull`, `list`, `show`, `remove`: the model store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from landrace.checkpoints.store import ModelStore, StoredModel, default_home
from landrace.cli.console import err, human_bytes, print_json, print_table, styled
from landrace.cli.progress import byte_progress
from landrace.safe_text import shown_line

LONGEST_VALUE = 1000
"""Characters of a fact in `show`'s table; --json has all of it."""
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def pull(
    name: Annotated[str, typer.Argument(help="smollm2, a hub name (Qwen/Qwen3-0.6B, org/name:file.gguf), or a path.")],
    json: Json = False,
) -> None:
    """Fetch a model into the store, verified; what is already there is not fetched again."""
    with byte_progress() as progress:
        stored = ModelStore(default_home()).pull(name, progress)
    if json:
        print_json(_facts(stored))
        return
    err.print(styled((stored.name, "green"), f" is ready: {human_bytes(stored.size)} in {stored.path}"))


def _facts(model: StoredModel) -> dict[str, Any]:
    return {**asdict(model), "path": str(model.path)}


def list_models(json: Json = False) -> None:
    """List the models in the store."""
    models = ModelStore(default_home()).list()
    if json:
        print_json([_facts(model) for model in models])
        return
    if not models:
        err.print("The store is empty. Fetch the default model with: landrace pull smollm2")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "format", "size", "source"):
        table.add_column(column, justify="right" if column == "size" else "left")
    for model in models:
        table.add_row(model.name, model.format, human_bytes(model.size), model.source)
    print_table(table)


def show(
    name: Annotated[str, typer.Argument(help="A stored model or a path.")],
    chat: Annotated[
        Path | None, typer.Option("--chat", help="A JSON file of messages: show the prompt and its tokens instead.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what a model is: shape, tokenizer, template, files, licence. Or a conversation as the model reads it."""
    if chat is not None:
        from landrace.cli.shown_prompt import show_prompt

        show_prompt(name, chat, as_json=json)
        return
    from landrace.cli.describe import describe_model

    facts = describe_model(name)
    if json:
        print_json(facts)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for key, value in facts.items():
        table.add_row(key, shown_line(str(value), LONGEST_VALUE))
    print_table(table)


def remove(
    name: Annotated[str, typer.Argument(help="A stored model.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a model from the store."""
    store = ModelStore(default_home())
    size = store.show(name).model.size
    if not yes:
        typer.confirm(f"Delete {shown_line(name)} ({human_bytes(size)})?", abort=True)
    store.remove(name)
    err.print(f"Removed {name}; {human_bytes(size)} freed.")
