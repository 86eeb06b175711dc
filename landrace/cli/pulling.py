"""Offers to fetch a model that is asked for and not there."""

from __future__ import annotations

import sys

import typer

from landrace.checkpoints.store import ModelStore, default_home
from landrace.cli.console import err, human_bytes
from landrace.cli.progress import byte_progress, spinner
from landrace.safe_text import shown_line


def offer_pull(name: str) -> None:
    """Where somebody sits at a terminal, asks whether to pull the model, and does. Otherwise, or if the answer is no,
    whoever opens it will say that it is not there. Raises StoreError for a model that cannot be fetched."""
    store = ModelStore(default_home())
    if not (sys.stdin.isatty() and err.is_terminal) or not store.lacks(name):
        return
    with spinner(f"looking for {name}"):
        size = store.download_size(name)
    if typer.confirm(f"{shown_line(name)} is not in the store. Pull it ({human_bytes(size)})?", default=True, err=True):
        with byte_progress() as progress:
            store.pull(name, progress)
