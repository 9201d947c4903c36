"""onedial: post-train language models with verifiable rewards, around one number, the group standard deviation.

The names below are the public interface. Each is imported when it is first used, so `import onedial` costs
milliseconds and does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "ALGORITHMS",
    "ALLOCATORS",
    "Algorithm",
    "Batch",
    "Completion",
    "Counts",
    "Group",
    "Prompt",
    "Rollout",
    "Run",
    "Verdict",
    "add_advantages",
    "evaluate",
    "last_word",
    "pack",
    "policy_loss",
    "train",
]

_HOMES = {
    "ALGORITHMS": "onedial.core.algorithm_table",
    "ALLOCATORS": "onedial.core.allocator_table",
    "Algorithm": "onedial.core.algorithm",
    "Batch": "onedial.core.batch",
    "Completion": "onedial.core.types",
    "Counts": "onedial.core.batch",
    "Group": "onedial.core.types",
    "Prompt": "onedial.core.types",
    "Rollout": "onedial.core.types",
    "Run": "onedial.core.settings",
    "Verdict": "onedial.core.types",
    "add_advantages": "onedial.training.trainer.advantages",
    "evaluate": "onedial.training.trainer.evaluate",
    "last_word": "onedial.training.tasks",
    "pack": "onedial.training.trainer.packing",
    "policy_loss": "onedial.core.maths.loss",
    "train": "onedial.training.trainer.loop",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use and keep it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'onedial' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from onedial.core.errors import explain_missing_extra

        raise explain_missing_extra(error) or error from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from onedial.core.algorithm import Algorithm
    from onedial.core.algorithm_table import ALGORITHMS
    from onedial.core.allocator_table import ALLOCATORS
    from onedial.core.batch import Batch, Counts
    from onedial.core.maths.loss import policy_loss
    from onedial.core.settings import Run
    from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
    from onedial.training.tasks import last_word
    from onedial.training.trainer.advantages import add_advantages
    from onedial.training.trainer.evaluate import evaluate
    from onedial.training.trainer.loop import train
    from onedial.training.trainer.packing import pack
