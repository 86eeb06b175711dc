"""Writes a model whose own layer for further tokens guesses right as often as it is told, for bench/drafts.py.

    python bench/rigged_mtp.py OUT [--right 0.6] [--layers 24] [--width 1024]
    python bench/drafts.py OUT --draft mtp --weights int8

A Qwen3.5 of random weights, three of four layers gated delta nets. Its layers add so little to the embeddings that each
token says the next one, in one order that all tokens are part of; so nothing repeats that n-grams could find. The extra
layer knows the same order, but for noise in its projection, which is set so that a token's guess is right with the
probability asked for. The vocabulary is small: a guess costs one layer and little more, a part of a step as small as in
large models.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import vocabularies
from torch import Tensor

from landrace.checkpoints import write_checkpoint
from landrace.errors import LandraceError
from landrace.models.declared import declared
from landrace.models.families import read_config
from landrace.models.spec import ModelSpec

VOCABULARY = 4096
ADDS = ("o_proj.weight", "out_proj.weight", "down_proj.weight")
"""What adds a branch to the stream."""
LITTLE, DEVIATION = 1e-4, 0.02
"""Deviation of those weights, and of the others."""
SAMPLE = 1024
"""Tokens by which the noise is set."""


def config_of(layers: int, width: int, tokenizer: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "qwen3_5_text",
        "architectures": ["Qwen3_5ForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 7 * width // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 128,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_key_heads": width // 64,
        "linear_num_value_heads": width // 64,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "mtp_num_hidden_layers": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
        "eos_token_id": tokenizer["tokenizer.ggml.eos_token_id"],
    }


class Rigged:
    """The weights by canonical name."""

    def __init__(self, spec: ModelSpec, right: float) -> None:
        self._spec = spec
        self._draw = torch.Generator().manual_seed(0)
        width = spec.d_model
        self._embedding = torch.randn(spec.vocab_size, width, generator=self._draw)
        order = torch.randperm(spec.vocab_size, generator=self._draw)
        after = torch.empty_like(order)
        after[order] = order.roll(-1)
        # Token `after[t]` is likeliest behind t.
        self._head = torch.empty_like(self._embedding)
        self._head[after] = self._embedding
        noise = torch.randn(width, width, generator=self._draw)
        self._proj = torch.eye(width) + self._noise(noise, after, right) * noise

    def _noise(self, noise: Tensor, after: Tensor, right: float) -> float:
        """So much of it leaves so many guesses right: by halving."""
        rows = self._embedding[:SAMPLE]
        low, high = 0.0, 10.0
        for _ in range(20):
            middle = (low + high) / 2
            guesses = ((rows + middle * rows @ noise.t()) @ self._head.t()).argmax(-1)
            found = (guesses == after[:SAMPLE]).float().mean().item()
            low, high = (middle, high) if found > right else (low, middle)
        return low

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        own = {"embed_tokens.weight": self._embedding, "lm_head.weight": self._head}
        own["mtp.proj.weight"] = torch.cat((self._proj, torch.zeros_like(self._proj)), 1)
        for param in declared(self._spec):
            if param.name in own:
                tensor = own[param.name]
            elif param.role == "norm":
                tensor = torch.ones(param.shape)
            else:
                deviation = LITTLE if param.name.endswith(ADDS) else DEVIATION
                tensor = deviation * torch.randn(param.shape, generator=self._draw)
            yield param.name, tensor.to(torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--right", type=float, default=0.6, help="How often a guess is right if those before it are.")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    arguments = parser.parse_args()
    tokenizer = vocabularies.generated(VOCABULARY)
    config = config_of(arguments.layers, arguments.width, tokenizer)
    family = read_config(config, mtp=True)
    tensors = Rigged(family.spec, arguments.right).tensors()
    with tempfile.TemporaryDirectory() as scratch:
        files = vocabularies.write_files(tokenizer, Path(scratch))
        write_checkpoint(arguments.out, config, family.sources, tensors, files)


if __name__ == "__main__":
    try:
        main()
    except LandraceError as error:
        sys.exit(error.message)
