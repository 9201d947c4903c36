"""The machine: its clock, its limits (matrix product, memory copy), its memory, and its names."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from onedial.core.system import find_version, name_cpu
from onedial.evidence.bench.workload import Conditions

PACKAGES = ("onedial", "torch", "transformers", "trl", "vllm")


def time_seconds(work: Callable[[], object], device: torch.device) -> float:
    """The seconds that a piece of work takes, including what it queued on an accelerator."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Waits for an accelerator's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_in_turn(runners: Sequence[Callable[[], float]], repeats: int, *, warm: bool = True) -> list[list[float]]:
    """The `repeats` values of each runner, measured alternately, after one turn that is not counted (unless `warm` is
    off)."""
    for runner in runners if warm else ():
        runner()
    turns = [[runner() for runner in runners] for _ in range(repeats)]
    return [list(values) for values in zip(*turns, strict=True)]


class Ceiling:
    """GFLOP/s of a large square matrix product of the type in use: what the machine can do at best."""

    def __init__(self, conditions: Conditions) -> None:
        self.device = torch.device(conditions.device)
        self.size = conditions.gemm_size
        dtype = getattr(torch, conditions.dtype)
        make = torch.Generator().manual_seed(0)
        self.left, self.right = (
            torch.randn(self.size, self.size, generator=make).to(self.device, dtype) for _ in range(2)
        )
        self.out = torch.empty_like(self.left)

    def __call__(self) -> float:
        """One measurement, GFLOP/s."""
        took = time_seconds(lambda: torch.mm(self.left, self.right, out=self.out), self.device)
        return float(2 * self.size**3 / took / 1e9)


def copy_gbytes(device: torch.device, mbytes: int = 256) -> float:
    """GB/s read and written while copying; the best of four, without the first."""
    source = torch.ones(mbytes * 2**18, device=device)
    target = torch.empty_like(source)
    times = [time_seconds(lambda: target.copy_(source), device) for _ in range(5)]
    return 2 * source.numel() * source.element_size() / min(times[1:]) / 1e9


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this process so far: resident (VmHWM), or allocated on the accelerator."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def name_processor(device: torch.device) -> str:
    """The name of the processor that computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return name_cpu()


def describe_conditions(conditions: Conditions, model: str) -> dict[str, Any]:
    """What a reader must know to interpret the figures."""
    device = torch.device(conditions.device)
    return {
        "date": date.today().isoformat(),
        "processor": name_processor(device),
        "threads": conditions.threads,
        "model": model,
        "dtype": conditions.dtype,
        "repeats": conditions.repeats,
        "copy_gbytes_per_s": round(copy_gbytes(device), 1),
        **{name: found for name in PACKAGES if (found := find_version(name)) is not None},
    }
