"""Rewards that first appear beyond the rows from which the scale is guessed. Oracle: the scale of a full scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from onedial.analysis.logs import read
from onedial.analysis.logs.grouping import SAMPLE_ROWS, find_scale, group_rollouts, group_with_scale

EARLY = {"0 and 1": (0.0, 1.0), "-1 and 1": (-1.0, 1.0), "ones": (1.0, 1.0), ".2 and .9": (0.2, 0.9)}
LATE = {"none": (), "halves that add up to a 1": (0.5, 0.5), "higher": (3.0,), "lower": (-2.0,), "zero": (0.0,)}


def write(path: Path, early: Sequence[float], late: Sequence[float], *, verdicts: bool) -> Path:
    rewards = [early[row % 2] for row in range(SAMPLE_ROWS + 4)]
    rewards[-4 : len(rewards) - 4 + len(late)] = late
    groups = [row // 4 for row in range(len(rewards))]
    frame = pl.DataFrame({"step": [0] * len(rewards), "prompt_id": groups, "reward": rewards})
    frame.with_columns(correct=pl.col("reward") >= 1).drop([] if verdicts else "correct").write_parquet(path)
    return path


@pytest.mark.parametrize("verdicts", [False, True], ids=["by reward", "by verdict"])
@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("early", EARLY)
def test_late_rewards_decide_the_scale(tmp_path: Path, early: str, late: str, verdicts: bool) -> None:
    log = read(write(tmp_path / "log.parquet", EARLY[early], LATE[late], verdicts=verdicts))
    assert log.has("correct") == verdicts
    marks, groups = group_with_scale(log, lambda _: {})
    assert marks == find_scale(log)
    expected = group_rollouts(log, marks=marks).collect()
    assert groups.sort("group_id").equals(expected.sort("group_id"))
