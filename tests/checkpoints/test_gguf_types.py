"""GGUF files of every tensor type, and in several parts, opened by their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, quants
from test_quantised import IDS, cpu_logits, our_logits
from torch import Tensor

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.checkpoints.gguf_write import write_gguf
from landrace.errors import CheckpointError
from landrace.kernels.cpu.weights import KINDS
from landrace.kernels.reference.blocks import BLOCKS

WIDTH, HIDDEN, VOCAB = 256, 512, 64
FLOATS = ("F32", "F16", "BF16")
TYPES = [name for name, block in BLOCKS.items() if block.ggml_id is not None and name not in FLOATS]
SCALES: dict[str, tuple[int, ...]] = {
    "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q2_K": (80, 82), "Q3_K": (108,),
    "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip
"""Where a block keeps its float16 scales and minima, if not at its beginning alone."""


def blocks(kind: str, n_out: int, n_in: int, generator: torch.Generator) -> Tensor:
    """Random blocks with values below 1 or so."""
    block = BLOCKS[kind]
    raw = torch.randint(0, 256, (n_out * n_in // block.elements, block.bytes), generator=generator, dtype=torch.uint8)
    if kind == "MXFP4":
        raw[:, 0] = 120
    elif kind == "NVFP4":
        raw[:, :4] = 20
    elif kind == "IQ1_M":  # the float16 lies in the top halves of four bytes
        raw[:, 49:57:2] = raw[:, 49:57:2] & 15 | torch.tensor([0x00, 0x00, 0x00, 0x20], dtype=torch.uint8)
    else:
        for at in SCALES.get(kind, (0,)):
            raw[:, at : at + 2] = torch.tensor([0.0001 if kind == "Q6_K" else 0.002]).half().view(torch.uint8)
    return raw.view(n_out, -1)


def tensors_of(kind: str) -> dict[str, tuple[Tensor, str]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "attn_q": (WIDTH, WIDTH), "attn_k": (64, WIDTH), "attn_v": (64, WIDTH), "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN),
    }  # fmt: skip
    found = {"token_embd.weight": (torch.randn(VOCAB, WIDTH, generator=generator) * 0.1, "F32")}
    for name, shape in shapes.items():
        found[f"blk.0.{name}.weight"] = (blocks(kind, *shape, generator), kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        found[f"{name}.weight"] = (torch.ones(WIDTH), "F32")
    return found


METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": HIDDEN,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 1,
    "llama.context_length": 64,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.tokens": [str(n) for n in range(VOCAB)],
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_file_of_every_type(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    tensors = tensors_of(kind)
    write_gguf(file, METADATA, tensors)
    down = open_checkpoint(file).stored()["layers.0.mlp.down_proj.weight"]
    theirs = quants.dequantize(tensors["blk.0.ffn_down.weight"][0].numpy(), GGMLQuantizationType[kind])
    assert down.block_type == kind and torch.equal(down.values(), torch.from_numpy(theirs))
    expected, got = our_logits(file), cpu_logits(file)
    assert len(expected) == len(IDS) and expected.std() > 0.1
    if kind in KINDS:
        assert (got - expected).abs().mean() < 0.02 * expected.std()
    else:
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)


def write_parts(folder: Path, count: int = 3) -> list[Path]:
    """The same model in parts, as llama.cpp's tool cuts it: the first one has the metadata."""
    tensors = tensors_of("Q8_0")
    names = sorted(tensors)
    files = []
    for number in range(count):
        files.append(folder / f"model-{number + 1:05d}-of-{count:05d}.gguf")
        split = {"split.no": number, "split.count": count, "split.tensors.count": len(tensors)}
        own = {name: tensors[name] for name in names[number::count]}
        write_gguf(files[-1], {**METADATA, **split} if number == 0 else split, own)
    return files


def test_parts_are_one_model(tmp_path: Path) -> None:
    whole = tmp_path / "m.gguf"
    write_gguf(whole, METADATA, tensors_of("Q8_0"))
    for part in write_parts(tmp_path):
        assert torch.equal(our_logits(part), our_logits(whole))


def test_parts_that_do_not_go_together(tmp_path: Path) -> None:
    first, second, third = write_parts(tmp_path)
    bytes_of_second = second.read_bytes()
    second.write_bytes(third.read_bytes())
    with pytest.raises(CheckpointError, match="part 2 of 3"):
        open_checkpoint(first)
    second.unlink()
    for part in (first, third):
        with pytest.raises(CheckpointError, match=f"one of 3 parts, of which {second.name} is not beside it"):
            open_checkpoint(part)
    second.write_bytes(bytes_of_second)
    assert open_checkpoint(third).sha256() == open_checkpoint(first).sha256()
    renamed = first.rename(tmp_path / "other.gguf")
    with pytest.raises(CheckpointError, match="its name does not say"):
        open_checkpoint(renamed)
