"""Where a number comes from: the machine, the versions, the commit, the hashes. Never imports torch."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_PACKAGE = "landrace"
_COMMAND_SECONDS = 10


@dataclass(frozen=True)
class Machine:
    cpu: str
    cores: int
    """Cores this process may use."""
    memory_bytes: int | None
    system: str
    python: str
    torch: str | None
    """Version of the installed torch, or None."""


@dataclass(frozen=True)
class Provenance:
    """What a stored number was measured with. A hash is None where there is no such thing (no adapter, no template)."""

    package_version: str
    commit: str | None
    """Git commit of the checkout the package lies in, with `-dirty` if its files differ; None outside of one."""
    machine: Machine
    weights_sha256: str | None = None
    adapter_sha256: str | None = None
    data_sha256: str | None = None
    template_sha256: str | None = None
    seed: int | None = None

    @classmethod
    def here(
        cls,
        *,
        weights_sha256: str | None = None,
        adapter_sha256: str | None = None,
        data_sha256: str | None = None,
        template_sha256: str | None = None,
        seed: int | None = None,
    ) -> Provenance:
        """This machine, this package, these inputs."""
        return cls(
            package_version=package_version(),
            commit=package_commit(),
            machine=describe_machine(),
            weights_sha256=weights_sha256,
            adapter_sha256=adapter_sha256,
            data_sha256=data_sha256,
            template_sha256=template_sha256,
            seed=seed,
        )


def describe_machine() -> Machine:
    return Machine(
        cpu=_cpu_model(),
        cores=_usable_cores(),
        memory_bytes=_memory_bytes(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}".strip(),
        python=platform.python_version(),
        torch=_installed_version("torch"),
    )


def package_version() -> str:
    """Version of the installed package; "unknown" when it runs from a folder that was never installed."""
    return _installed_version(_PACKAGE) or "unknown"


def package_commit(root: Path | None = None) -> str | None:
    """Commit of the checkout whose top folder holds the package, `-dirty` if the package differs from it."""
    # Only the folder right above the package counts: a virtual environment inside some other project's
    # checkout must not lend that project's commit.
    root = root or Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", _PACKAGE)
    if not commit or changes is None:
        return None
    return f"{commit}-dirty" if changes else commit


def _git(root: Path, *arguments: str) -> str | None:
    # GIT_DIR and its kin are set inside hooks and would name another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    # Without --no-optional-locks a status writes the index under the feet of whoever works in the checkout.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return _output(command, environment)


def _output(command: list[str], environment: dict[str, str] | None = None) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_COMMAND_SECONDS, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        # Not Linux: macOS answers through sysctl, everything else through the platform module.
        brand = _output(["sysctl", "-n", "machdep.cpu.brand_string"])
        if brand:
            return brand
    return platform.processor() or platform.machine() or "unknown"


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
