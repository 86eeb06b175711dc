"""The peers by name: what each needs to be installed, what it can open, and how every runner is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from landrace.errors import OptionError

if TYPE_CHECKING:
    from landrace.bench.runner import Runner
    from landrace.checkpoints import Checkpoint

OURS = "landrace"
LLAMA_CPP = "llama.cpp"
TRANSFORMERS = "transformers"


@dataclass(frozen=True)
class _Package:
    module: str
    distribution: str
    install: str


_PACKAGES: Mapping[str, _Package] = {
    LLAMA_CPP: _Package(
        "llama_cpp",
        "llama-cpp-python",
        "pip install llama-cpp-python --no-binary llama-cpp-python compiles it for this processor.",
    ),
    TRANSFORMERS: _Package("transformers", "transformers", "pip install transformers"),
}
PEERS = tuple(_PACKAGES)


@dataclass(frozen=True)
class RunnerChoice:
    """A runner that any process can open."""

    name: str
    model: str
    """What ours opens by name; a peer by path."""
    threads: int
    weights: str = "stored"
    """Ours only, as `kernels`: a peer takes the file as it is, transformers in bfloat16."""
    kernels: str = "auto"

    def open(self) -> Runner:
        """Loads the model."""
        if self.name == OURS:
            from landrace.bench.ours import Ours

            return Ours.open(self.model, weights=self.weights, kernels=self.kernels, threads=self.threads)
        if self.name == LLAMA_CPP:
            from landrace.bench.llama_cpp_peer import LlamaCpp

            return LlamaCpp(Path(self.model), self.threads)
        from landrace.bench.transformers_peer import Transformers

        return Transformers(Path(self.model), self.threads)


def check_peers(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once. OptionError for an unknown peer or one that is not installed."""
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in _PACKAGES:
            raise OptionError(f"--against names {name!r}, which is no peer.", hint=f"It knows {', '.join(PEERS)}.")
        package = _PACKAGES[name]
        if util.find_spec(package.module) is None:
            raise OptionError(
                f"--against names {name}, but {package.distribution} is not installed.", hint=package.install
            )
    return wanted


def peer_version(name: str) -> str:
    """Version of an installed peer's package."""
    return metadata.version(_PACKAGES[name].distribution)


def choose_peer(name: str, checkpoint: Checkpoint, threads: int, scratch: Path) -> RunnerChoice | str:
    """How to open a peer on this checkpoint, or why it is left out. `scratch` takes unpacked weights if need be."""
    if name == LLAMA_CPP:
        if checkpoint.format != "gguf":
            return "it opens .gguf files only, and this model is a folder of safetensors"
        return RunnerChoice(name, str(checkpoint.path), threads)
    from landrace.bench.transformers_peer import as_folder

    return RunnerChoice(name, str(as_folder(checkpoint, scratch)), threads)
