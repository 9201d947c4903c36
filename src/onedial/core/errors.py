"""Everything onedial raises on purpose.

    OnedialError(Exception)
    ├── UserError                 a mistake that the user can fix; shown as one message without a traceback
    │   ├── ConfigError           a setting, flag or algorithm row that is not allowed
    │   ├── DataError             a dataset, log or model folder that cannot be used
    │   ├── DivergenceError       a loss, gradient or log-probability that is not a finite number
    │   ├── RunDirError           a run directory that is in use, missing or incomplete
    │   ├── MissingExtra          an optional package that is not installed
    │   └── CheckpointError       a checkpoint that could not be written or read; the previous one is complete
    ├── VerifierError             a verifier broke its contract (a crash of a verifier is a verdict instead)
    ├── AllocatorError            an allocator raised, or requested what cannot be
    └── EngineError               the rollout engine cannot continue

A message says where the mistake is, what was given, what is allowed and how to fix it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OnedialError(Exception):
    """Base of every error that onedial raises on purpose."""


class UserError(OnedialError):
    """A mistake that the user can fix; the command line prints it without a traceback."""


class ConfigError(UserError, ValueError):
    """A configuration value, flag or algorithm row that is not allowed."""


class DataError(UserError, ValueError):
    """Data that cannot be used: a missing column, a broken line, an empty prompt."""


class DivergenceError(UserError):
    """A loss, gradient or log-probability that is not a finite number: training has diverged."""


class RunDirError(UserError):
    """A run directory that holds another run, is in use, or cannot be resumed."""


class MissingExtra(UserError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str, why: str) -> None:
        super().__init__(f"{why} needs the package {package!r}; install it with: pip install 'onedial[{extra}]'")


EXTRAS = {
    "train": ("accelerate", "cloudpickle", "gguf", "math_verify", "peft", "safetensors", "tokenizers", "torch",
              "transformers"),
}  # fmt: skip
"""Packages that a wing needs as a whole, by the extra that installs them."""


def explain_missing_extra(error: ModuleNotFoundError) -> MissingExtra | None:
    """Returns the error for a package of `EXTRAS` that could not be imported; None for any other module."""
    package = (error.name or "").partition(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    return None if extra is None else MissingExtra(package, extra, "training and evaluating models")


class VerifierError(OnedialError):
    """A verifier returned something that is not a verdict."""


class AllocatorError(OnedialError):
    """An allocator raised, or requested what cannot be."""


class EngineError(OnedialError):
    """The rollout engine cannot continue."""


class CheckpointError(UserError):
    """A checkpoint could not be written or read."""


def suggest(word: str, allowed: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the nearest allowed word, or an empty string when none is near."""
    match = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""
