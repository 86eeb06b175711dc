"""Writes the models that the bench measures.

    python bench/make_models.py OUT [--only NAME ...] [--smollm2 FILE.gguf] [--tokenizer FILE.gguf|FOLDER] [--check]

* `smollm2`: SmolLM2-135M, re-quantised from the stored Q4_1 file by llama.cpp itself, so that every engine reads the
  same bytes;
* the others: models of published shapes with random weights, the mixtures of experts cut to 4 layers. Each is a
  safetensors folder in bfloat16 and GGUF files, these by llama.cpp's quantiser as well: what a published file of that
  name holds.

`--check` compares each random GGUF file's logits in both engines. Needs llama-cpp-python.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
import vocabularies
from published_shapes import QUANTISED, SHAPES, WHOLE, Shape
from torch import Tensor

from landrace.checkpoints import write_checkpoint
from landrace.checkpoints.gguf_write import write_encoded_gguf
from landrace.checkpoints.store import ModelStore, default_home
from landrace.errors import CheckpointError, LandraceError
from landrace.model import open_model
from landrace.models.batch import ForwardBatch
from landrace.models.declared import Param, declared
from landrace.models.families import read_config
from landrace.models.families.gguf import gguf_sources
from landrace.models.families.weights import Source, total_rows
from landrace.models.spec import ModelSpec

SMOLLM2 = "SmolLM2-135M-Instruct"
DEVIATION = 0.02
"""Of the random weights: what the families' own initialisation uses."""
EMBEDDING_DEVIATION = 1.0
"""Of an embedding that is not the output head too. With 0.02, a token would be little more than the mean of those
before it after the first attention, and a whole sequence would go to the same experts."""
SHARD_BYTES = 2_000_000_000
"""Of a safetensors file: about as much is held in memory."""


@dataclass(frozen=True)
class Agreement:
    """How one GGUF file's logits in llama.cpp and in Landrace's float32 reference compare on the same tokens."""

    relative: float
    """Root mean square of the difference over the standard deviation of the reference's logits: the median of the
    positions. A router's near tie, which another rounding decides otherwise, sets a few positions far apart."""
    same_choice: float
    """Fraction of positions where both find the same token likeliest."""


def random_tensors(spec: ModelSpec) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by canonical name in bfloat16, one at a time, the same in every call: norms around 1, the rest
    around 0."""
    generator = torch.Generator().manual_seed(0)
    embedding = DEVIATION if spec.tie_embeddings else EMBEDDING_DEVIATION
    for param in declared(spec):
        mean, deviation = {"norm": (1.0, 0.1), "table": (0.0, embedding)}.get(param.role, (0.0, DEVIATION))
        yield param.name, torch.empty(param.shape, dtype=torch.bfloat16).normal_(mean, deviation, generator=generator)


def write_random_folder(folder: Path, shape: Shape, tokenizer: Mapping[str, Any]) -> None:
    config = shape.whole_config(tokenizer)
    family = read_config(config)
    with tempfile.TemporaryDirectory() as scratch:
        files = vocabularies.write_files(tokenizer, Path(scratch))
        tensors = random_tensors(family.spec)
        write_checkpoint(folder, config, family.sources, tensors, files, shard_bytes=SHARD_BYTES)


def write_random_gguf(path: Path, shape: Shape, tokenizer: Mapping[str, Any]) -> None:
    """The same weights, in the types and with the axes that llama.cpp's converter gives them."""
    spec = read_config(shape.whole_config(tokenizer)).spec
    sources = gguf_sources(spec, shape.architecture)
    shapes = stored_shapes(declared(spec), sources)
    kinds = {sources[param.name].tensor: stored_kind(param) for param in declared(spec)}
    written = {name: (tuple(n for n in of if n > 1), kinds[name]) for name, of in shapes.items()}
    encoded = (
        (tensor if kinds[name] == WHOLE else tensor.float()).contiguous().view(torch.uint8)
        for name, tensor in assembled(sources, shapes, random_tensors(spec))
    )
    write_encoded_gguf(path, shape.metadata(tokenizer), written, encoded)


def stored_shapes(params: Sequence[Param], sources: Mapping[str, Source]) -> dict[str, tuple[int, ...]]:
    """The shape of each stored tensor, in the order in which `params` complete them."""
    rows = total_rows(sources.values())
    found: dict[str, tuple[int, ...]] = {}
    for param in params:
        source = sources[param.name]
        found.pop(source.tensor, None)
        found[source.tensor] = source.stored_shape(param.shape, rows.get(source.tensor))
    return found


def assembled(
    sources: Mapping[str, Source], shapes: Mapping[str, tuple[int, ...]], named: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """The stored tensors, each as soon as all of its parameters were there."""
    waiting = Counter(source.tensor for source in sources.values())
    begun: dict[str, Tensor] = {}
    for name, parameter in named:
        source = sources[name]
        if source.tensor not in begun:
            dtype = parameter.dtype if source.form == "plain" else torch.float32
            begun[source.tensor] = torch.empty(shapes[source.tensor], dtype=dtype)
        source.put(begun, parameter)
        waiting[source.tensor] -= 1
        if not waiting[source.tensor]:
            yield source.tensor, begun.pop(source.tensor)


def stored_kind(param: Param) -> str:
    """BF16 for what the quantiser may quantise, F32 for what it leaves alone: norms, vectors, biases and routers."""
    roles = ("table", "linear", "experts", "heads", "absorbed")
    quantisable = param.role in roles and param.name.endswith(".weight") and param.shape[0] > 1
    return WHOLE if quantisable else "F32"


def quantise(source: Path, target: Path, kind: str) -> None:
    """llama.cpp's own quantiser; `kind` is Q4_0, Q8_0, Q4_K_M ... CheckpointError with its last words if it fails."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    settings.allow_requantize = True
    said: list[str] = []

    def listen(level: int, text: bytes, user: Any) -> None:
        said.append(text.decode("utf-8", "replace"))

    listener = llama_cpp.llama_log_callback(listen)
    llama_cpp.llama_log_set(listener, ctypes.c_void_p(0))
    part = target.with_suffix(".part")
    failed = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(part), ctypes.byref(settings))
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), ctypes.c_void_p(0))
    if failed:
        part.unlink(missing_ok=True)
        raise CheckpointError(f"llama.cpp did not write {target.name}: {''.join(said)[-1000:].strip()}")
    part.rename(target)


def write_random_models(out: Path, shape: Shape, tokenizer: Mapping[str, Any]) -> list[Path]:
    """The folder and the GGUF files of `shape`; returns these."""
    write_random_folder(out / shape.name, shape, tokenizer)
    whole = out / f"{shape.name}.{WHOLE}.gguf"
    write_random_gguf(whole, shape, tokenizer)
    quantised = quantised_copies(whole, out, shape.name, [kind for kind in shape.kinds if kind != WHOLE])
    if WHOLE in shape.kinds:
        return [whole, *quantised]
    whole.unlink()
    return quantised


def quantised_copies(source: Path, out: Path, name: str, kinds: Sequence[str] = QUANTISED) -> list[Path]:
    targets = [out / f"{name}.{kind}.gguf" for kind in kinds]
    for target, kind in zip(targets, kinds, strict=True):
        quantise(source, target, kind)
    return targets


def agreement(path: Path, ids: Sequence[int]) -> Agreement:
    """Both engines on the same file and tokens. llama.cpp rounds activations to 8 bits before a quantised product."""
    decoder = open_model(str(path), dtype="float32", device=torch.device("cpu")).decoder
    with torch.no_grad():
        ours = decoder(ForwardBatch.packed([list(ids)], device=decoder.device)).float()
    del decoder
    model = llama_cpp.Llama(
        str(path), n_ctx=len(ids) + 8, logits_all=True, verbose=False, type_k=0, type_v=0, n_threads=1
    )
    model.eval(list(ids))
    theirs = torch.from_numpy(np.array(model.scores[: len(ids)], dtype=np.float32))
    return Agreement(
        relative=((ours - theirs).square().mean(-1).sqrt().median() / ours.std()).item(),
        same_choice=(ours.argmax(-1) == theirs.argmax(-1)).float().mean().item(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    names = ("smollm2", *SHAPES)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--smollm2", type=Path, help="SmolLM2 as GGUF; default: the model store's.")
    parser.add_argument("--tokenizer", type=Path, help="GGUF file or folder to take the random model's vocabulary of.")
    parser.add_argument("--check", action="store_true", help="Compare the random GGUF files' logits in both engines.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    try:
        if "smollm2" in arguments.only:
            stored = arguments.smollm2 or ModelStore(default_home()).resolve("smollm2")
            for path in quantised_copies(stored, arguments.out, SMOLLM2):
                print(path)
        for name, shape in SHAPES.items():
            if name in arguments.only:
                source = arguments.tokenizer
                tokenizer = vocabularies.taken(source, shape.vocab) if source else vocabularies.generated(shape.vocab)
                made += write_random_models(arguments.out, shape, tokenizer)
    except LandraceError as error:
        sys.exit(" ".join(filter(None, (error.message, error.hint))))
    for path in made:
        print(path)
        if arguments.check:
            found = agreement(path, range(100, 132))
            print(f"  logits {found.relative:.2%} apart, {found.same_choice:.0%} equal choices")


if __name__ == "__main__":
    main()
