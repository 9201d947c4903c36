"""Facts that only torch and a probe can tell: devices, the compute type, the sandbox of verifiers."""

from __future__ import annotations

from collections.abc import Iterator

from onedial.core.system import find_version
from onedial.evidence.doctor.fact import MachineFact, format_gb

AREA = "run"


def find_devices() -> Iterator[MachineFact]:
    """What a run computes with. Imports torch; without it, says so and imports nothing."""
    if find_version("torch") is None:
        yield MachineFact(
            AREA, "device", "torch is not installed", "no training here; inspect, plan and report need none"
        )
        return
    import torch

    from onedial.training.trainer.device import find_memory, pick_device, pick_dtype

    chosen = pick_device("auto")
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        found = f"{torch.cuda.get_device_name(device)}, {format_gb(find_memory(device))}"
        yield MachineFact(
            AREA, str(device), found, "device=auto takes it" if number == 0 else f"--device cuda:{number} takes it"
        )
    if chosen.type == "cpu":
        why = "the CPU build of torch" if torch.version.cuda is None else "torch sees no GPU"
        yield MachineFact(AREA, "device", f"cpu ({why})", "device=auto takes it")
    dtype = str(pick_dtype("auto", chosen)).removeprefix("torch.")
    fast = "multiplied in hardware" if dtype == "bfloat16" else "bfloat16 is not multiplied in hardware"
    yield MachineFact(AREA, "dtype", f"{dtype} ({fast})", "dtype=auto takes it; weights are kept in float32")
    yield MachineFact(AREA, "engine", f"torch {find_version('torch')}", "writes the completions of train and eval")
    yield from _find_sandbox()


def _find_sandbox() -> Iterator[MachineFact]:
    """The level that verifiers get here, found by trying what it must prevent."""
    from onedial.training.verify.sandbox import SUFFICIENT, TEXTS, choose_sandbox, list_libraries

    sandbox = choose_sandbox(list_libraries())
    runs_code = sandbox.level in SUFFICIENT
    why = f"; no stronger one because {'; '.join(sandbox.skipped)}" if sandbox.skipped else ""
    follows = "code that a model writes may run in it" if runs_code else "rewards that run a model's code are refused"
    yield MachineFact(AREA, "sandbox", f"{sandbox.level}: {TEXTS[sandbox.level]}{why}", follows)
