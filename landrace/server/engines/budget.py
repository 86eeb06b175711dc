"""`MemoryBudget`: whom the memory for models is promised to, and who gives it back first."""

from __future__ import annotations

from collections.abc import Collection


class MemoryBudget:
    """Bytes by the name of a model, never more than `total` together. Names are in the order of their last use."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._held: dict[str, int] = {}

    @property
    def free(self) -> int:
        return self.total - sum(self._held.values())

    def held_by(self, name: str) -> int:
        """0 for a model that holds nothing."""
        return self._held.get(name, 0)

    def take(self, name: str, n_bytes: int) -> bool:
        """Promises bytes to a model, instead of what it holds now; False, and nothing is changed, where they are not
        free."""
        if n_bytes - self.held_by(name) > self.free:
            return False
        self._held.pop(name, None)
        self._held[name] = n_bytes
        return True

    def give_back(self, name: str) -> None:
        """All that a model holds."""
        self._held.pop(name, None)

    def use(self, name: str) -> None:
        """The model was used just now."""
        if name in self._held:
            self._held[name] = self._held.pop(name)

    def to_unload(self, n_bytes: int, idle: Collection[str]) -> str | None:
        """Which of the models that are `idle` should go next, so that so many bytes become free: the one that was used
        longest ago. None where they are free already, and where they would not be with all of them gone."""
        unused = [name for name in self._held if name in idle]
        if self.free >= n_bytes or self.free + sum(self._held[name] for name in unused) < n_bytes:
            return None
        return unused[0]
