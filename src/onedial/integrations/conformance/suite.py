"""The suite: which trainers it knows by name, and all its checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onedial.core.errors import ConfigError, suggest
from onedial.core.user_code import is_object, load_object
from onedial.integrations.conformance.advantage_checks import ADVANTAGE_CHECKS
from onedial.integrations.conformance.check import Judgement, run_checks
from onedial.integrations.conformance.judged import FUNCTIONS, Judged
from onedial.integrations.conformance.loss_checks import LOSS_CHECKS
from onedial.integrations.conformance.ratio_checks import RATIO_CHECKS

CHECKS = (*ADVANTAGE_CHECKS, *LOSS_CHECKS, *RATIO_CHECKS)


def _own() -> Any:
    from onedial.integrations.conformance.own_adapter import OnedialFunctions

    return OnedialFunctions()


def _trl() -> Any:
    from onedial.integrations.conformance.trl_adapter import TrlFunctions

    return TrlFunctions()


def _verl() -> Any:
    from onedial.integrations.conformance.verl_adapter import VerlFunctions

    return VerlFunctions()


TRAINERS: dict[str, Callable[[], Any]] = {"onedial": _own, "trl": _trl, "verl": _verl}


def open_trainer(name: str) -> Judged:
    """The functions of a trainer by its name in `TRAINERS`, or of an object "file.py:name" or "module:name".

    The object has the functions itself, or is a function or class that makes one which does.
    Raises ConfigError for another name and for an object without the functions, MissingExtra for a missing package.
    """
    if name in TRAINERS:
        return Judged(TRAINERS[name](), name)
    if not is_object(name):
        raise ConfigError(
            f"--trainer {name!r}: unknown{suggest(name, TRAINERS)}; there are {', '.join(TRAINERS)}, and any object "
            "as file.py:name or package.module:name"
        )
    found = load_object(name)
    if isinstance(found, type) or (callable(found) and not any(hasattr(found, each) for each in FUNCTIONS)):
        try:
            found = found()
        except Exception as error:
            raise ConfigError(
                f"{name}: could not be made without arguments: {type(error).__name__}: {error}"
            ) from error
    return Judged(found, name)


def run_suite(name: str) -> tuple[Judged, list[Judgement]]:
    """A trainer and what every check says of it."""
    trainer = open_trainer(name)
    return trainer, run_checks(trainer, CHECKS)
