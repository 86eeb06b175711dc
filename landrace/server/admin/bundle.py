"""What belongs into a report of a bug: versions, machine, options, how the server is, its last warnings. No prompt, no
answer and no key is in it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from io import BytesIO
from typing import Any

from landrace.ledger.provenance import describe_machine, package_commit, package_version

_LIBRARIES = ("torch", "numpy", "tokenizers", "fastapi", "starlette", "uvicorn", "pydantic", "SQLAlchemy")


def bundle(options: Mapping[str, Any], overview: Mapping[str, Any], log: str) -> bytes:
    """A zip file. Asks git for the commit: it is for threads."""
    versions = {"landrace": package_version(), "commit": package_commit(), "libraries": dict(map(_version, _LIBRARIES))}
    files = {
        "versions.json": _json(versions),
        "machine.json": _json(asdict(describe_machine())),
        "options.json": _json(options),
        "overview.json": _json(overview),
        "log.txt": log,
    }
    whole = BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"landrace-report/{name}", text)
    return whole.getvalue()


def _version(library: str) -> tuple[str, str | None]:
    try:
        return library, metadata.version(library)
    except metadata.PackageNotFoundError:
        return library, None


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
