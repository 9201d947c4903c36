"""Runs of several arms on the same seeds: trained one after the other, and saved as soon as each is finished.

An arm is a name and the settings in which it differs. All arms of a seed see the same prompts in the same order, start
from the same model, are evaluated on the same held-out prompts, and end when their rollouts have cost the same number
of tokens (with the iteration that reaches it).
"""

from __future__ import annotations

import gc
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onedial.analysis.page.run_records import rename_metrics
from onedial.core.errors import ConfigError, RunDirError
from onedial.core.paths import write_atomically
from onedial.core.run_log import read_json_lines
from onedial.core.settings import Run
from onedial.core.settings_file import make_run, merge, settings_to_plain
from onedial.evidence.claim import Json
from onedial.training.trainer.live_view import View, open_view
from onedial.training.trainer.loop import train

RECORD = "record.json"
MOST_ITERATIONS = 1_000_000  # the budget of tokens ends a run
SERIES = (
    "tokens_generated", "rollouts_generated", "tokens_trained", "time_s", "correct_share", "sigma_mean", "mixed_share",
    "all_correct_share", "all_wrong_share", "tokens_all_correct", "tokens_all_wrong", "entropy", "length_mean",
    "length_correct_mean", "length_wrong_mean", "truncated_share", "clip_low_share", "clip_high_share", "grad_norm",
    "clip_high_probability", "explained_variance",
)  # fmt: skip
"""The metrics of each iteration that a record keeps."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a name for tables and folders, and nested settings as they stand in TOML."""

    name: str
    settings: Mapping[str, Any]


def cross_arms(rows: Sequence[str], varied: Mapping[str, Sequence[str]]) -> list[Arm]:
    """Returns every row with every combination of the varied settings; "algorithm.dial" is a cell of the row.

    Raises ConfigError for an arm that is named twice, and for fewer than two arms.
    """
    arms = []
    for row in rows:
        for values in itertools.product(*varied.values()):
            settings: Json = {"algorithm": {"row": row}}
            for name, value in zip(varied, values, strict=True):
                section, _, key = name.rpartition(".")
                settings = merge(settings, {section: {key: value}} if section else {key: value})
            words = [f"{name.rpartition('.')[2]}={value}" for name, value in zip(varied, values, strict=True)]
            arms.append(Arm(" ".join([row, *words]), settings))
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice!r} is given twice; name each row and each value once")
    if len(arms) < 2:
        raise ConfigError(f"one arm ({names[0]}) is no comparison; name a second row, or --vary SETTING=A,B")
    return arms


def make_arm_run(arm: Arm, seed: int, base: Mapping[str, Any], folder: Path) -> Run:
    """Returns the checked run of an arm and a seed. Raises ConfigError naming the arm if its settings are not
    allowed."""
    own = {"seed": seed, "out": str(folder / f"{arm.name.replace(' ', '-').replace('=', '')}-s{seed}")}
    ends = {} if "iterations" in base else {"iterations": MOST_ITERATIONS}
    try:
        return make_run(merge(base, ends, arm.settings, own))
    except ConfigError as error:
        raise ConfigError(f"{arm.name}: {error}") from error


def train_arm(run: Run, arm: Arm, *, title: str, plain: bool | None = None) -> Json:
    """Trains a run, or continues it, and returns its record. A finished run is read, not repeated.

    The weights of a finished run are deleted; its logs are kept. `plain` as for `View`. Raises RunDirError if the
    folder holds a run with other settings.
    """
    path = run.directory / RECORD
    settings = json.loads(json.dumps(settings_to_plain(run)))
    if path.is_file():
        record: Json = json.loads(path.read_text(encoding="utf-8"))
        if record["settings"] != settings:
            changed = [name for name in settings if record["settings"].get(name) != settings[name]]
            raise RunDirError(
                f"{run.directory} holds a finished run of other settings ({', '.join(changed)}); choose another --out"
            )
        return {**record, "series": rename_metrics(record["series"])}
    train_to_end(run, open_view(run, title, plain=plain))
    record = {"arm": arm.name, "seed": run.seed, "settings": settings, **read_curves(run.directory)}
    write_atomically(path, json.dumps(record, allow_nan=False) + "\n")
    shutil.rmtree(run.directory / "checkpoints", ignore_errors=True)
    return record


def train_to_end(run: Run, view: View) -> None:
    """Trains a run, or continues it if it was stopped; does nothing if it is complete."""
    if not _is_complete(run):
        train(run, resume=(run.directory / "run.toml").is_file(), view=view)
        gc.collect()


def _is_complete(run: Run) -> bool:
    """Whether the run has finished its last iteration and its last evaluation, so that only its record is missing."""
    metrics = read_json_lines(run.directory / "metrics.jsonl")
    if not metrics:
        return False
    spent = sum(record["tokens_generated"] for record in metrics)
    ended = metrics[-1]["iteration"] >= run.iterations or 0 < run.max_generated_tokens <= spent
    evaluated = any(r["iteration"] == metrics[-1]["iteration"] for r in read_json_lines(run.directory / "eval.jsonl"))
    return ended and (evaluated or not run.eval_prompts)


def read_curves(directory: Path) -> Json:
    """Returns the evaluations of a run by the cost of its rollouts, and its metrics by iteration.

    `curve`: iteration, tokens, rollouts, seconds, avg, pass_at, maj_at, levels per evaluation; `series`: one list per
    metric of `SERIES`.
    """
    metrics, curve = [rename_metrics(line) for line in read_json_lines(directory / "metrics.jsonl")], []
    for found in read_json_lines(directory / "eval.jsonl"):
        before = [record for record in metrics if record["iteration"] <= found["iteration"]]
        sums = {
            name: sum(record[key] for record in before)
            for name, key in (("tokens", "tokens_generated"), ("rollouts", "rollouts_generated"), ("seconds", "time_s"))
        }
        shares = {
            name: {k: _short(at["value"]) for k, at in found[name].items()} for name in ("pass_at", "maj_at", "levels")
        }
        curve.append({"iteration": found["iteration"], **sums, "avg": _short(found["avg"]["value"]), **shares})
    series = {key: [_short(record.get(key)) for record in metrics] for key in SERIES}
    return {"curve": curve, "series": series}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
