"""Training with each allocator on the tiny model. Oracles: a run that never stopped, the log, the error's text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from onedial.analysis.page.belief_plot import plot_belief
from onedial.analysis.page.curves import plot_run
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.allocator_table import ALLOCATORS, change_allocator, get_allocator
from onedial.core.errors import AllocatorError, ConfigError, DataError
from onedial.core.run_log import read_json_lines
from onedial.core.settings import Run
from onedial.core.settings_file import make_run, read_run_settings, settings_to_plain
from onedial.training.budget.allocation import Fixed, RolloutRequest
from onedial.training.budget.prior import read_prior
from onedial.training.trainer import checkpoint
from onedial.training.trainer.loop import train
from onedial.training.trainer.metrics import METRICS
from train_tasks import HalfImpossible

CLOCK = {"time_s", "generate_s", "verify_s", "update_s", "tokens_per_s", "memory_gb"}


@pytest.fixture
def run(small_run: Run) -> Run:
    return replace(small_run, task=HalfImpossible(), algorithm=ALGORITHMS["posterior"], max_new_tokens=5)


def masters(directory: str) -> dict[str, torch.Tensor]:
    newest = checkpoint.find_latest(Path(directory))
    assert newest is not None
    return load_file(newest / "resume" / "masters.safetensors")


def untimed(directory: str) -> list[dict[str, Any]]:
    records = read_json_lines(Path(directory) / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in CLOCK} for record in records]


def rollouts(directory: str) -> pl.DataFrame:
    return pl.read_parquet(Path(directory) / "rollouts" / "*.parquet").sort("group_id", "rollout_index")


COMBINATIONS = [
    ("posterior", "adaptive", {"rounds": 2, "most": 4}),
    ("posterior", "sequential", {"round_size": 2, "rounds": 3, "kept": 2}),
    ("posterior", "spo", {}),
    ("naive_grpo", "mopps", {}),
    ("rloo", "vip", {}),
    ("mixed_grpo", "paper", {}),
    ("dr_grpo", "two", {}),
    ("mixed_grpo", "fixed", {}),
    ("mixed_grpo", "dynamic", {}),
]


@pytest.mark.parametrize("row, name, options", COMBINATIONS, ids=[name for _, name, _ in COMBINATIONS])
def test_a_resumed_run_equals_the_uninterrupted_one(
    run: Run, row: str, name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """Invariance: weights, metrics and rollouts, with the belief taken from the checkpoint and the rollouts on disk."""
    run = replace(run, algorithm=ALGORITHMS[row], allocator=change_allocator(ALLOCATORS[name], options))
    train(run)
    half = replace(run, out=str(tmp_path / "half"))
    train(replace(half, iterations=3, checkpoint_every=2, keep_checkpoints=5))
    newest = checkpoint.find_latest(Path(half.out))
    assert newest is not None
    newest.rename(tmp_path / "gone")  # as if killed in iteration 3, after its rollouts were written
    train(half, resume=True)
    assert untimed(run.out) == untimed(half.out)
    first, second = masters(run.out), masters(half.out)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert rollouts(run.out).equals(rollouts(half.out))
    assert all(set(record) | CLOCK == set(METRICS) for record in untimed(run.out))


def test_the_log_says_who_was_visited_what_was_believed_and_what_came_of_it(run: Run) -> None:
    """Oracle: means over the rollouts on disk."""
    run = replace(
        run, allocator=change_allocator(ALLOCATORS["adaptive"], {"audit": 0.4, "candidates": 384}), iterations=6
    )
    train(run)
    frame, records = rollouts(run.out), untimed(run.out)
    groups = frame.group_by("iteration", "group_id").agg(
        pl.first("believed", "audit"), pl.col("correct").mean().alias("solved"), pl.len().alias("tries")
    )
    for record in records:
        mine = groups.filter(pl.col("iteration") == record["iteration"])
        audited = mine.filter("audit")
        assert record["candidates"] == 384 and record["groups_generated"] == len(mine)
        assert record["believed_mean"] == pytest.approx(mine["believed"].mean())
        assert record["audit_prompts"] == len(audited) == 5
        assert record["audit_believed"] == pytest.approx(audited["believed"].mean())
        assert record["audit_solved"] == pytest.approx(audited["solved"].mean())
    bins = [part for part in records[-1]["calibration"] if part]
    assert sum(n for _, _, n in bins) == 30
    error = sum(n * abs(believed - observed) for believed, observed, n in bins) / 30
    assert records[-1]["calibration_error"] == pytest.approx(error)
    assert frame["weight"].mean() == pytest.approx(1.0, abs=0.05)
    drawn = {plot.title: plot for plot in plot_run(Path(run.out))[0]}
    assert {"Belief of the allocator on audited prompts", "Calibration error of the belief"} <= set(drawn)
    plot = drawn["Believed and observed solve rate"]
    assert plot.x == tuple(believed for believed, _, _ in bins)
    assert plot.series[0].y == tuple(observed for _, observed, _ in bins) and plot.series[1].y == plot.x
    assert all(
        low <= y <= high for low, y, high in zip(plot.series[0].low, plot.series[0].y, plot.series[0].high, strict=True)
    )


def test_a_damaged_table_of_beliefs_leaves_its_sound_lines() -> None:
    """Named risk: a log cut by hand: texts, nulls, two numbers, an observed share of 2."""
    lines: list[Any] = [None, "x", [0.2, 0.1], [0.25, "a", 3], [0.35, 2.0, 3], [0.45, 0.5, 0], [0.55, 0.5, 4]]
    (plot,) = plot_belief([{"calibration": lines}])
    assert plot.x == (0.55,) and plot.series[0].y == (0.5,)
    assert plot_belief([{"calibration": None}, {"calibration": "all"}, {}]) == [] == plot_belief([])


def test_weights_that_no_loss_uses_are_not_stored(run: Run) -> None:
    train(replace(run, algorithm=ALGORITHMS["mixed_grpo"], allocator=ALLOCATORS["adaptive"], iterations=2))
    assert rollouts(run.out)["weight"].is_null().all() and not rollouts(run.out)["believed"].is_null().any()


class Raises(Fixed):
    """Raises in its second iteration, when its first round is answered."""

    def answer(self, groups: Any) -> None:
        super().answer(groups)
        if groups[0].iteration == 2:
            raise KeyError("no such prompt")


class Idle(Fixed):
    """Asks for nothing, for ever."""

    def ask(self) -> list[RolloutRequest]:
        return []


class Endless(Fixed):
    """Asks for the same rollouts again and again."""

    def ask(self) -> list[RolloutRequest]:
        return [RolloutRequest(3, 1)]


@pytest.mark.parametrize(
    "kind, message",
    [
        (Raises, "iteration 2: allocator Raises raised KeyError: 'no such prompt'. No update was made; its 3 groups"),
        (Idle, "iteration 10: allocator Idle requested no rollouts and trained nothing for 10 iterations"),
        (Endless, r"iteration 1: allocator Endless requested .*first the number of rollouts .* \(1\)"),
    ],
)
def test_a_broken_allocator_is_one_clear_error_and_no_rollout_is_lost(
    run: Run, kind: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The groups generated before are on disk, and the run goes on with them once the allocator is mended."""
    run = replace(run, algorithm=ALGORITHMS["naive_grpo"], iterations=12)
    monkeypatch.setattr("onedial.training.budget.open_allocator.Fixed", kind)
    with pytest.raises(AllocatorError, match=message):
        train(run)
    monkeypatch.undo()
    if kind is Raises:
        assert rollouts(run.out).filter(pl.col("iteration") == 2)["group_id"].n_unique() == 3
        written = rollouts(run.out).filter(pl.col("iteration") == 2)["token_ids"].to_list()
        train(replace(run, iterations=3), resume=True)
        assert rollouts(run.out).filter(pl.col("iteration") == 2)["token_ids"].to_list() == written


# --- one's own -----------------------------------------------------------------------------------------------------

OWN = """
from onedial.training.budget.allocation import Allocation, Fixed, UniformSchedule

class Own(Fixed):
    def __init__(self, run, look):
        super().__init__(run.prompts_per_iteration, UniformSchedule(run.group_size))

class Weighs(Own):
    def finish(self):
        found = super().finish()
        return Allocation(found.train, {} if self.position > 4 else found.statuses, expectations=self.expect(found))

    def expect(self, found):
        from onedial.training.budget.allocation import Expectation
        return {found.train[0].id: Expectation(weights=(1.0,) * len(found.train[0].usable))} if found.train else {}

class Forgets(Own):
    def finish(self):
        return Allocation([], {})

class Fails(Own):
    def __init__(self, run, look):
        raise KeyError("no table")

def half(run, look):
    return object()

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return "own.py"


def test_an_allocator_of_ones_own_trains_and_resumes(run: Run, own: str, tmp_path: Path) -> None:
    """Oracle: this one is `fixed` by another name: same weights, same rollouts, also resumed from its run.toml."""
    run = replace(run, algorithm=ALGORITHMS["naive_grpo"], iterations=4, out=str(tmp_path / "fixed"))
    train(replace(run, allocator=ALLOCATORS["fixed"]))
    mine = replace(run, allocator=get_allocator(f"{own}:Own"), out=str(tmp_path / "mine"))
    train(replace(mine, iterations=2, checkpoint_every=2))
    named = read_run_settings(tmp_path / "mine")
    assert named["allocator"] == {"name": "own.py:Own"}
    train(make_run({**named, "task": run.task, "iterations": 4, "out": mine.out}), resume=True)
    first, second = masters(run.out), masters(mine.out)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert rollouts(run.out).equals(rollouts(mine.out))


@pytest.mark.parametrize(
    "name, row, message",
    [
        ("own.py:Onw", "grpo", r"own.py has no 'Onw'; did you mean 'Own'"),
        ("own.py:number", "grpo", "allocator='own.py:number': is no class or function that makes an allocator"),
        ("own.py:half", "grpo", "what it makes, object, has no start, ask, answer, finish, state, restore"),
        ("own.py:Fails", "grpo", r"a function from positions to prompts raised KeyError: 'no table'"),
        ("own.py:Own", "posterior", "gave 0 baselines for the [0-9]+ usable rollouts of group"),
        ("own.py:Forgets", "grpo", r"iteration 1: allocator Forgets gave 3 of 3 generated groups no status"),
        ("own.py:Weighs", "grpo", "gave 0 weights for the [0-9]+ usable rollouts of group .*weigh every rollout"),
        ("own.py:Own", "sft", "trains on a dataset, so nothing is sampled"),
        ("missing.py:Own", "grpo", "missing.py: no such file"),
    ],
)
def test_a_mistake_in_ones_own_is_one_message(run: Run, own: str, name: str, row: str, message: str) -> None:
    settings = {"task": run.task, "model": run.model, "algorithm": row, "allocator": name, "device": "cpu"}
    more = {"group_size": 2, "prompts_per_iteration": 3, "max_new_tokens": 4, "eval_prompts": 0, "dtype": "float32"}
    with pytest.raises((ConfigError, AllocatorError), match=message):
        train(make_run({**settings, **more, "out": run.out}))


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"allocator": "adaptve"}, "allocator 'adaptve' is not in the table; did you mean 'adaptive'"),
        ({"allocator": {"name": "adaptive", "rh": 1}}, "unknown option allocator.rh; did you mean 'rho'"),
        ({"allocator": {"name": "two", "rho": 1}}, "of allocator 'two': it has none"),
        ({"allocator": {"name": "adaptive", "rho": "much"}}, "allocator.rho='much': must be float"),
        ({"allocator": {"name": "adaptive", "rho": 0}}, "allocator.rho=0.0: must be positive"),
        ({"allocator": {"name": "vip", "least": 9, "most": 8}}, "least=9: must not exceed allocator.most=8"),
        (
            {"allocator": {"name": "adaptive", "least": 9}, "group_size": 8},
            "least=9: must not exceed allocator.most, which",
        ),
        ({"allocator": "spo"}, "compares rollouts of one prompt; use algorithm 'posterior'"),
        ({"allocator": "dynamic", "algorithm": "grpo"}, "refill replaces groups that keep='all' never drops"),
        ({"allocator": "adaptive", "algorithm": "sft"}, "trains on a dataset, so nothing is sampled"),
        ({"allocator": "adaptive", "algorithm": "two_grpo"}, "fixes groups of 2"),
        ({"allocator": "adaptive", "algorithm": "vapo", "iterations": 60}, "has a critic instead"),
        ({"allocator": "two", "algorithm": "posterior"}, "and allocator='two' expects nothing"),
        ({"allocator": "adaptive", "plan": "plan.json"}, "leave one of them out"),
        ({"allocator": {"name": "adaptive", "unbiased": True}}, "a loss that is a plain sum over rollouts"),
        ({"allocator": {"name": "adaptive", "unbiased": True, "rounds": 2}}, "set allocator.rounds=1"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        make_run(settings)


def test_an_allocator_survives_the_file() -> None:
    """Invariance: settings → TOML values → settings; and text of a command line is converted."""
    asked = make_run({"algorithm": "posterior", "allocator": {"name": "adaptive", "rho": "0.3", "rounds": "2"}})
    assert (asked.allocator.rho, asked.allocator.rounds) == (0.3, 2)
    assert make_run(settings_to_plain(asked)) == asked
    assert "allocator" not in settings_to_plain(Run()), "the row's own choice stands in the row"
    chosen = {name: Run(algorithm=ALGORITHMS[name]).resolved().allocator.name for name in ("dapo", "grpo", "posterior")}
    assert chosen == {"dapo": "dynamic", "grpo": "fixed", "posterior": "adaptive"}


# --- prior -----------------------------------------------------------------------------------------------------------


def test_a_run_starts_from_what_another_or_a_table_knows(run: Run, tmp_path: Path) -> None:
    """Oracle: the first audits: without a prior every prompt is believed near 1/2, with one as the log has them."""
    train(replace(run, iterations=3))
    table = tmp_path / "rates.jsonl"
    table.write_text(
        "".join(json.dumps({"prompt": f"word {i}:", "solve_rate": 0.05, "tries": 8}) + "\n" for i in range(40))
    )
    believed = {}
    for name, prior in (("nothing", ""), ("past", run.out), ("table", str(table))):
        allocator = change_allocator(ALLOCATORS["adaptive"], {"prior": prior, "prior_tries": 8.0})
        out = str(tmp_path / name)
        train(replace(run, out=out, iterations=1, allocator=allocator))
        believed[name] = untimed(out)[0]["audit_believed"]
    assert believed["nothing"] == pytest.approx(0.5, abs=0.02)
    assert believed["table"] < 0.25  # it has faded by one iteration
    solved = rollouts(run.out)["correct"].mean()
    assert isinstance(solved, float) and abs(believed["past"] - solved) < abs(believed["nothing"] - solved)


def test_tries_of_a_prior_are_scaled_to_the_most(tmp_path: Path) -> None:
    """Hand values: a rate without tries is worth one, 64 tries count as 8, 3 as 3, none as none."""
    table = tmp_path / "rates.jsonl"
    rows = [{"solve_rate": 0.5}, {"correct": 16, "tries": 64}, {"correct": 2, "tries": 3}, {"correct": 0, "tries": 0}]
    table.write_text("".join(json.dumps({"prompt": f"p{i}", **row}) + "\n" for i, row in enumerate(rows)))
    counts = [(correct, tries) for _, correct, tries in read_prior(str(table), most_tries=8.0)]
    assert counts == [(0.5, 1.0), (2.0, 8.0), (2.0, 3.0), (0.0, 0.0)]


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"solve_rate": 0.5}\n', "row 1: no prompt; a table of solve rates has columns prompt_id or prompt"),
        ('{"prompt": "a"}\n', "row 1: no numbers in solve_rate, or in correct and tries"),
        ('{"prompt": "a", "solve_rate": 1.5}\n', "row 1: 1.5 correct of 1 tries; a solve rate lies in"),
    ],
)
def test_a_broken_prior_is_one_clear_error(run: Run, tmp_path: Path, content: str, message: str) -> None:
    table = tmp_path / "rates.jsonl"
    table.write_text(content)
    with pytest.raises(DataError, match=message):
        train(replace(run, allocator=change_allocator(ALLOCATORS["adaptive"], {"prior": str(table)})))
    assert not (Path(run.out) / "rollouts").exists()
