"""`Adapters`: which adapters the requests of an engine may name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from landrace.errors import OptionError
from landrace.models.lora_spec import LoraSpec
from landrace.models.serving import ServingDecoder


@dataclass(frozen=True)
class _Adapter:
    slot: int
    serial: int
    """Never used twice, so that a new adapter in an old slot shares no cache with its predecessor."""


class Adapters:
    """Those of one decoder, by name."""

    def __init__(self, decoder: ServingDecoder) -> None:
        self._decoder = decoder
        self._named: dict[str, _Adapter] = {}
        self._n_added = 0

    def __contains__(self, name: str) -> bool:
        return name in self._named

    @property
    def slots(self) -> Mapping[str, int]:
        """The decoder's number of each."""
        return {name: adapter.slot for name, adapter in self._named.items()}

    def serial(self, name: str | None) -> int | None:
        """What tells its cache from that of every other; None: the model alone."""
        return None if name is None else self._named[name].serial

    def add(self, name: str, spec: LoraSpec, tensors: Mapping[str, Tensor]) -> None:
        """Raises OptionError for a name in use and CheckpointError for tensors that do not fit the decoder."""
        if name in self._named:
            raise OptionError(f"There is already an adapter called {name!r}.")
        self._n_added += 1
        self._named[name] = _Adapter(self._decoder.add_adapter(spec, tensors), self._n_added)

    def remove(self, name: str) -> None:
        self._decoder.remove_adapter(self._named.pop(name).slot)
