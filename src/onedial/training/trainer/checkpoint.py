"""Checkpoints: a Hugging Face folder that anything can load, and beside it all that resuming needs.

    checkpoints/iteration_000010/          config.json, model.safetensors, tokenizer …
    checkpoints/iteration_000010/resume/   masters.safetensors, moments.safetensors, state.json, and with a critic
                                           critic_masters.safetensors, critic_moments.safetensors

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

from onedial.core.errors import CheckpointError
from onedial.training.trainer.critic import Critic
from onedial.training.trainer.master_weights import Weights
from onedial.training.trainer.policy import Policy

PREFIX = "iteration_"


def checkpoint_path(directory: Path, iteration: int) -> Path:
    """Where the checkpoint after an iteration lies."""
    return directory / "checkpoints" / f"{PREFIX}{iteration:06d}"


def latest(directory: Path) -> Path | None:
    """The newest whole checkpoint of a run; None when there is none."""
    found = sorted((directory / "checkpoints").glob(f"{PREFIX}*"))
    return found[-1] if found else None


def _trained(policy: Policy, critic: Critic | None) -> dict[str, Weights]:
    """What training moves, by the first word of its files' names."""
    return {"": policy.weights} if critic is None else {"": policy.weights, "critic_": critic.weights}


def save(
    directory: Path, iteration: int, policy: Policy, critic: Critic | None, tokenizer: Any, state: Mapping[str, Any]
) -> Path:
    """Writes a checkpoint and then drops all but the newest `keep_checkpoints`.

    Raises CheckpointError, with the previous checkpoint untouched, when the disk is full or cannot be written.
    """
    target = checkpoint_path(directory, iteration)
    aside = target.with_name("." + target.name + ".part")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "resume").mkdir(parents=True)
        _check_space(aside, policy, critic)
        _write_model(aside, policy, tokenizer)
        for part, weights in _trained(policy, critic).items():
            _write_weights(aside / "resume", part, weights)
        (aside / "resume" / "state.json").write_text(json.dumps(state), encoding="utf-8")
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
    for old in sorted(target.parent.glob(f"{PREFIX}*"))[: -policy.run.keep_checkpoints]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _check_space(aside: Path, policy: Policy, critic: Critic | None) -> None:
    sizes = [weight.numel() * weight.element_size() for weight in policy.model.parameters()]
    needed = sum(sizes) + sum(12 * m.numel() for part in _trained(policy, critic).values() for m in part.masters)
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


def _write_weights(folder: Path, part: str, weights: Weights) -> None:
    named = dict(zip(weights.names, weights.masters, strict=True))
    save_file({name: master.detach().cpu() for name, master in named.items()}, folder / f"{part}masters.safetensors")
    moments: dict[str, Tensor] = {}
    for name, master in named.items():
        for key, value in weights.optimizer.state.get(master, {}).items():
            moments[f"{key}:{name}"] = value.detach().cpu()
    save_file(moments, folder / f"{part}moments.safetensors")


def load(path: Path, policy: Policy, critic: Critic | None = None) -> dict[str, Any]:
    """Puts a checkpoint's weights and moments into policy and critic and returns the rest of its state.

    Raises CheckpointError when it is incomplete or belongs to another model.
    """
    folder = path / "resume"
    try:
        files = {
            part: (load_file(folder / f"{part}masters.safetensors"), load_file(folder / f"{part}moments.safetensors"))
            for part in _trained(policy, critic)
        }
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint ({error}); resume from an earlier one") from error
    for part, weights in _trained(policy, critic).items():
        if sorted(files[part][0]) != sorted(weights.names):
            raise CheckpointError(f"{path}: holds the weights of another model than {policy.run.model!r}")
        _restore(weights, *files[part])
    return state


def _restore(weights: Weights, masters: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        kind, name = key.split(":", 1)
        found.setdefault(name, {})[kind] = value
    with torch.no_grad():
        for name, master in zip(weights.names, weights.masters, strict=True):
            master.copy_(masters[name])
            if name in found:
                # AdamW keeps its step counters on the CPU unless told otherwise; the moments lie with the weights
                moved = {
                    kind: value if kind == "step" else value.to(master.device) for kind, value in found[name].items()
                }
                weights.optimizer.state[master] = moved
    weights.publish()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
