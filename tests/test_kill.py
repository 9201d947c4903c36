"""Slow: `kill -9` at random moments, and the default model's lesson for three seeds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from onedial.core.run_log import read_json_lines
from onedial.core.settings_file import make_run, merge, read_settings
from onedial.training.trainer.loop import train
from test_train import same, untimed, weights

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def command(model: Path, out: Path, row: str) -> list[str]:
    settings = {
        "model": model, "out": out, "task": f"{ROOT / 'tests' / 'train_tasks.py'}:Early", "iterations": 40,
        "prompts_per_iteration": 3, "group_size": 4, "max_new_tokens": 6, "lr": 1e-3, "dtype": "float32", "threads": 1,
        "eval_prompts": 0, "checkpoint_every": 3, "verifier_workers": 1,
    }  # fmt: skip
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "onedial.cli.main", "train", row, *flags]


@pytest.mark.parametrize("row", ["dapo", "ppo"])
def test_killed_at_random_moments_ends_as_if_never_killed(row: str, tiny_model: Path, tmp_path: Path) -> None:
    """Invariance: a run killed with SIGKILL again and again equals the uninterrupted one, weights and rollouts."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(tiny_model, whole, row), check=True, env=env, capture_output=True)
    rng, words, kills = random.Random(7), command(tiny_model, broken, row), 0
    for _ in range(12):
        process = subprocess.Popen(
            words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        seen = len(read_json_lines(broken / "metrics.jsonl"))
        # wait until it is past its start, then strike somewhere within an iteration
        while process.poll() is None and len(read_json_lines(broken / "metrics.jsonl")) <= seen:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        _, errors = process.communicate()
        if process.returncode == 0 or b"all 40 iterations are done" in errors:  # struck after its last checkpoint
            break
        assert process.returncode == -signal.SIGKILL, errors.decode()
        started = (broken / "run.toml").exists()
        fresh = command(tiny_model, broken, row)
        words = [*fresh[:4], "--resume", str(broken)] if started else fresh
    else:
        subprocess.run(words, check=True, env=env, capture_output=True)
    assert kills >= 3
    assert same(weights(whole), weights(broken))
    assert untimed(whole) == untimed(broken)
    frames = [
        pl.read_parquet(run / "rollouts" / "*.parquet").sort("group_id", "rollout_index") for run in (whole, broken)
    ]
    assert frames[0].equals(frames[1])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_make_train_teaches_the_default_model(seed: int, smollm2: Path, tmp_path: Path) -> None:
    """The README's first command: held-out avg@4 from about 8 % (240 samples say 5 to 11) to at least 80 %, by at least
    70 points, and completions grow short."""
    settings = read_settings(ROOT / "examples" / "arithmetic.toml")
    run = make_run(merge(settings, {"seed": seed, "out": str(tmp_path / "run"), "model": str(smollm2)}))
    result = train(run)
    assert result.before is not None and result.after is not None
    assert result.before.avg.value < 0.13
    assert result.after.avg.value >= 0.80
    assert result.after.avg.value - result.before.avg.value >= 0.70
    assert result.after.length_mean < result.before.length_mean - 0.5
    assert result.after.truncated_share < 0.05 < result.before.truncated_share
