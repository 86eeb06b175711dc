"""The small JSON file beside each stored model: where it came from and what must be there."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from landrace.errors import StoreError

MANIFEST_NAME = "landrace.json"
"""Not manifest.json: some repositories have a file of that name."""
MODULE_FILE = re.compile(r"\d{1,2}_[A-Za-z]\w{0,40}/(config\.json|model\.safetensors)", re.ASCII)
"""The files in folders of their own that come with a model: sentence-transformers' modules, such as a pooling."""
_FORMAT_VERSION = 1
_LARGEST_MANIFEST = 4 << 20
_CHUNK = 1 << 20

ModelFormat = Literal["gguf", "safetensors"]


@dataclass(frozen=True)
class StoredFile:
    path: str
    """Plain file name inside the model's folder, or a `MODULE_FILE`."""
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    name: str
    source: str
    """`pypi:PACKAGE==VERSION` or `hub:ORG/NAME@COMMIT`."""
    format: ModelFormat
    licence: str | None
    pulled_at: str
    """UTC, ISO 8601."""
    files: tuple[StoredFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def model_path(self, folder: Path) -> Path:
        """What a loader opens: the .gguf file, or the folder of a safetensors model."""
        return folder / self.files[0].path if self.format == "gguf" else folder

    def problem(self, folder: Path) -> str | None:
        """What is wrong with the files of `folder`, judged by presence and size, or None."""
        for file in self.files:
            try:
                size = (folder / file.path).stat().st_size
            except OSError:
                return f"{file.path} is missing"
            if size != file.size:
                return f"{file.path} has {size:,} bytes instead of {file.size:,}"
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps({"format_version": _FORMAT_VERSION, **asdict(manifest)}, indent=2, ensure_ascii=False)
    with open(folder / MANIFEST_NAME, "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Raise StoreError if the manifest is absent, unreadable or not one of ours."""
    path = folder / MANIFEST_NAME
    try:
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise ValueError("it is too large")
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} has no {MANIFEST_NAME}.") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as a manifest: {error}.") from error


def hash_file(path: Path, on_bytes: Callable[[int], None]) -> str:
    """SHA-256 of a file, as hexadecimal; `on_bytes` is told the size of each piece read."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
            on_bytes(len(piece))
    return digest.hexdigest()


def _parse(data: dict[str, Any]) -> Manifest:
    if data["format_version"] != _FORMAT_VERSION:
        raise ValueError(f"format_version is {data['format_version']!r}, this version reads {_FORMAT_VERSION}")
    if data["format"] not in ("gguf", "safetensors"):
        raise ValueError(f"format is {data['format']!r}")
    files = tuple(_parse_file(row) for row in data["files"])
    if not files:
        raise ValueError("it lists no files")
    licence = data["licence"]
    return Manifest(
        name=_string(data["name"]),
        source=_string(data["source"]),
        format=data["format"],
        licence=None if licence is None else _string(licence),
        pulled_at=_string(data["pulled_at"]),
        files=files,
    )


def _parse_file(row: dict[str, Any]) -> StoredFile:
    path, size = _string(row["path"]), row["size"]
    plain = path == os.path.basename(path) and path not in ("", ".", "..") and "\0" not in path
    if not plain and not MODULE_FILE.fullmatch(path):
        raise ValueError(f"{path!r} is not a plain file name")
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"{size!r} is not a size")
    return StoredFile(path, size, _string(row["sha256"]))


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    return value
