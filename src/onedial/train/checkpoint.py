"""Checkpoints: a Hugging Face folder that anything can load, and beside it all that resuming needs.

    checkpoints/iteration_000010/          config.json, model.safetensors, tokenizer …
    checkpoints/iteration_000010/resume/   masters.safetensors, moments.safetensors, state.json

Written aside, flushed and renamed: a kill at any moment leaves the previous checkpoint whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from onedial.errors import CheckpointError
from onedial.train.policy import Policy

PREFIX = "iteration_"


def checkpoint_path(directory: Path, iteration: int) -> Path:
    """Where the checkpoint after an iteration lies."""
    return directory / "checkpoints" / f"{PREFIX}{iteration:06d}"


def latest(directory: Path) -> Path | None:
    """The newest whole checkpoint of a run; None when there is none."""
    found = sorted((directory / "checkpoints").glob(f"{PREFIX}*"))
    return found[-1] if found else None


def save(directory: Path, iteration: int, policy: Policy, tokenizer: Any, state: Mapping[str, Any], keep: int) -> Path:
    """Writes a checkpoint and then drops all but the newest `keep`.

    Raises CheckpointError, with the previous checkpoint untouched, when the disk is full or cannot be written.
    """
    target = checkpoint_path(directory, iteration)
    aside = target.with_name("." + target.name + ".part")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "resume").mkdir(parents=True)
        _check_space(aside, policy)
        _write_model(aside, policy, tokenizer)
        _write_resume(aside / "resume", policy, state)
        for file in aside.rglob("*"):
            if file.is_file():
                _flush(file)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
        _flush(target.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        previous = latest(directory)
        kept = f"the checkpoint {previous} is untouched" if previous else "no earlier checkpoint exists"
        raise CheckpointError(
            f"{target}: the checkpoint could not be written ({error}); {kept} and all rollouts are saved. "
            f"Free some space and go on with: onedial train --resume {directory}"
        ) from error
    for old in sorted(target.parent.glob(f"{PREFIX}*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _check_space(aside: Path, policy: Policy) -> None:
    sizes = [weight.numel() * weight.element_size() for weight in policy.model.parameters()]
    needed = sum(sizes) + sum(12 * master.numel() for master in policy.masters)
    free = shutil.disk_usage(aside).free
    if free < needed:
        raise OSError(f"it needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free on the disk")


def _write_model(folder: Path, policy: Policy, tokenizer: Any) -> None:
    """The model at its masters' precision (LoRA: the adapters alone), as transformers or peft load it."""
    model: Any = policy.model
    state = {name: weight.detach().cpu() for name, weight in model.state_dict().items()}
    if policy.run.lora_rank:
        model.save_pretrained(folder)
    else:
        tied = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
        own = {name: value.clone().contiguous() for name, value in state.items() if name not in tied}
        save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
        model.config.save_pretrained(folder)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_resume(folder: Path, policy: Policy, state: Mapping[str, Any]) -> None:
    names = policy.names
    save_file(dict(zip(names, (m.detach().cpu() for m in policy.masters), strict=True)), folder / "masters.safetensors")
    moments: dict[str, Tensor] = {}
    for name, master in zip(names, policy.masters, strict=True):
        for key, value in policy.optimiser.state.get(master, {}).items():
            moments[f"{key}:{name}"] = value.detach().cpu()
    save_file(moments, folder / "moments.safetensors")
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def load(path: Path, policy: Policy) -> dict[str, Any]:
    """Puts a checkpoint's weights and moments into the policy and returns the rest of its state.

    Raises CheckpointError when it is incomplete or belongs to another model.
    """
    folder = path / "resume"
    try:
        masters = load_file(folder / "masters.safetensors")
        moments = load_file(folder / "moments.safetensors")
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint ({error}); resume from an earlier one") from error
    if sorted(masters) != sorted(policy.names):
        raise CheckpointError(f"{path}: holds the weights of another model than {policy.run.model!r}")
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        kind, name = key.split(":", 1)
        # AdamW keeps its step counters on the CPU unless told otherwise; the moments lie with the weights
        found.setdefault(name, {})[kind] = value if kind == "step" else value.to(policy.device)
    with torch.no_grad():
        for name, master in zip(policy.names, policy.masters, strict=True):
            master.copy_(masters[name])
            if name in found:
                policy.optimiser.state[master] = found[name]
    policy.publish()
    return state


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
