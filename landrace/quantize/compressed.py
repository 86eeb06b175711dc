"""A checkpoint's weights as a folder of safetensors that vLLM and transformers read: compressed-tensors' forms, by the
names of llm-compressor's schemes.

W4A16: integers of 4 bits with a scale for each group of inputs. FP8_DYNAMIC: 8-bit floats with a scale for each output;
who serves it rounds the inputs to such floats too, token by token. As in published models, embedding, output head and
routers keep their type.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landrace.checkpoints.checkpoint import Checkpoint
from landrace.checkpoints.tensor_info import PLAIN
from landrace.checkpoints.write import tokenizer_files, write_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.reference.fitting import error, fit_scale, integers, inverse_of, targets_of, weights_of
from landrace.models.declared import Param, declared
from landrace.models.families.weights import Source
from landrace.models.stored import WHOLE

GROUP_SIZES = (128, 64, 32)
FEWEST_OUTPUTS = 32
"""Gates of one output and the like keep their type: there is nothing to be saved."""
_LARGEST_F8 = 448.0
_INT4 = integers(-8, 7)
_TARGETS = tuple(-target for target in targets_of(-8))
"""Positive, and so are the scales: kernels of others expect them so."""
_ROWS_AT_A_TIME = 256


@dataclass(frozen=True)
class Scheme:
    bits: int
    group_size: int | None = None
    """The largest group of 4-bit integers; smaller where the widths ask for it."""


SCHEMES: Mapping[str, Scheme] = {
    "W4A16": Scheme(4, 128),
    "W4A16_G32": Scheme(4, 32),
    "FP8_DYNAMIC": Scheme(8),
}


def write_compressed(
    folder: Path, checkpoint: Checkpoint, scheme: Scheme, importance: Mapping[str, Tensor]
) -> tuple[dict[str, int], str | None]:
    """Writes the folder, whole or not at all. `importance`: what each input of a stored tensor counts, [n_in].

    Returns how many weights are stored in each type, and what to tell about matrices that keep theirs, if any.
    UnsupportedError for a GGUF file, whose tokenizer such a folder cannot hold, and where no matrix fits.
    """
    if checkpoint.format == "gguf":
        raise UnsupportedError(
            f"{checkpoint.path.name} is a GGUF file: its tokenizer cannot be written as a folder's files.",
            hint="Choose a GGUF form such as q4_k_m, or start from the model's safetensors.",
        )
    sources = checkpoint.hub_sources
    params = declared(checkpoint.spec)
    widths, left = _widths(params, sources)
    size = _group_size(scheme, widths.values())
    if size is not None:
        left += [name for name, width in widths.items() if width % size]
        widths = {name: width for name, width in widths.items() if width % size == 0}
    if not widths:
        raise UnsupportedError("None of the model's matrices can be stored in this form.", hint="Choose a GGUF form.")
    counts: dict[str, int] = {}

    def stored_as(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
        kind = _kind(tensor) if name not in widths else "4-bit integers" if scheme.bits == 4 else "8-bit floats"
        counts[kind] = counts.get(kind, 0) + tensor.numel()
        if name not in widths:
            return {name: tensor}
        if not tensor.isfinite().all():
            raise CheckpointError(f"The tensor {name!r} holds NaN or infinity.")
        return _integers(name, tensor, size, importance.get(name)) if size else _floats(name, tensor)

    beside = checkpoint.beside_text
    matrices = {stored for param in params if param.is_matrix for stored in sources[param.name].tensors}
    matrices |= {info.name for info in beside if len(info.shape) == 2}
    ignored = sorted(name.removesuffix(".weight") for name in matrices - widths.keys() if name.endswith(".weight"))
    write_checkpoint(
        folder,
        checkpoint.config | {"quantization_config": _settings(size, ignored)},
        sources,
        checkpoint.tensors(),
        tokenizer_files(checkpoint.path),
        beside=beside,
        stored_as=stored_as,
    )
    told = f"{len(left)} matrices keep their type, such as {left[0]}." if left else None
    return counts, told


def _kind(tensor: Tensor) -> str:
    kinds = {**PLAIN, **WHOLE}
    return next(name for name, dtype in kinds.items() if dtype == tensor.dtype)


def _widths(params: tuple[Param, ...], sources: Mapping[str, Source]) -> tuple[dict[str, int], list[str]]:
    """Stored matrices of linear layers to their inputs; and those that cannot be written as such."""
    widths: dict[str, int] = {}
    left: list[str] = []
    for param in params:
        source = sources[param.name]
        if not param.in_layers or not param.is_matrix or param.role == "router":
            continue
        in_one = param.role == "experts" and source.stacked is None
        if in_one or source.transposed or not source.tensor.endswith(".weight"):
            left.append(source.tensor)
        elif param.shape[-2] >= FEWEST_OUTPUTS:
            widths |= dict.fromkeys(source.tensors, param.shape[-1])
    return widths, sorted(set(left))


def _group_size(scheme: Scheme, widths: Collection[int]) -> int | None:
    """The largest that divides as many widths as the smallest does."""
    if scheme.group_size is None:
        return None
    sizes = [size for size in GROUP_SIZES if size <= scheme.group_size]
    fitting = {size: sum(width % size == 0 for width in widths) for size in sizes}
    return next(size for size in sizes if fitting[size] == fitting[sizes[-1]])


def _integers(name: str, tensor: Tensor, size: int, importance: Tensor | None) -> dict[str, Tensor]:
    rows, columns = tensor.shape
    dtype = torch.bfloat16 if tensor.dtype == torch.bfloat16 else torch.float16
    packed, scales = [], []
    for some in torch.split(tensor, _ROWS_AT_A_TIME):
        x = some.float().reshape(-1, size).T.contiguous()
        counts = None if importance is None else importance.expand_as(some).reshape(-1, size).T
        weights, most = weights_of(x, counts), x.abs().amax(dim=0)
        fitted = fit_scale(x, weights, most, _INT4, _TARGETS).to(dtype).float()
        plain = (most / 7.5).to(dtype).float()
        better = error(x, weights, fitted, _INT4) < error(x, weights, plain, _INT4)
        scale = torch.where(better, fitted, plain)
        q = (_INT4(x * inverse_of(scale)) + 8).to(torch.uint8).T.reshape(len(some), columns)
        packed.append((q[:, 0::2] | q[:, 1::2] << 4).contiguous().view(torch.int32))
        scales.append(scale.to(dtype).view(len(some), -1))
    return {
        f"{name}_packed": torch.cat(packed),
        f"{name}_scale": torch.cat(scales),
        f"{name}_shape": torch.tensor([rows, columns]),
    }


def _floats(name: str, tensor: Tensor) -> dict[str, Tensor]:
    values = tensor.float()
    scale = values.abs().amax(dim=1, keepdim=True) / _LARGEST_F8
    scaled = (values * inverse_of(scale)).clamp(-_LARGEST_F8, _LARGEST_F8)
    return {name: scaled.to(torch.float8_e4m3fn), f"{name}_scale": scale}


def _settings(group_size: int | None, ignored: list[str]) -> dict[str, Any]:
    """`quantization_config` as compressed-tensors defines it."""
    weights: dict[str, Any] = {"symmetric": True, "dynamic": False}
    inputs = None
    if group_size is None:
        weights |= {"num_bits": 8, "type": "float", "strategy": "channel"}
        inputs = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}
    else:
        weights |= {"num_bits": 4, "type": "int", "strategy": "group", "group_size": group_size}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized" if group_size is None else "pack-quantized",
        "config_groups": {"group_0": group},
        "ignore": ignored,
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
