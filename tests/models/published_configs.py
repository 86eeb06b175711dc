"""config.json files of published checkpoints and how large their makers say that they are.

`published_configs.json` has one model a line. `kept_in` says where the file was found: a public repository that keeps
a copy. Of each, what says nothing about the text decoder is left out (towers, quantisation, code of the repository);
of ERNIE, GLM-5.3, Hy3, Qwen3.8, Seed-OSS and Step-3 there are only the keys that a test or a study quotes. `total` and
`active` are the makers' figures, from what `counts_from` names. `counted` is exact: every parameter of the text decoder
without the layers that guess further tokens, and without the experts that a token does not go to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNITS = {"M": 1e6, "B": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Figure:
    """A number of parameters as a model card prints it."""

    value: float
    step: float
    """One of its last digit."""

    @property
    def slack(self) -> float:
        """How far the true number may be: makers may count a layer that guesses further tokens, of 45 or more."""
        return max(self.step, 0.0225 * self.value)

    @staticmethod
    def read(text: str) -> Figure:
        decimals = len(text[:-1].partition(".")[2])
        unit = UNITS[text[-1]]
        return Figure(float(text[:-1]) * unit, unit / 10**decimals)


@dataclass(frozen=True)
class Published:
    config: dict[str, Any]
    total: Figure
    active: Figure
    counted: tuple[int, int]


def _read(line: dict[str, Any]) -> Published:
    total, active = line["counted"]
    return Published(line["config"], Figure.read(line["total"]), Figure.read(line["active"]), (total, active))


PUBLISHED = {
    line["name"]: _read(line) for line in json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
}
