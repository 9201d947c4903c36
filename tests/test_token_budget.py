"""`max_generated_tokens`: a run ends when its rollouts have cost that much, whatever its group size.

Oracles: the sum of `tokens_generated` over the lines of metrics, and the same run without an interruption.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.errors import ConfigError, RunDirError
from onedial.core.run_log import read_json_lines
from onedial.core.settings import Run
from onedial.training.trainer import loop
from train_tasks import Early

BUDGET = 400


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Run:
    return Run(
        model=str(tiny_model), task=Early(), algorithm=ALGORITHMS["naive_grpo"], out=str(tmp_path / "run"),
        iterations=1000, max_generated_tokens=BUDGET, prompts_per_iteration=3, group_size=4, max_new_tokens=6, lr=1e-3,
        dtype="float32", threads=1, micro_batch_tokens=2048, eval_prompts=5, eval_samples=1, checkpoint_every=2,
        verifier_workers=1,
    )  # fmt: skip


def tokens(directory: Path) -> list[int]:
    return [record["tokens_generated"] for record in read_json_lines(directory / "metrics.jsonl")]


def untimed(directory: Path) -> list[dict[str, Any]]:
    clock = {"time_s", "generate_s", "verify_s", "update_s", "tokens_per_s", "memory_gb"}
    records = read_json_lines(directory / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in clock} for record in records]


@pytest.mark.parametrize("size", [2, 8])
def test_a_run_ends_with_the_iteration_that_reaches_the_budget(run: Run, size: int) -> None:
    result = loop.train(replace(run, group_size=size))
    spent = tokens(result.directory)
    assert sum(spent[:-1]) < BUDGET <= sum(spent)
    evaluations = read_json_lines(result.directory / "eval.jsonl")
    assert [record["iteration"] for record in evaluations] == [0, len(spent)]
    assert result.after is not None


def test_a_run_that_was_stopped_ends_where_it_would_have_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loop.train(replace(run, out=run.out + "-whole"))
    with monkeypatch.context() as patch:
        real, seen = loop.measure_iteration, []

        def stop(*args: Any) -> Any:
            seen.append(args[0])
            if len(seen) == 4:
                raise KeyboardInterrupt
            return real(*args)

        patch.setattr(loop, "measure_iteration", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(run)
    loop.train(run, resume=True)
    assert untimed(Path(run.out)) == untimed(whole.directory)


def test_a_finished_run_says_how_to_go_on(run: Run) -> None:
    directory = loop.train(run).directory
    before = len(tokens(directory))
    with pytest.raises(RunDirError, match="--max-generated-tokens N"):
        loop.train(run, resume=True)
    loop.train(replace(run, max_generated_tokens=2 * BUDGET), resume=True)
    assert sum(tokens(directory)) >= 2 * BUDGET and len(tokens(directory)) > before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm": ALGORITHMS["sft"]}, "generates nothing; set iterations instead"),
        ({"schedule": "linear"}, "use schedule='constant'"),
        ({"max_generated_tokens": -1}, "must lie in"),
    ],
)
def test_a_budget_that_would_be_ignored_is_refused(run: Run, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(run, **settings)
