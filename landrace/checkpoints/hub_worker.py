"""The helper process that talks to the model hub; run as a script, never imported by the package.

A process of its own because the hub client downloads in threads that cannot be stopped: ending the process
ends the download at once. It stops by itself when its standard input closes, that is, when its parent dies.

    hub_worker.py list ORG/NAME
    hub_worker.py download ORG/NAME COMMIT FOLDER FILE...

The last line of standard output is a JSON object: the result, or {"error": KIND, "detail": TEXT} where KIND is
"no_client", "not_found", "gated", "refused" or "unreachable".
"""

from __future__ import annotations

import glob
import json
import os
import sys
import threading
from typing import Any

_TIMEOUT_SECONDS = 20.0
_CHUNK = 1 << 20


def list_files(repo: str) -> dict[str, Any]:
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, files_metadata=True, timeout=_TIMEOUT_SECONDS)
    files = [
        {"path": file.rfilename, "size": file.size, "sha256": file.lfs.sha256 if file.lfs else None}
        for file in info.siblings or []
    ]
    licences = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    return {"commit": info.sha, "licence": licences[0] if licences else None, "files": files}


def download(repo: str, commit: str, folder: str, *files: str) -> dict[str, Any]:
    from huggingface_hub import constants, snapshot_download

    # Bytes reach the disk, where progress is measured, a chunk at a time; the client's own is 10 MiB.
    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK
    patterns = [glob.escape(file) for file in files]
    snapshot_download(repo, revision=commit, local_dir=folder, allow_patterns=patterns)
    return {}


def describe(error: Exception) -> dict[str, str]:
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    lines = str(error).strip().splitlines()
    detail = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if isinstance(error, GatedRepoError):
        return {"error": "gated", "detail": detail}
    if isinstance(error, RepositoryNotFoundError):
        return {"error": "not_found", "detail": detail}
    if isinstance(error, HfHubHTTPError):
        # Mirrors answer with the bare status, without the hub's own error code.
        absent = error.response.status_code in (401, 404) and not isinstance(error, EntryNotFoundError)
        return {"error": "not_found" if absent else "refused", "detail": detail}
    return {"error": "unreachable", "detail": detail}


def end_with_parent() -> None:
    while os.read(0, 1):
        continue
    os._exit(1)


def main(arguments: list[str]) -> int:
    threading.Thread(target=end_with_parent, daemon=True).start()
    action, *rest = arguments
    try:
        result = list_files(*rest) if action == "list" else download(*rest)
    except ImportError as error:
        result = {"error": "no_client", "detail": str(error)}
    except Exception as error:  # noqa: BLE001 - the parent reports every kind; the transport's classes vary by version
        result = describe(error)
    print(json.dumps(result), flush=True)
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
