"""Every row teaches the default model arithmetic, by the commands that made the README's table of curves."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from onedial.cli import main as cli
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.run_log import read_json_lines
from onedial.core.settings import Run

FILE = Path(__file__).parents[1] / "benchmarks" / "rows.py"
PRESETS = ("trl_", "verl_")  # the losses of other rows, tested for equality with the libraries' own


def _rows() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_rows", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=lambda row: row.name)
def test_commands_are_whole_and_alike(row: Algorithm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: each command makes a run that the checks of `Run` accept, of the row itself in the end, and whoever
    writes completions writes 128 an iteration."""
    made: list[Run] = []

    def record(run: Run, **_: object) -> SimpleNamespace:
        made.append(run)
        return SimpleNamespace(directory=tmp_path, train_s=0.0)

    # by their modules: the package exports a function `train`, which hides the module of that name
    monkeypatch.setattr(importlib.import_module("onedial.training.trainer.loop"), "train", record)
    monkeypatch.setattr(
        importlib.import_module("onedial.cli.train"), "inherit_settings", lambda past, trust: {"data": "x"}
    )
    for words in _rows().commands(row, tmp_path):
        assert cli.main(words) == 0
        assert made[-1].out == words[-1]
    assert made[-1].algorithm.name == row.name
    if row.generates:
        assert made[-1].prompts_per_iteration * made[-1].resolved().group_size == 128


def test_the_experiments_page_shows_a_curve_of_every_row() -> None:
    """Oracle: the table itself; presets share one line, and a row without a curve is said to have none."""
    lines = (FILE.parents[1] / "docs" / "experiments.md").read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if line.startswith("| `") and (" → " in line or "not measured" in line)]
    shown = {name for line in told for name in line.split("`")[1:4:2]}
    presets = {f"{prefix}*" for prefix in PRESETS}
    assert {name for name in ALGORITHMS if not name.startswith(PRESETS)} | presets <= shown


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", [row for row in ALGORITHMS.values() if not row.name.startswith(PRESETS)], ids=lambda row: row.name
)
def test_the_default_model_learns(row: Algorithm, smollm2: Path, tmp_path: Path) -> None:
    """Held-out avg@4 of the real model rises, and a critic foresees what comes.

    Oracle: the README's curves, with room for another machine's rounding: they rise by at least 36 points, pairs after
    a warm-up by seven, and the median of explained variance over the later half is 0.51 and 0.55.
    """
    rows = _rows()
    rows.train(row, tmp_path)
    run = tmp_path / row.name
    evaluations, metrics = (read_json_lines(run / name) for name in ("eval.jsonl", "metrics.jsonl"))
    before, *_, after = [evaluation["avg"]["value"] for evaluation in evaluations]
    assert after > before + (0.0 if row.source == "pairs" else 0.25)
    if row.needs_critic:
        assert rows.foreseen(metrics) > 0.3
    assert rows.finished(run) and f"{100 * before:.0f} → " in rows.line(row, run)
