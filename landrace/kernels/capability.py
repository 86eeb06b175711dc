"""What this machine's arithmetic units can do."""

from __future__ import annotations

from importlib.util import find_spec

import torch


def native_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 run in hardware on `device`, and so faster than float32's."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def has_triton(device: torch.device) -> bool:
    """Whether Triton's kernels run on `device`. PyTorch brings Triton for CUDA on Linux."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
