"""Writes the models that the bench measures.

    python bench/make_models.py OUT [--only NAME ...] [--smollm2 FILE.gguf] [--tokenizer FILE.gguf|FOLDER] [--check]

* `smollm2`: SmolLM2-135M, re-quantised from the stored Q4_1 file by llama.cpp itself, so that every engine reads the
  same bytes;
* `qwen3-0.6b`, `qwen3-30b-a3b`, `gpt-oss-20b`: models of published shapes with random weights, the mixtures of experts
  cut to 4 layers. Each is a safetensors folder in bfloat16 and GGUF files, these by llama.cpp's quantiser as well: what
  a published file of that name holds.

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
from landrace.checkpoints.gguf_write import write_encoded_gguf
from landrace.checkpoints.store import ModelStore, default_home
from landrace.errors import CheckpointError, LandraceError
from landrace.model import open_model
from landrace.models.batch import ForwardBatch
from landrace.models.declared import Param, declared
from landrace.models.families import read_config
from landrace.models.families.gguf import gguf_sources
from landrace.models.spec import ModelSpec

SMOLLM2 = "SmolLM2-135M-Instruct"
QUANTISED = ("Q4_0", "Q8_0", "Q4_K_M")
WHOLE = "BF16"
DEVIATION = 0.02
"""Of the random weights: what the families' own initialisation uses."""
EMBEDDING_DEVIATION = 1.0
"""Of an embedding that is not the output head too. With 0.02, a token would be little more than the mean of those
before it after the first attention, and a whole sequence would go to the same experts."""
SHARD_BYTES = 2_000_000_000
"""Of a safetensors file: about as much is held in memory."""


@dataclass(frozen=True)
class Shape:
    """A published model's configuration, maybe with fewer layers."""

    name: str
    """Of the folder and the GGUF files."""
    architecture: str
    """What GGUF files call the family."""
    config: Mapping[str, Any]
    """The config.json, but for the ids of special tokens."""
    kinds: tuple[str, ...]
    """The GGUF files to make."""

    @property
    def vocab(self) -> int:
        return int(self.config["vocab_size"])

    def whole_config(self, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
        """The config.json."""
        ids = {name: tokenizer.get(f"tokenizer.ggml.{name}") for name in ("bos_token_id", "eos_token_id")}
        return {**self.config, **ids}

    def metadata(self, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
        """The key-values of a GGUF file with BF16 matrices, as llama.cpp's converter would write them."""
        own = {theirs: self.config[ours] for ours, keys in SETTINGS.items() if ours in self.config for theirs in keys}
        scaling = self.config.get("rope_scaling") or {}
        if "expert_count" in own:
            own.setdefault("expert_feed_forward_length", self.config["intermediate_size"])
        own |= {f"rope.scaling.{theirs}": scaling[ours] for ours, theirs in SCALING.items() if ours in scaling}
        return {
            "general.architecture": self.architecture,
            "general.type": "model",
            "general.name": self.name,
            "general.file_type": int(llama_cpp.LLAMA_FTYPE_MOSTLY_BF16),
            "general.quantization_version": 2,
            **{f"{self.architecture}.{key}": value for key, value in own.items()},
            **tokenizer,
        }


SETTINGS: Mapping[str, tuple[str, ...]] = {
    "num_hidden_layers": ("block_count",),
    "max_position_embeddings": ("context_length",),
    "hidden_size": ("embedding_length",),
    "intermediate_size": ("feed_forward_length",),
    "num_attention_heads": ("attention.head_count",),
    "num_key_value_heads": ("attention.head_count_kv",),
    "head_dim": ("attention.key_length", "attention.value_length"),
    "rms_norm_eps": ("attention.layer_norm_rms_epsilon",),
    "rope_theta": ("rope.freq_base",),
    "sliding_window": ("attention.sliding_window",),
    "num_experts": ("expert_count",),
    "num_local_experts": ("expert_count",),
    "num_experts_per_tok": ("expert_used_count",),
    "moe_intermediate_size": ("expert_feed_forward_length",),
}
"""A key of config.json to those of GGUF files."""
SCALING = {
    "rope_type": "type",
    "factor": "factor",
    "original_max_position_embeddings": "original_context_length",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}
"""The same for `rope_scaling`."""

QWEN3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "hidden_act": "silu",
}
QWEN3_MOE = {
    **QWEN3,
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "architectures": ["GptOssForCausalLM"],
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 4,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "attention_bias": True,
    "hidden_act": "silu",
}

SHAPES = {
    "qwen3-0.6b": Shape("Qwen3-0.6B-random", "qwen3", QWEN3, (WHOLE, *QUANTISED)),
    "qwen3-30b-a3b": Shape("Qwen3-30B-A3B-4-layers-random", "qwen3moe", QWEN3_MOE, ("Q4_K_M",)),
    "gpt-oss-20b": Shape("gpt-oss-20b-4-layers-random", "gpt-oss", GPT_OSS, ("Q4_K_M",)),
}
"""By the name that `--only` takes."""


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
    """The same weights, in the types that llama.cpp's converter gives them."""
    spec = read_config(shape.whole_config(tokenizer)).spec
    sources = gguf_sources(spec, shape.architecture)
    params = declared(spec)
    shapes = {sources[param.name].tensor: (param.shape, stored_kind(param)) for param in params}
    encoded = (
        (tensor if stored_kind(param) == WHOLE else tensor.float()).view(torch.uint8)
        for param, (_, tensor) in zip(params, random_tensors(spec), strict=True)
    )
    write_encoded_gguf(path, shape.metadata(tokenizer), shapes, encoded)


def stored_kind(param: Param) -> str:
    """BF16 for what the quantiser may quantise, F32 for what it leaves alone: norms, vectors, biases and routers."""
    quantisable = param.role in ("table", "linear", "experts") and param.name.endswith(".weight")
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
