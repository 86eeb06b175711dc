"""`ServeOptions`: how a server is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from landrace.engine.options import EngineOptions
from landrace.server.http.bounds import Bounds
from landrace.server.logs.options import LogOptions

_NOT_HOW_IT_ANSWERS = (
    "host", "port", "ledger", "usage_spill", "keep_conversations", "data", "tuning_threads", "step_seconds",
    "drain_seconds",
    "wait_seconds", "adapter_folder",
    "cors_origins", "keys", "allowed_hosts", "bounds", "logs", "tls_cert", "tls_key",
)  # fmt: skip


@dataclass(frozen=True)
class ServeOptions:
    """Resolved once by the command and read by whoever it concerns."""

    models: Sequence[str]
    on_demand: Sequence[str] = ()
    """Of the models, those that are opened when they are first asked for."""
    memory: int | None = None
    """Bytes that all models together may take; None: nine tenths of what the machine has."""
    wait_seconds: float = 120
    """How long a call waits for its model to be opened."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Further names of models and adapters."""
    adapter_folder: Path | None = None
    """Adapters in its subfolders may be loaded by calls; None: none may."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """Name to folder; they belong to the first model."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 finds a free one."""
    weights: str = "stored"
    kernels: str = "auto"
    threads: int | None = None
    """Of each engine; None: all cores."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    max_pending: int = 1024
    """Most unfinished requests of each engine."""
    ledger: str | None = None
    """A file or a database's URL that takes the usage of every request; None: nothing is recorded."""
    usage_spill: Path | None = None
    """Folder for usage that the ledger cannot take at the moment; None: beside the ledger."""
    price_per_hour: float = 0.0
    """Of the machine, for the cost of requests."""
    keep_conversations: bool = False
    """Whether calls may agree that their conversation is kept in the ledger."""
    data: Path | None = None
    """The folder of files, batches and jobs; None: there are none."""
    tuning_threads: int = 1
    """Of the machine's, that a tuning job may use."""
    step_seconds: float = 600.0
    """The longest that one step of an engine may take before its process is replaced."""
    drain_seconds: int = 60
    """How long running requests may take to finish after a signal; what runs then, or at a second signal, is ended
    with an error."""
    cors_origins: Sequence[str] = ()
    """Pages of these origins may call the server from a browser; "*" is every page."""
    keys: str = "auto"
    """When calls need a key: auto, required or none, as in `access/requirement.py`."""
    allowed_hosts: Sequence[str] = ()
    """Names it answers to, besides those of loopback and its own address."""
    bounds: Bounds = field(default_factory=Bounds)
    logs: LogOptions = field(default_factory=LogOptions)
    tls_cert: Path | None = None
    """The certificate's chain, and the key where `tls_key` is None. None: no encryption."""
    tls_key: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """What the ledger keeps of a run: all that decides how it serves."""
        kept = asdict(self)
        for name in _NOT_HOW_IT_ANSWERS:
            del kept[name]
        return {**kept, "adapters": {name: str(folder) for name, folder in self.adapters.items()}}
