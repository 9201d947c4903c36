"""Runs of several arms on the same seeds: trained one after the other, and saved as soon as each is finished.

All arms of a seed see the same prompts in the same order, start
from the same model, are evaluated on the same held-out prompts, and end when their rollouts have cost the same number
of tokens (with the iteration that reaches it).
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
from pathlib import Path

from onedial.analysis.page.run_records import rename_metrics
from onedial.core.errors import RunDirError
from onedial.core.run_log import read_json_lines, scan_json_lines
from onedial.core.settings import Run
from onedial.core.settings_file import settings_to_plain
from onedial.evidence.arms import Arm
from onedial.evidence.claim import Json
from onedial.evidence.finished_work import read_record, write_record
from onedial.training.trainer.live_view import View, open_view
from onedial.training.trainer.loop import train

RECORD = "record.json"
CURVES = ("curve", "series")
"""What `read_curves` returns."""
SERIES = (
    "tokens_generated", "rollouts_generated", "tokens_trained", "time_s", "correct_share", "sigma_mean", "mixed_share",
    "all_correct_share", "all_wrong_share", "tokens_all_correct", "tokens_all_wrong", "entropy", "length_mean",
    "length_correct_mean", "length_wrong_mean", "truncated_share", "clip_low_share", "clip_high_share", "grad_norm",
    "clip_high_probability", "explained_variance",
)  # fmt: skip
"""The metrics of each iteration that a record keeps."""


def train_arm(run: Run, arm: Arm, *, title: str, plain: bool | None = None) -> Json:
    """Trains a run, or continues it, and returns its record. A finished run is read, not repeated.

    The weights of a finished run are deleted; its logs are kept. `plain` as for `View`. Raises RunDirError if the
    folder holds a run with other settings. A damaged record is made again from the logs.
    """
    path = run.directory / RECORD
    settings = json.loads(json.dumps(settings_to_plain(run)))
    record = read_record(path, ("settings", *CURVES), lambda text: print(text, file=sys.stderr))
    if record is not None:
        if record["settings"] != settings:
            changed = [name for name in settings if record["settings"].get(name) != settings[name]]
            raise RunDirError(
                f"{run.directory} holds a finished run of other settings ({', '.join(changed)}); choose another --out"
            )
        return {**record, "series": rename_metrics(record["series"])}
    train_to_end(run, open_view(run, title, plain=plain))
    record = {"arm": arm.name, "seed": run.seed, "settings": settings, **read_curves(run.directory)}
    write_record(path, record)
    shutil.rmtree(run.directory / "checkpoints", ignore_errors=True)
    return record


def train_to_end(run: Run, view: View) -> None:
    """Trains a run, or continues it if it was stopped; does nothing if it is complete."""
    if not _is_complete(run):
        train(run, resume=(run.directory / "run.toml").is_file(), view=view)
        gc.collect()


def _is_complete(run: Run) -> bool:
    """Whether the run has finished its last iteration and its last evaluation, so that only its record is missing.

    A run with a damaged line in its logs has not: it is resumed, which writes the line again.
    """
    metrics, broken = scan_json_lines(run.directory / "metrics.jsonl")
    evaluations, broken_too = scan_json_lines(run.directory / "eval.jsonl")
    if not metrics or broken or broken_too:
        return False
    spent = sum(record["tokens_generated"] for record in metrics)
    ended = metrics[-1]["iteration"] >= run.iterations or 0 < run.max_generated_tokens <= spent
    evaluated = any(found["iteration"] == metrics[-1]["iteration"] for found in evaluations)
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
