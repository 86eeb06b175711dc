"""Writes the models that the bench measures.

    python bench/make_models.py OUT [--smollm2 FILE.gguf] [--tokenizer FILE.gguf|FOLDER] [--check]

* SmolLM2-135M, re-quantised from the stored Q4_1 file to Q4_0, Q8_0 and Q4_K_M by llama.cpp itself, so that every
  engine reads the same bytes;
* a model of Qwen3-0.6B's shape with random weights, as a safetensors folder in bfloat16 and as GGUF files in BF16,
  Q4_0, Q8_0 and Q4_K_M, these by llama.cpp's quantiser as well: what a published file of that name holds.

`--check` compares each random GGUF file's logits in both engines. Needs llama-cpp-python.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
import vocabularies
from torch import Tensor

from landrace.checkpoints import write_checkpoint
from landrace.checkpoints.gguf_write import write_gguf
from landrace.checkpoints.store import ModelStore, default_home
from landrace.errors import CheckpointError, LandraceError
from landrace.model import open_model
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.families.gguf import gguf_sources
from landrace.models.spec import ModelSpec

SMOLLM2 = "SmolLM2-135M-Instruct"
RANDOM = "Qwen3-0.6B-random"
QUANTISED = ("Q4_0", "Q8_0", "Q4_K_M")
DEVIATION = 0.02
"""Of the random weights: what the family's own initialisation uses."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen3 model with a tied head."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int

    def config(self, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
        """The config.json."""
        return {
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "hidden_act": "silu",
            "bos_token_id": tokenizer.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": tokenizer.get("tokenizer.ggml.eos_token_id"),
        }

    def metadata(self, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
        """The key-values of a GGUF file with BF16 matrices."""
        own = {
            "block_count": self.layers,
            "context_length": self.context,
            "embedding_length": self.hidden,
            "feed_forward_length": self.ffn,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head_dim,
            "attention.value_length": self.head_dim,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "rope.freq_base": 1e6,
        }
        return {
            "general.architecture": "qwen3",
            "general.type": "model",
            "general.name": RANDOM,
            "general.file_type": int(llama_cpp.LLAMA_FTYPE_MOSTLY_BF16),
            "general.quantization_version": 2,
            **{f"qwen3.{key}": value for key, value in own.items()},
            **tokenizer,
        }


QWEN3_0_6B = Shape(
    layers=28, hidden=1024, heads=16, kv_heads=8, head_dim=128, ffn=3072, vocab=151936, context=40960
)  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """How one GGUF file's logits in llama.cpp and in Landrace's float32 reference compare on the same tokens."""

    relative: float
    """Root mean square of the difference over the standard deviation of the reference's logits."""
    same_choice: float
    """Fraction of positions where both find the same token likeliest."""


def random_tensors(spec: ModelSpec) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by canonical name in bfloat16, one at a time, the same in every call: norms around 1, the rest
    around 0."""
    generator = torch.Generator().manual_seed(0)
    for name, shape in Decoder(spec).expected_shapes().items():
        mean, deviation = (1.0, 0.1) if len(shape) == 1 else (0.0, DEVIATION)
        yield name, torch.empty(shape, dtype=torch.bfloat16).normal_(mean, deviation, generator=generator)


def write_random_folder(folder: Path, shape: Shape, tokenizer: Mapping[str, Any]) -> None:
    family = read_config(shape.config(tokenizer))
    with tempfile.TemporaryDirectory() as scratch:
        files = vocabularies.write_files(tokenizer, Path(scratch))
        write_checkpoint(folder, shape.config(tokenizer), family.sources, random_tensors(family.spec), files)


def write_random_gguf(path: Path, shape: Shape, tokenizer: Mapping[str, Any]) -> None:
    """The same weights, matrices in BF16 and norms in F32 as llama.cpp wants them."""
    spec = read_config(shape.config(tokenizer)).spec
    sources = gguf_sources(spec, "qwen3")
    tensors = {
        sources[name].tensor: (tensor.float(), "F32") if tensor.dim() == 1 else (tensor.view(torch.uint8), "BF16")
        for name, tensor in random_tensors(spec)
    }
    write_gguf(path, shape.metadata(tokenizer), tensors)


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


def write_random_models(out: Path, shape: Shape, tokenizer: Mapping[str, Any], name: str = RANDOM) -> list[Path]:
    """The folder `name` and the GGUF files `name`.KIND.gguf; returns the GGUF files."""
    write_random_folder(out / name, shape, tokenizer)
    whole = out / f"{name}.BF16.gguf"
    write_random_gguf(whole, shape, tokenizer)
    return [whole, *quantised_copies(whole, out, name)]


def quantised_copies(source: Path, out: Path, name: str) -> list[Path]:
    targets = [out / f"{name}.{kind}.gguf" for kind in QUANTISED]
    for target, kind in zip(targets, QUANTISED, strict=True):
        quantise(source, target, kind)
    return targets


def agreement(path: Path, ids: Sequence[int]) -> Agreement:
    """Both engines on the same file and tokens. llama.cpp rounds activations to 8 bits before a quantised product."""
    decoder = open_model(str(path), dtype="float32", device=torch.device("cpu")).decoder
    with torch.no_grad():
        ours = decoder(ForwardBatch.packed([list(ids)])).float()
    del decoder
    model = llama_cpp.Llama(
        str(path), n_ctx=len(ids) + 8, logits_all=True, verbose=False, type_k=0, type_v=0, n_threads=1
    )
    model.eval(list(ids))
    theirs = torch.from_numpy(np.array(model.scores[: len(ids)], dtype=np.float32))
    return Agreement(
        relative=((ours - theirs).square().mean().sqrt() / ours.std()).item(),
        same_choice=(ours.argmax(-1) == theirs.argmax(-1)).float().mean().item(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--smollm2", type=Path, help="SmolLM2 as GGUF; default: the model store's.")
    parser.add_argument("--tokenizer", type=Path, help="GGUF file or folder to take the random model's vocabulary of.")
    parser.add_argument("--check", action="store_true", help="Compare the random GGUF files' logits in both engines.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        stored = arguments.smollm2 or ModelStore(default_home()).resolve("smollm2")
        written = quantised_copies(stored, arguments.out, SMOLLM2)
        size = QWEN3_0_6B.vocab
        source = arguments.tokenizer
        tokenizer = vocabularies.taken(source, size) if source else vocabularies.generated(size)
        made = write_random_models(arguments.out, QWEN3_0_6B, tokenizer)
    except LandraceError as error:
        sys.exit(" ".join(filter(None, (error.message, error.hint))))
    for path in (*written, arguments.out / RANDOM, *made):
        print(path)
    for path in made if arguments.check else ():
        found = agreement(path, range(100, 132))
        print(f"{path.name}: logits {found.relative:.2%} apart, {found.same_choice:.0%} equal choices")


if __name__ == "__main__":
    main()
