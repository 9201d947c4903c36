"""Oracles: TensorBoard's own reader, a recording stand-in for the packages whose servers are not here."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onedial.core.errors import ConfigError, MissingExtra
from onedial.core.run_log import read_json_lines
from onedial.training.trainer.run_writer import log_metrics
from onedial.training.trainer.trackers import open_trackers, select_numeric


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_what_was_logged(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = open_trackers(["tensorboard"], tmp_path, {"lr": 1e-5})
    for step, reward in enumerate([0.25, 0.5], start=1):
        tracker.log({"reward_mean": reward, "sigma_hist": [1, 2], "note": "x", "kl_ref": None}, step)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["reward_mean"]
    assert [(event.step, event.value) for event in events.Scalars("reward_mean")] == [(1, 0.25), (2, 0.5)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_get_numbers_with_their_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    package = SimpleNamespace(
        init=lambda **options: calls.append(("init", options["project"], options["name"], options["config"])),
        log=lambda values, step: calls.append(("log", values, step)),
        finish=lambda: calls.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, name, package)  # type: ignore[arg-type]
    (tracker,) = open_trackers([name], tmp_path / "dapo", {"lr": 1e-5})
    tracker.log({"reward_mean": 1, "resumed": True}, 7)
    tracker.close()
    assert calls == [
        ("init", "onedial", "dapo", {"lr": 1e-5}),
        ("log", {"reward_mean": 1.0}, 7),
        ("finish",),
    ]


def test_an_iteration_reaches_the_file_the_screen_and_every_tracker(tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []
    trackers = [SimpleNamespace(log=lambda *given, name=name: calls.append((name, *given))) for name in "ab"]
    view = SimpleNamespace(update=lambda *given: calls.append(("view", *given)))
    trainer: Any = SimpleNamespace(
        run=SimpleNamespace(directory=tmp_path), view=view,
        trackers=trackers, iteration=6, train_s=1.5, generated_tokens=10, expected_bytes=1 << 60,
    )  # fmt: skip
    metrics = {"time_s": 2.0, "tokens_generated": 5}
    log_metrics(trainer, 7, metrics)
    assert calls == [("view", metrics), ("a", metrics, 7), ("b", metrics, 7)]
    assert (trainer.iteration, trainer.train_s, trainer.generated_tokens) == (7, 3.5, 15)
    assert read_json_lines(tmp_path / "metrics.jsonl") == [metrics]


def test_a_package_that_is_absent_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # import raises
    with pytest.raises(MissingExtra, match=r"pip install 'onedial\[wandb\]'"):
        open_trackers(["wandb"], tmp_path, {})


def test_an_unknown_tracker_names_the_nearest_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_import(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is imported")

    monkeypatch.setattr(builtins, "__import__", no_import)
    with pytest.raises(ConfigError, match="tracker 'wandv': unknown; did you mean 'wandb'"):
        open_trackers(["tensorboard", "wandv"], tmp_path, {})


def test_trackers_already_open_are_closed_when_a_later_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    package = SimpleNamespace(init=lambda **_: None, finish=lambda: ended.append("trackio"))
    monkeypatch.setitem(sys.modules, "trackio", package)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra):
        open_trackers(["trackio", "wandb"], tmp_path, {})
    assert ended == ["trackio"]


def test_numbers_leaves_out_what_is_no_number() -> None:
    assert select_numeric({"a": 1, "b": 0.5, "c": True, "d": None, "e": [1], "f": "1"}) == {"a": 1.0, "b": 0.5}
