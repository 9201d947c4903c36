"""Sends metrics to TensorBoard, wandb or trackio. Each package is imported only if its tracker is requested."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from onedial.core.errors import ConfigError, MissingExtra, suggest


class Tracker(Protocol):
    """Receives the metrics of each iteration, in addition to `metrics.jsonl`."""

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Writes the numbers of one iteration; values that are not numbers (counts of a histogram, texts) are left
        out."""

    def close(self) -> None:
        """Flushes and ends; called once, also if the run fails."""


class TensorBoard:
    """Event files in `run_dir/tensorboard`."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        _need("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"))
        self._writer.add_text("config", "\n".join(f"    {key} = {value!r}" for key, value in config.items()), 0)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        for name, value in select_numeric(metrics).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Experiment:
    """wandb, or trackio, which has the same three calls. The run is named after its directory."""

    def __init__(self, package: str, run_dir: Path, config: Mapping[str, Any], **options: Any) -> None:
        module = _need(package, package)
        self._run = module.init(project="onedial", name=run_dir.name, config=dict(config), **options)
        self._module = module

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        self._module.log(select_numeric(metrics), step=step)

    def close(self) -> None:
        self._module.finish()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": lambda run_dir, config: Experiment("trackio", run_dir, config),
    "wandb": lambda run_dir, config: Experiment("wandb", run_dir, config, dir=str(run_dir)),
}


def open_trackers(names: Sequence[str], run_dir: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of these names, in order, each once.

    Raises ConfigError for an unknown name, before any is opened, and MissingExtra for a package that is absent.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"tracker {name!r}: unknown{suggest(name, TRACKERS)}; allowed: {', '.join(TRACKERS)}")
    opened: list[Tracker] = []
    try:
        for name in dict.fromkeys(names):
            opened.append(TRACKERS[name](run_dir, config))
    except BaseException:
        for tracker in opened:
            tracker.close()
        raise
    return opened


def select_numeric(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers, without booleans, lists and None."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _need(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(package, extra, f"logging to {package}") from error
