"""`quantize`: a model's weights in fewer bits as files, and what that cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from landrace.checkpoints import Checkpoint, open_checkpoint
from landrace.checkpoints.bounded import file_size
from landrace.checkpoints.store import ModelStore, default_home
from landrace.checkpoints.tensor_info import PLAIN
from landrace.engine import EngineOptions
from landrace.errors import DataError, OptionError
from landrace.evaluation.perplexity import Row, Scores, Windows, compare, cut, first_scored, joined, score
from landrace.model import default_device, open_engine, open_tokenizer
from landrace.models.stored import WHOLE
from landrace.quantize.compressed import write_compressed
from landrace.quantize.forms import find_form
from landrace.quantize.gguf import as_written, gguf_model, write_quantised_gguf
from landrace.quantize.importance import importance_of
from landrace.quantize.mixes import Mix
from landrace.text import Tokenizer

WINDOW = 512
"""Tokens that are seen together, where the model takes as many."""
WINDOWS_AT_A_TIME = 16
HELD_OUT = 5
"""One in so many windows of the text for importance, the last ones, are for the figures, if no other text is named."""
FEWEST_TOKENS = 16

Stage = Callable[[str, int, int], None]
"""Called with what is being done, and how much of it is."""


@dataclass(frozen=True)
class Quantised:
    """What was written."""

    path: Path
    form: str
    bytes_before: int
    """Of the weights' files."""
    bytes_after: int
    weights: dict[str, int]
    """How many weights are stored in each type."""
    figures: Row | None
    """The model as it was (`reference`) and as it is written (`served`), each as it is served here; None: no text."""
    notices: tuple[str, ...]


def quantize(
    name: str,
    form: str,
    out: Path,
    *,
    importance: Path | None = None,
    text: Path | None = None,
    threads: int | None = None,
    home: Path | None = None,
    stage: Stage = lambda what, done, total: None,
) -> Quantised:
    """Writes the model `name` to `out` in a form of `forms.FORMS`: a `.gguf` file or a folder, whole or not at all.

    `importance`: a text by which inputs are weighed, in one pass of the reference kernels in float32, a layer in
    memory at a time. `text`: what
    perplexities are measured on, in windows of 512 tokens; None: the last fifth of the other text, which is then not
    weighed by, and nothing without one. Raises OptionError, DataError, StoreError, CheckpointError or UnsupportedError.
    """
    known, target = find_form(form)
    if isinstance(target, Mix) != (out.suffix == ".gguf"):
        what = "a GGUF file, whose name ends in .gguf" if isinstance(target, Mix) else "a folder, not a .gguf file"
        raise OptionError(f"{known} is written as {what}, and --out is {out}.")
    if out.exists():
        raise OptionError(f"{out} exists already.", hint="Choose another path, or remove it first.")
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = open_checkpoint(ModelStore(home or default_home()).resolve(name))
    tokenizer = open_tokenizer(checkpoint)
    window = min(WINDOW, checkpoint.spec.max_length - len(tokenizer.conventions.prefix_ids))
    weighed = _windows(tokenizer, importance, window) if importance is not None else []
    measured = _windows(tokenizer, text, window) if text is not None else []
    if text is None:
        kept = len(weighed) // HELD_OUT
        weighed, measured = weighed[: len(weighed) - kept], weighed[len(weighed) - kept :]
    written = as_written(checkpoint) if isinstance(target, Mix) else checkpoint
    model = gguf_model(written) if isinstance(target, Mix) else None
    notices = []
    if rounded := sorted({tensor.dtype for tensor in checkpoint.tensors_read.values()} - {*PLAIN, *WHOLE}):
        notices.append(
            f"The weights are rounded already ({', '.join(rounded)}). Rounding them again loses more than starting "
            "from the original."
        )
    if model is not None and (beside := written.beside_text):
        notices.append(f"{len(beside)} tensors that text does not need are left out, such as {beside[0].name}.")
    counts: dict[str, Tensor] = {}
    if weighed:
        found = importance_of(
            checkpoint, weighed, lambda done, total: stage("weighing inputs", done, total), default_device()
        )
        counts = found.by_tensor(checkpoint.hub_sources if model is None else model.sources)
        if found.n_unseen:
            notices.append(
                f"No token of the text went to {found.n_unseen} of {found.n_experts} experts: their inputs count "
                "alike. A longer or more varied text reaches more."
            )
    if isinstance(target, Mix):
        assert model is not None
        types = write_quantised_gguf(
            out, model, checkpoint.spec, target, counts, lambda done, total: stage("writing tensors", done, total)
        )
    else:
        types, told = write_compressed(out, checkpoint, target, counts)
        notices += [told] if told is not None else []
    figures = None
    if measured:
        before = _scores(name, "before", measured, threads, home, stage)
        after = _scores(str(out.absolute()), "after", measured, threads, home, stage)
        figures = compare(str(text or importance), before, after)
    return Quantised(out, known, _size(checkpoint), _size(open_checkpoint(out)), types, figures, tuple(notices))


def _windows(tokenizer: Tokenizer, file: Path, window: int) -> Windows:
    """The file's text in windows; one of all of it where it is shorter."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file} could not be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text in UTF-8.", hint="Name a plain text file.") from error
    ids = tokenizer.encode(text, add_bos=False, parse_special=False)
    if len(ids) < FEWEST_TOKENS:
        raise DataError(
            f"{file} has {len(ids)} tokens; at least {FEWEST_TOKENS} are needed.", hint="Name a longer text."
        )
    return cut(tokenizer, ids, min(window, len(ids)))


def _scores(name: str, when: str, windows: Windows, threads: int | None, home: Path | None, stage: Stage) -> Scores:
    """What the model as it is served says of the windows."""
    serving = open_engine(name, threads=threads, options=EngineOptions(prefix_cache=False), home=home)
    start = first_scored(serving.model.tokenizer)
    parts = []
    for at in range(0, len(windows), WINDOWS_AT_A_TIME):
        parts.append(score(serving.engine, windows[at : at + WINDOWS_AT_A_TIME], start))
        stage(f"measuring, {when}", min(at + WINDOWS_AT_A_TIME, len(windows)), len(windows))
    return joined(parts)


def _size(checkpoint: Checkpoint) -> int:
    return sum(file_size(path) for path in {info.path for info in checkpoint.tensor_infos.values()})
