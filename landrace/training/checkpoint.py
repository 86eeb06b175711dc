"""Resumable checkpoints of a run: trained weights, optimizer state, and what they belong to.

A run has no live random state: the order of examples is a function of seed and step, and the start of an adapter is
saved with its weights. So weights, AdamW's moments and the step number are all that a run is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from landrace.checkpoints.folder import whole_folder, writing
from landrace.checkpoints.write import save_tensors
from landrace.errors import CheckpointError, OptionError

_VERSION = 1
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_FREE_OPTIONS = ("save_every", "keep_checkpoints")
"""Options that change no weight, so a resumed run may have others."""


@dataclass(frozen=True)
class RunIdentity:
    """What a checkpoint continues: the same of all three give the same weights."""

    options: Mapping[str, Any]
    examples_sha256: str
    base_sha256: str


def save_checkpoint(
    folder: Path,
    step: int,
    identity: RunIdentity,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    *,
    keep: int,
) -> Path:
    """Writes `folder`/step-N as a whole or not at all, then deletes all but the newest `keep`.

    A step already saved stays as it is.
    """
    path = folder / f"step-{step:08d}"
    if path.exists():
        return path
    with whole_folder(path, may_replace=lambda _: False) as made:
        save_tensors(made / "weights.safetensors", {name: p.detach() for name, p in parameters.items()})
        moments = {
            f"{name}.{moment}": optimizer.state[parameter][moment].detach()
            for name, parameter in parameters.items()
            for moment in _MOMENTS
            if parameter in optimizer.state
        }
        save_tensors(made / "optimizer.safetensors", moments)
        state = {"version": _VERSION, "step": step, **asdict(identity)}
        (made / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    # A run has its folder to itself, so what is unfinished there now was left by a save that was killed.
    with writing(folder):
        for old in [*checkpoints(folder)[:-keep], *folder.glob(".step-*.part")]:
            shutil.rmtree(old)
    return path


def newest_checkpoint(folder: Path) -> Path | None:
    found = checkpoints(folder)
    return found[-1] if found else None


def checkpoint_step(path: Path) -> int:
    """The steps that a checkpoint of `checkpoints` has behind it."""
    return int(path.name.removeprefix("step-"))


def load_checkpoint(
    path: Path, identity: RunIdentity, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> int:
    """Puts the weights and optimizer state back in place and returns the steps already done.

    Raises OptionError, naming what differs, when the checkpoint is another run's, and CheckpointError when it is
    damaged; then nothing was changed.
    """
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        step = int(state["step"])
        saved = RunIdentity(dict(state["options"]), str(state["examples_sha256"]), str(state["base_sha256"]))
        weights = load_file(path / "weights.safetensors")
        moments = load_file(path / "optimizer.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"The training checkpoint {path} is damaged: {error}.",
            hint="Delete this folder to resume from the checkpoint before it.",
        ) from error
    _check_identity(path, saved, identity)
    expected = {f"{name}.{moment}" for name in parameters for moment in _MOMENTS}
    if set(weights) != set(parameters) or (step > 0 and set(moments) != expected):
        raise CheckpointError(f"The training checkpoint {path} does not hold this run's tensors.")
    for name, parameter in parameters.items():
        _check_shape(path, name, weights[name], parameter)
        if step > 0:
            _check_shape(path, name, moments[f"{name}.exp_avg"], parameter)
            _check_shape(path, name, moments[f"{name}.exp_avg_sq"], parameter)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
            if step > 0:
                optimizer.state[parameter] = {
                    moment: moments[f"{name}.{moment}"].to("cpu" if moment == "step" else parameter.device)
                    for moment in _MOMENTS
                }
    return step


def _check_identity(path: Path, saved: RunIdentity, wanted: RunIdentity) -> None:
    names = sorted({*saved.options, *wanted.options} - set(_FREE_OPTIONS))
    differences = [
        f"{name} (was {saved.options.get(name)!r}, is {wanted.options.get(name)!r})"
        for name in names
        if saved.options.get(name) != wanted.options.get(name)
    ]
    if saved.examples_sha256 != wanted.examples_sha256:
        differences.append("the training data, tokenizer or chat template (which may write today's date)")
    if saved.base_sha256 != wanted.base_sha256:
        differences.append("the base model or what its products run in")
    if differences:
        raise OptionError(
            f"The run in {path} cannot be resumed, because these differ: {'; '.join(differences)}.",
            hint="Resume with what it was started with, or start a new run in another folder.",
        )


def _check_shape(path: Path, name: str, saved: Tensor, parameter: nn.Parameter) -> None:
    if saved.shape != parameter.shape or saved.dtype != parameter.dtype:
        raise CheckpointError(
            f"The training checkpoint {path} has {name} as {saved.dtype} {list(saved.shape)}, "
            f"not {parameter.dtype} {list(parameter.shape)}."
        )


def checkpoints(folder: Path) -> list[Path]:
    """Those of a run, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir() and path.name[5:].isdigit())
