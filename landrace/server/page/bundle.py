"""`Bundle`: the built files of the chat page and the operator's, read once and kept in memory."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

BUILT = Path(__file__).with_name("static")
"""Where `make page` puts what it builds of the sources in `web/`."""
_INDEX, _ADMIN = "index.html", "admin.html"
_TYPES = {".js": "text/javascript", ".woff2": "font/woff2", ".txt": "text/plain"}
"""Those that the machine's own table may not know, or know as something else."""


@dataclass(frozen=True)
class PageFile:
    """One file of the page."""

    data: bytes
    media_type: str

    @classmethod
    def read(cls, path: Path) -> PageFile:
        media_type = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return cls(path.read_bytes(), media_type)

    @property
    def is_text(self) -> bool:
        return self.media_type.startswith("text/") or self.media_type == "image/svg+xml"

    @cached_property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.data).hexdigest()[:32]}"'

    @cached_property
    def gzipped(self) -> bytes:
        return gzip.compress(self.data, mtime=0)


@dataclass(frozen=True)
class Bundle:
    """`assets` by the names that the two pages have for them. Each name holds a hash of its file, so that what is under
    it never changes."""

    index: PageFile
    admin: PageFile
    assets: Mapping[str, PageFile]

    @classmethod
    def read(cls) -> Bundle | None:
        """The one that was built; None where none was."""
        if not all((BUILT / page).is_file() for page in (_INDEX, _ADMIN)):
            return None
        assets = {path.name: PageFile.read(path) for path in sorted((BUILT / "assets").iterdir())}
        return cls(PageFile.read(BUILT / _INDEX), PageFile.read(BUILT / _ADMIN), assets)
