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
    "Algorithm",
    "Batch",
    "Completion",
    "Counts",
    "Group",
    "Prompt",
    "Rollout",
    "Run",
    "Verdict",
    "evaluate",
    "last_word",
    "pack",
    "policy_loss",
    "train",
]

_HOMES = {
    "ALGORITHMS": "onedial.algorithms",
    "Algorithm": "onedial.algorithm",
    "Batch": "onedial.batch",
    "Completion": "onedial.types",
    "Counts": "onedial.batch",
    "Group": "onedial.types",
    "Prompt": "onedial.types",
    "Rollout": "onedial.types",
    "Run": "onedial.config",
    "Verdict": "onedial.types",
    "evaluate": "onedial.train.heldout",
    "last_word": "onedial.tasks",
    "pack": "onedial.train.packing",
    "policy_loss": "onedial.maths.loss",
    "train": "onedial.train.loop",
}

# `onedial.train` is a function here and also the name of the package that holds it. Python binds a package to
# its parent's attribute once, when it is first imported; doing that now (the package itself is a docstring) and
# taking the binding away leaves the name to `__getattr__` below, in whatever order the rest is imported.
importlib.import_module("onedial.train")
globals().pop("train")


def __getattr__(name: str) -> Any:
    """Import a public name on first use and keep it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'onedial' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from onedial.algorithm import Algorithm
    from onedial.algorithms import ALGORITHMS
    from onedial.batch import Batch, Counts
    from onedial.config import Run
    from onedial.maths.loss import policy_loss
    from onedial.tasks import last_word
    from onedial.train.heldout import evaluate
    from onedial.train.loop import train
    from onedial.train.packing import pack
    from onedial.types import Completion, Group, Prompt, Rollout, Verdict
