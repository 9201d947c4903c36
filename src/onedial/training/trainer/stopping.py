"""Stops a run before its last iteration: if there is no full batch of mixed groups, or if numbers are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from onedial.core.batch import Batch
from onedial.core.errors import DivergenceError, EngineError
from onedial.core.settings import Run
from onedial.training.rollout.collector import Collected


class NotFinite(ArithmeticError):
    """A loss or gradient norm that is not a finite number, and its mini-batch."""

    def __init__(self, what: str, value: float, minibatch: Batch) -> None:
        super().__init__(f"the {what} is {value}")
        self.minibatch = minibatch


def check_finite(what: str, value: float, minibatch: Batch) -> None:
    """Raises NotFinite for a number that is inf or nan."""
    if not math.isfinite(value):
        raise NotFinite(what, value, minibatch)


@contextmanager
def stop_on_divergence(directory: Path, iteration: int, lr: float) -> Iterator[None]:
    """Turns NotFinite into a DivergenceError, after saving the mini-batch as diverged/ITERATION.safetensors."""
    try:
        yield
    except NotFinite as found:
        path = directory / "diverged" / f"{iteration:06d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file(_collect_tensors(found.minibatch), path, metadata={"group_ids": " ".join(found.minibatch.group_ids)})
        raise DivergenceError(
            f"iteration {iteration}: {found}, so no further step was made. Earlier checkpoints are untouched, and the "
            f"mini-batch is saved in {path}. A resumed run would do the same again: start another one from "
            f"{directory}/run.toml with a lower lr (it was {lr:g}) or a lower grad_clip"
        ) from None


def _collect_tensors(batch: Batch) -> dict[str, Tensor]:
    layout = {
        "prompt_tokens": batch.prompt_tokens,
        "prompt_offsets": batch.prompt_offsets,
        "tokens": batch.tokens,
        "offsets": batch.offsets,
        "group": batch.group,
    }
    return {name: values.detach().cpu().contiguous() for name, values in {**layout, **batch.annotations}.items()}


def stop_if_exhausted(run: Run, collected: Collected) -> None:
    """Raises EngineError with on_exhausted="stop" if the refill limit left the batch incomplete.

    Call it after the rollouts are saved: a resumed run uses them again.
    """
    allocation = collected.allocation
    if run.on_exhausted != "stop" or not allocation.exhausted:
        return
    raise EngineError(
        f"{len(collected.groups)} prompts gave {allocation.surplus} mixed groups of the {run.prompts_per_iteration} "
        f"wanted (refill_limit={run.refill_limit:g}): they are too easy or too hard for this model. The rollouts are "
        f"saved in {run.directory}/rollouts and used again by: onedial train --resume {run.directory} --on-exhausted "
        "train, or with a higher --refill-limit. Or start another run, on another task or with a larger group_size"
    )
