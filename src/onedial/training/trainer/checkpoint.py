"""Checkpoints: a Hugging Face folder that any tool can load, and beside it everything that resuming needs.

    checkpoints/iteration_000010/          config.json, model.safetensors, tokenizer …, manifest.json
    checkpoints/iteration_000010/resume/   masters.safetensors, moments.safetensors, state.json, and with a critic
                                           critic_masters.safetensors, critic_moments.safetensors

A checkpoint is written under another name, flushed and renamed: after a kill at any moment the previous checkpoint is
complete. The manifest holds size and hash of every file, and of the run's logs up to that iteration;
`checkpoint_checks` compares what is loaded with it.
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

from onedial.core.errors import CheckpointError, DivergenceError
from onedial.core.manifest import write_folder_manifest
from onedial.core.paths import flush_to_disk
from onedial.training.trainer.checkpoint_checks import check_masters, check_moments, check_state
from onedial.training.trainer.critic import Critic
from onedial.training.trainer.master_weights import Weights
from onedial.training.trainer.policy import Policy

PREFIX = "iteration_"
LOGS = ("metrics.jsonl", "eval.jsonl")


def checkpoint_path(directory: Path, iteration: int) -> Path:
    """The path of the checkpoint after an iteration."""
    return directory / "checkpoints" / f"{PREFIX}{iteration:06d}"


def find_latest(directory: Path) -> Path | None:
    """The newest checkpoint of a run; None when there is none."""
    found = list_checkpoints(directory)
    return found[-1] if found else None


def list_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((directory / "checkpoints").glob(f"{PREFIX}[0-9]*[0-9]"))


def _trained(policy: Policy, critic: Critic | None) -> dict[str, Weights]:
    """Everything that training changes, by the first word of its files' names."""
    return {"": policy.weights} if critic is None else {"": policy.weights, "critic_": critic.weights}


def save(
    directory: Path, iteration: int, policy: Policy, critic: Critic | None, tokenizer: Any, state: Mapping[str, Any]
) -> Path:
    """Writes a checkpoint and then removes all but the newest `keep_checkpoints`.

    If the disk is full or cannot be written it raises CheckpointError, and if a weight is not a finite number
    DivergenceError; the previous checkpoint is then unchanged.
    """
    for part, weights in _trained(policy, critic).items():
        if not all(bool(torch.isfinite(master).all()) for master in weights.masters):
            raise DivergenceError(
                f"iteration {iteration}: the {'critic' if part else 'policy'} has weights that are not finite; no "
                "checkpoint of them is written, and earlier ones are untouched. Start another run with a lower lr"
            )
    target = checkpoint_path(directory, iteration)
    aside = target.with_name("." + target.name + ".part")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "resume").mkdir(parents=True)
        _check_space(aside, policy, critic)
        _write_model(aside, policy, tokenizer)
        for part, weights in _trained(policy, critic).items():
            _write_weights(aside / "resume", part, weights)
        (aside / "resume" / "state.json").write_text(json.dumps({**state, "has_manifest": True}), encoding="utf-8")
        logs = {name: directory / name for name in LOGS if (directory / name).exists()}
        write_folder_manifest(aside, logs, iteration=iteration)
        for file in aside.rglob("*"):
            if file.is_file():
                flush_to_disk(file)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
        flush_to_disk(target.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        previous = find_latest(directory)
        kept = f"the checkpoint {previous} is untouched" if previous else "no earlier checkpoint exists"
        raise CheckpointError(
            f"{target}: the checkpoint could not be written ({error}); {kept} and all rollouts are saved. "
            f"Free some space and continue with: onedial train --resume {directory}"
        ) from error
    for old in list_checkpoints(directory)[: -policy.run.keep_checkpoints]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _check_space(aside: Path, policy: Policy, critic: Critic | None) -> None:
    sizes = [weight.numel() * weight.element_size() for weight in policy.model.parameters()]
    needed = sum(sizes) + sum(12 * m.numel() for part in _trained(policy, critic).values() for m in part.masters)
    free = shutil.disk_usage(aside).free
    if free < needed:
        raise OSError(f"it needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free on the disk")


def _write_model(folder: Path, policy: Policy, tokenizer: Any) -> None:
    """The model at the precision of its master weights (LoRA: only the adapters), in the format of transformers or
    peft."""
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
    """Loads a checkpoint's weights and moments into policy and critic and returns the rest of its state.

    Nothing is changed before everything has been checked. Raises CheckpointError if it is incomplete, belongs to
    another model or another iteration, or holds tensors of another type or shape, or numbers that are not finite.
    """
    folder = path / "resume"
    try:
        files = {
            part: (load_file(folder / f"{part}masters.safetensors"), load_file(folder / f"{part}moments.safetensors"))
            for part in _trained(policy, critic)
        }
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint ({error})") from error
    check_state(folder / "state.json", state, iteration=int(path.name.removeprefix(PREFIX)))
    for part, weights in _trained(policy, critic).items():
        masters, moments = files[part]
        if sorted(masters) != sorted(weights.names):
            raise CheckpointError(f"{path}: holds the weights of another model than {policy.run.model!r}")
        check_masters(folder / f"{part}masters.safetensors", masters, weights)
        check_moments(folder / f"{part}moments.safetensors", moments, weights)
    for part, weights in _trained(policy, critic).items():
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
