"""The device and the type that a run computes in, and the memory of that device."""

from __future__ import annotations

import torch

from onedial.core.errors import ConfigError
from onedial.core.system import find_machine_memory


def pick_device(name: str) -> torch.device:
    """The requested device; auto uses CUDA if it is available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # fails on a device that is not there, or that holds no numbers (meta)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise ConfigError(f"device={name!r}: {str(error).splitlines()[0]}; use auto, cpu or cuda") from error
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The requested type for computation; auto uses bfloat16 if the machine multiplies it in hardware."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def find_memory(device: torch.device) -> int:
    """Returns the memory of the device in bytes; for a CPU that of the machine or, if lower, the process's limit."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return find_machine_memory()
