"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from landrace.errors import CheckpointError


@contextmanager
def whole_folder(folder: Path, may_replace: Callable[[str], bool]) -> Iterator[Path]:
    """Gives an empty folder to write into; it takes the name `folder` only when the block ends without an error.

    An earlier `folder` is replaced when `may_replace` is true of every name in it, otherwise CheckpointError.
    """
    folder = folder.absolute()
    strangers = [entry.name for entry in _entries(folder) if not (entry.is_file() and may_replace(entry.name))]
    if strangers:
        raise CheckpointError(f"{folder} holds other files ({strangers[0]}).", hint="Choose a new or an empty folder.")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            made = work / "new"
            made.mkdir()
            yield made
            for file in made.iterdir():
                flush(file)
            flush(made)
            _swap(made, folder, work / "old")
            flush(folder.parent)
        finally:
            shutil.rmtree(work)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the path of a file to write; it takes the name `path` only when the block ends without an error."""
    path = path.absolute()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            flush(part)
            part.rename(path)
            flush(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says of a full disk or a forbidden place into a CheckpointError that names `path`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written: {error.strerror or error}.",
            hint="Free some space on the disk." if error.errno in (errno.ENOSPC, errno.EDQUOT) else None,
        ) from error


def _entries(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file.", hint="Choose the name of a folder.")
    return sorted(folder.iterdir())


def _swap(made: Path, folder: Path, aside: Path) -> None:
    if folder.exists():
        folder.rename(aside)
    try:
        made.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise


def flush(path: Path) -> None:
    """Bring a file or a folder's list of names to the disk, so that a power cut cannot undo the rename's promise."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
