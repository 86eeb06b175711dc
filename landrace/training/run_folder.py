"""The folder of a run: whether a run may begin there, and how it is left when nothing came of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from landrace.checkpoints.folder import writing
from landrace.errors import OptionError
from landrace.training.checkpoint import newest_checkpoint

_LOG = "log.jsonl"
_CHECKPOINTS = "checkpoints"


def starting_point(out: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from; changes nothing. OptionError where a run would overwrite another, or cannot be."""
    standing = next(folder for folder in (out, *out.absolute().parents) if folder.exists() or folder.is_symlink())
    if not standing.is_dir():
        raise OptionError(f"{out} cannot be a folder: {standing} is a file.", hint="Choose another folder with --out.")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise OptionError(f"{standing} cannot be written to.", hint="Choose another folder with --out.")
    newest = newest_checkpoint(out / _CHECKPOINTS)
    if resume and newest is None:
        raise OptionError(
            f"{out} has no checkpoint to resume from.", hint="Start a new run in another folder, without resuming."
        )
    if not resume and (newest is not None or (out / _LOG).exists()):
        ways = "Choose another folder, or delete this one."
        raise OptionError(
            f"{out} already holds a training run.",
            hint=ways if newest is None else f"Resume it (--resume). {ways}",
        )
    return newest if resume else None


def free(out: Path) -> None:
    """Removes what a run that came to nothing left, so that another can begin in its place."""
    with writing(out):
        (out / _LOG).unlink(missing_ok=True)
        if (out / _CHECKPOINTS).exists():
            shutil.rmtree(out / _CHECKPOINTS)
        if not any(out.iterdir()):
            out.rmdir()
