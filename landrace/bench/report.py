"""`BenchReport`: everything a run of the bench found, to JSON and back."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from landrace.bench.pairs import Ratio, pair_ratio
from landrace.bench.peers import OURS
from landrace.errors import DataError

SCHEMA = 1
HIGHER_IS_BETTER = frozenset({"tokens/s"})
"""Units of speeds. In every other one less is better."""


@dataclass(frozen=True)
class Limit:
    """The machine's limit for one figure, in its unit."""

    value: float
    set_by: str
    """bytes or operations."""


@dataclass(frozen=True)
class Result:
    """One line of the table: what every runner's samples were, pair by pair."""

    name: str
    unit: str
    samples: Mapping[str, list[float]]
    """Runner to its figures; the runners of a line have equally many."""
    limit: Limit | None = None
    settings: Mapping[str, float] = field(default_factory=dict)
    """Sizes of the work, such as tokens, streams or steps of a sample, and the read bandwidth that `limit` supposes."""

    @property
    def peers(self) -> list[str]:
        return [name for name in self.samples if name != OURS]

    def median(self, runner: str) -> float:
        return statistics.median(self.samples[runner])

    @property
    def reached(self) -> float | None:
        """Ours as a fraction of the machine's limit; None without one."""
        if self.limit is None:
            return None
        ours = self.median(OURS)
        return ours / self.limit.value if self.unit in HIGHER_IS_BETTER else self.limit.value / ours

    def ratio(self, peer: str) -> Ratio:
        """How many times as good ours is as the peer."""
        return pair_ratio(self.samples[OURS], self.samples[peer], higher_is_better=self.unit in HIGHER_IS_BETTER)

    def as_dict(self) -> dict[str, Any]:
        found = {name: {"median": self.median(name), "samples": list(self.samples[name])} for name in self.samples}
        return {
            "name": self.name,
            "unit": self.unit,
            "settings": dict(self.settings),
            "runners": found,
            "limit": None if self.limit is None else asdict(self.limit),
            "reached": self.reached,
            "ratios": {peer: asdict(self.ratio(peer)) for peer in self.peers},
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        samples = {name: list(found["samples"]) for name, found in value["runners"].items()}
        limit = None if value["limit"] is None else Limit(**value["limit"])
        return cls(value["name"], value["unit"], samples, limit, dict(value["settings"]))


@dataclass(frozen=True)
class LeftOut:
    """What was not measured, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class BenchReport:
    """One run. The dictionaries hold JSON values only."""

    model: str
    started: str
    """UTC, ISO 8601."""
    quick: bool
    pairs: int
    options: Mapping[str, Any]
    provenance: Mapping[str, Any]
    """Version, commit, machine and the weights' SHA-256."""
    versions: Mapping[str, str]
    """Of torch and the peers' packages."""
    limits: Mapping[str, Any]
    """What the machine was measured to do, as `MachineLimits` names it."""
    model_facts: Mapping[str, Any]
    """Format, arithmetic and bytes that the limits of the results follow from."""
    results: tuple[Result, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    serve: Mapping[str, Any] | None = None
    """What driving the server found, where it was asked for."""

    def as_dict(self) -> dict[str, Any]:
        whole = {name: value for name, value in vars(self).items() if name not in ("results", "left_out")}
        whole["warnings"] = list(self.warnings)
        return {
            "schema": SCHEMA,
            **whole,
            "results": [result.as_dict() for result in self.results],
            "left_out": [asdict(item) for item in self.left_out],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """DataError for a report of another schema."""
        if value.get("schema") != SCHEMA:
            raise DataError(f"This is no bench report of schema {SCHEMA}.", hint="Measure again with this version.")
        fields = {name: value[name] for name in cls.__dataclass_fields__}
        fields["results"] = tuple(Result.from_dict(item) for item in value["results"])
        fields["left_out"] = tuple(LeftOut(**item) for item in value["left_out"])
        fields["warnings"] = tuple(value["warnings"])
        return cls(**fields)
