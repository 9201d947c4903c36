"""Groups from runs of neighbouring rows. Oracle: polars' own group-by over all rows (`group_frame`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from onedial.analysis.logs import read, runs
from onedial.analysis.logs.grouping import KINDS, group_frame, scale
from onedial.analysis.logs.runs import lean_groups
from onedial.analysis.logs.schema import Log

EXACT = ["c", "kind", "low", "high", "n", "size", "tokens"]


def make_log(folder: Path, *, order: str, ids: str, rewards: list[float | None], rows: int = 3600) -> Log:
    rng = np.random.default_rng(len(order) + len(ids))
    step, prompt = np.arange(rows) // 600, np.arange(rows) // 6 % 83
    values = rng.choice(np.array(rewards, dtype=object), rows)
    values[: rows // 3] = np.repeat(values[: rows // 18], 6)  # some silent groups
    table = pl.DataFrame(
        {
            "step": step,
            "prompt_id": [f"question {p}" for p in prompt] if ids == "text" else prompt,
            "reward": pl.Series(values.tolist(), dtype=pl.Float64),
            "completion_tokens": [None if i % 97 == 0 else int(i % 50) for i in range(rows)],
        }
    )
    if order != "runs":
        number = np.arange(rows)
        torn = np.concatenate([number[number % 6 < 4], number[number % 6 >= 4]])
        table = table[rng.permutation(rows) if order == "shuffled" else torn]
    table.write_parquet(folder / "log.parquet", row_group_size=500)
    return read(folder / "log.parquet")


@pytest.mark.parametrize("rewards", [[0.0, 1.0], [0.0, 0.5, 1.0], [-3.0, 2.5, 9.0], [0.0, 1.0, None, float("nan")]])
@pytest.mark.parametrize("ids", ["text", "numbers"])
@pytest.mark.parametrize("order", ["runs", "torn", "shuffled"])
def test_equals_a_group_by_over_all_rows(
    order: str, ids: str, rewards: list[float | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "BATCH_ROWS", 251)  # groups are cut by batches
    monkeypatch.setattr(runs, "MERGE_ROWS", 300)
    log = make_log(tmp_path, order=order, ids=ids, rewards=rewards)
    marks = scale(log)
    assert log.group_parts == ("prompt_id", "iteration")
    want = group_frame(log, marks=marks).collect().with_columns(pl.col("kind").replace_strict(KINDS, range(len(KINDS))))
    for one in (log, replace(log, group_parts=())):  # with the hash of every row, too
        found = lean_groups(one, marks=marks)
        assert found.get_column("p").n_unique() == 83 and found.get_column("blank").sum() == 3600 // 97 + 1
        both = [frame.select(pl.col(EXACT).cast(pl.Float64)).sort(EXACT) for frame in (found, want)]
        assert len(found) == len(want) == found.get_column("group_id").n_unique() and both[0].equals(both[1])
        assert found.get_column("total").sum() == pytest.approx(want.get_column("total").sum(), abs=1e-9)


def test_rows_without_an_id_are_no_group_and_an_empty_log_has_none(tmp_path: Path) -> None:
    rows = pl.DataFrame({"prompt_id": ["a", "a", None, "b", "b", None], "reward": [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]})
    rows.write_parquet(tmp_path / "log.parquet")
    log = read(tmp_path / "log.parquet")
    found = lean_groups(log).filter(pl.col("group_id").is_not_null())
    assert sorted(found.get_column("c").to_list()) == [1, 2]
    empty = replace(log, frame=log.frame.filter(pl.lit(False)))
    assert len(lean_groups(empty, marks=scale(log))) == 0
