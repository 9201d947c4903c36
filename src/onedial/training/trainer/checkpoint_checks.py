"""The checks on a checkpoint before its weights are loaded into a model, and on the files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onedial.core.errors import CheckpointError
from onedial.core.manifest import FOLDER_MANIFEST, RUN_MANIFEST, check_folder, check_log
from onedial.training.trainer.master_weights import Weights

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW; `step` is one number


def check_checkpoint(path: Path) -> None:
    """Compares every file of a checkpoint, and the logs up to its iteration, with its manifest.

    Raises CheckpointError naming the file.
    """
    content = check_folder(path)
    if content.get("iteration") != parse_iteration(path):
        raise CheckpointError(f"{path / FOLDER_MANIFEST}: belongs to iteration {content.get('iteration')}")
    for name, wanted in dict(content["logs"]).items():
        check_log(path.parent.parent / name, wanted)


def is_recorded(directory: Path, stored: Path | None) -> bool:
    """Whether the files of a run have recorded hashes; `stored` is its newest checkpoint.

    A checkpoint tells of itself: a run of an earlier version has a manifest as soon as it was resumed once.
    """
    return (directory / RUN_MANIFEST).exists() if stored is None else has_manifest(stored)


def has_manifest(path: Path) -> bool:
    """Whether a checkpoint was written with a manifest; checkpoints of earlier versions were not."""
    state = path / "resume" / "state.json"
    marked = state.is_file() and b"has_manifest" in state.read_bytes()
    return marked or (path / FOLDER_MANIFEST).exists()


def parse_iteration(path: Path) -> int:
    """The iteration in a checkpoint's name."""
    return int(path.name.rsplit("_", 1)[1])


def check_state(path: Path, state: Any, *, iteration: int) -> None:
    """Raises CheckpointError if the state lacks something or belongs to another iteration."""
    kinds = {"iteration": int, "step": int, "train_s": float | int, "collector": dict}
    if not isinstance(state, dict) or not all(isinstance(state.get(key), kind) for key, kind in kinds.items()):
        raise CheckpointError(f"{path}: does not hold the state of a run ({', '.join(kinds)})")
    if state["iteration"] != iteration:
        raise CheckpointError(f"{path}: is of iteration {state['iteration']}, in the checkpoint of {iteration}")


def check_masters(path: Path, masters: Mapping[str, Tensor], weights: Weights) -> None:
    """Raises CheckpointError for weights of another type or shape than the model's, or that are not finite."""
    for name, master in zip(weights.names, weights.masters, strict=True):
        _check_tensor(path, name, masters[name], master.shape)


def check_moments(path: Path, moments: Mapping[str, Tensor], weights: Weights) -> None:
    """Raises CheckpointError for moments that do not belong to these weights, or that are not finite."""
    shapes = {name: master.shape for name, master in zip(weights.names, weights.masters, strict=True)}
    names = {key.partition(":")[2] for key in moments}
    wanted = {f"{kind}:{name}" for kind in MOMENTS for name in names}
    if set(moments) != wanted or not names <= set(shapes):
        raise CheckpointError(f"{path}: does not hold the moments of this model's weights")
    for key, value in moments.items():
        kind, _, name = key.partition(":")
        _check_tensor(path, key, value, torch.Size() if kind == "step" else shapes[name])
        if kind != "exp_avg" and bool((value < 0).any()):
            raise CheckpointError(f"{path}: {key} is negative")


def _check_tensor(path: Path, name: str, value: Tensor, shape: torch.Size) -> None:
    if value.dtype != torch.float32 or value.shape != shape:
        found = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        raise CheckpointError(f"{path}: {name} is {found}; this model needs float32 {tuple(shape)}")
    if not bool(torch.isfinite(value).all()):
        raise CheckpointError(f"{path}: {name} holds numbers that are not finite")
