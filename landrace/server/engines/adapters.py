"""`AdapterTable`: what the adapters of an engine are called, there and by clients, and who still uses an old one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from landrace.errors import LandraceError, OptionError


@dataclass(frozen=True)
class _Version:
    """What a name means from one loading to the next."""

    name: str
    key: str
    """What the engine calls it: never used twice."""
    folder: Path
    fingerprint: str = ""


class AdapterTable:
    """A name that is loaded anew means the new adapter from then on; who began with the old one keeps it, and it is
    retired: taken off once nobody uses it."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._current = {name: _Version(name, name, folder) for name, folder in folders.items()}
        self._loading: dict[str, _Version] = {}
        self._users: Counter[str] = Counter()
        self._retired: set[str] = set()
        self._n_loads = 0
        self._lost: dict[str, LandraceError] = {}

    @property
    def folders(self) -> dict[str, Path]:
        """By the names that clients use."""
        return {name: version.folder for name, version in self._current.items()}

    @property
    def lost(self) -> Mapping[str, LandraceError]:
        """Those that could not be opened again after a restart, and why; by the names that clients use."""
        return self._lost

    def try_again(self) -> None:
        """The next process opens the lost ones as well."""
        self._lost.clear()

    def to_open(self) -> dict[str, Path]:
        """Folders by key, for a process that starts: those that are not lost."""
        return {one.key: one.folder for name, one in self._current.items() if name not in self._lost}

    def opened(self, fingerprints: Mapping[str | None, str], lost: Mapping[str, LandraceError]) -> None:
        """What a process that started has of them, by key."""
        for name, one in self._current.items():
            if one.key in fingerprints:
                self._current[name] = _Version(name, one.key, one.folder, fingerprints[one.key])
        for key, error in lost.items():
            self.lose(key, error)

    def lose(self, key: str, error: LandraceError) -> None:
        self._lost |= {name: error for name, one in self._current.items() if one.key == key}

    def begin(self, name: str, folder: Path) -> str:
        """A key for an adapter that is to be loaded."""
        self._n_loads += 1
        key = f"{name}#{self._n_loads}"
        self._loading[key] = _Version(name, key, folder)
        return key

    def loaded(self, key: str, fingerprint: str) -> str | None:
        """From now on its name means this one. The key of the one to be retired."""
        begun = self._loading.pop(key)
        old = self._current.get(begun.name)
        self._current[begun.name] = _Version(begun.name, key, begun.folder, fingerprint)
        return old.key if self._lost.pop(begun.name, None) is None and old is not None else None

    def failed(self, key: str) -> None:
        self._loading.pop(key, None)

    def remove(self, name: str) -> str | None:
        """From now on there is none of that name. The key of the one to be retired; None: the engine has none. Raises
        OptionError."""
        if name not in self._current:
            raise OptionError(f"There is no adapter called {name!r}.")
        old = self._current.pop(name)
        return old.key if self._lost.pop(name, None) is None else None

    def key(self, name: str) -> str:
        """Raises KeyError."""
        return self._current[name].key

    def fingerprint(self, name: str) -> str:
        """Raises KeyError."""
        return self._current[name].fingerprint

    def use(self, key: str) -> None:
        """One request more uses it."""
        self._users[key] += 1

    def leave(self, key: str) -> bool:
        """One less. Whether it can be taken off now."""
        self._users[key] -= 1
        if self._users[key]:
            return False
        del self._users[key]
        return self._take_retired(key)

    def retire(self, key: str) -> bool:
        """Whether it can be taken off now; else `leave` tells when."""
        self._retired.add(key)
        return not self._users[key] and self._take_retired(key)

    def gone(self) -> set[str]:
        """The process with all of them is gone: none is being loaded there or has to be taken off. The keys of those
        that were being loaded."""
        loading = set(self._loading)
        self._loading.clear()
        self._retired.clear()
        return loading

    def _take_retired(self, key: str) -> bool:
        if key not in self._retired:
            return False
        self._retired.remove(key)
        return True
