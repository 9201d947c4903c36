"""`Run`: TOML and command line to checked settings and back.

Oracles: equality after a round trip, the dataclass itself, and precedence worked out by hand.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.errors import ConfigError
from onedial.core.field_rules import get_default
from onedial.core.settings import PLAIN_FIELDS, RUN_RULES, Run
from onedial.core.settings_file import make_run, merge, read_resolved, read_settings, to_toml, write_run


def round_trip(run: Run, folder: Path) -> Run:
    placed = replace(run, out=str(folder))
    write_run(run, placed.resolved(micro_batch_tokens=64))
    return make_run(read_settings(folder / "run.toml"))


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_every_row_survives_the_file(name: str, tmp_path: Path) -> None:
    run = Run(algorithm=ALGORITHMS[name])
    assert round_trip(run, tmp_path) == run


def test_changed_settings_cells_and_options_survive_the_file(tmp_path: Path) -> None:
    row = replace(ALGORITHMS["dapo"], clip_high=0.3, overlong_buffer=4, clip_dual=3.0)
    run = Run(
        model='a "quoted" \\ näme',
        task="arithmetic",
        task_options={"levels": "add1,mul1", "held_out": 0.5},
        algorithm=row,
        lr=3.3e-7,
        activation_checkpointing=True,
        data="",
        lora_targets="ü b",
    )
    assert round_trip(run, tmp_path) == run


def test_a_row_of_ones_own_survives_the_file(tmp_path: Path) -> None:
    run = Run(algorithm=replace(ALGORITHMS["grpo"], name="mine", dial=0.5, length_budget=None))
    assert round_trip(run, tmp_path) == run


@settings(max_examples=60, deadline=None)
@given(
    lr=st.floats(1e-12, 1e3),
    temperature=st.floats(1e-6, 100),
    top_p=st.floats(1e-9, 1),
    seed=st.integers(-(2**62), 2**62),
    tokens=st.integers(1, 10**9),
    text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30),
)
def test_any_values_survive_text(
    lr: float, temperature: float, top_p: float, seed: int, tokens: int, text: str
) -> None:
    """Through TOML, and through strings as the command line gives them: floats to the last bit."""
    import tomlkit

    run = Run(model=text, lr=lr, temperature=temperature, top_p=top_p, seed=seed, max_new_tokens=tokens)
    assert make_run(tomlkit.parse(to_toml(run)).unwrap()) == run
    plain = {name: str(getattr(run, name)) for name in PLAIN_FIELDS}
    assert make_run(plain) == run


def test_every_field_is_explained_and_there_are_not_too_many() -> None:
    assert all(rule.help for rule in RUN_RULES.values())
    leaves = len(PLAIN_FIELDS) + 3  # task_options, algorithm, allocator: their leaves belong to task and rows
    assert leaves == len(fields(Run)) <= 60


def test_every_cell_of_a_row_is_explained() -> None:
    from onedial.cli.algorithms import describe_cells

    meanings = describe_cells()
    assert all(meanings.values())
    assert set(meanings) == {cell.name for cell in fields(Algorithm)}
    assert meanings["ddof"].startswith("0: population σ̂")


def test_later_layers_win_and_tables_merge_by_key() -> None:
    file = {
        "lr": 1e-6,
        "seed": 4,
        "task": {"name": "arithmetic", "levels": "add1"},
        "algorithm": {"row": "dapo", "clip_high": 0.3},
    }
    line = {"seed": "5", "task": {"held_out": "0.3"}, "algorithm": {"eps": "1e-4"}}
    run = make_run(merge(file, line))
    assert (run.lr, run.seed, run.iterations) == (1e-6, 5, get_default(Run, "iterations"))
    assert dict(run.task_options) == {"levels": "add1", "held_out": "0.3"}
    assert (run.algorithm.name, run.algorithm.clip_high, run.algorithm.eps) == ("dapo", 0.3, 1e-4)


def test_a_new_name_starts_its_table_afresh() -> None:
    file = {"task": {"name": "arithmetic", "levels": "add1"}, "algorithm": {"row": "dapo", "clip_high": 0.3}}
    run = make_run(merge(file, {"task": "countdown", "algorithm": {"row": "gspo"}}))
    assert (run.task, dict(run.task_options)) == ("countdown", {})
    assert run.algorithm == ALGORITHMS["gspo"]
    same = make_run(merge(file, {"task": "arithmetic"}))
    assert dict(same.task_options) == {"levels": "add1"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "1e-6", 1e-6),
        ("lr", "1", 1.0),
        ("iterations", "1e3", 1000),
        ("iterations", 7.0, 7),
        ("activation_checkpointing", "true", True),
        ("activation_checkpointing", "No", False),
        ("track", "tensorboard,wandb", "tensorboard,wandb"),
        ("out", "5", "5"),
    ],
)
def test_strings_become_the_type_of_the_field(name: str, text: Any, value: Any) -> None:
    found = getattr(make_run({name: text}), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("text", "value"), [("none", None), ("0.4", 0.4)])
def test_cells_take_none(text: str, value: float | None) -> None:
    changed = {"row": "grpo", "clip_low": text, "clip_high": text}
    row = make_run({"algorithm": changed}).algorithm
    assert (row.clip_low, row.clip_high) == (value, value)


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"learning_rate": 1}, r"unknown setting 'learning_rate'"),
        ({"iteration": 1}, r"unknown setting 'iteration'; did you mean 'iterations'\?"),
        ({"task_options": {}}, "unknown setting 'task_options'"),
        ({"algorithm": "dappo"}, r"'dappo' is not in the table; did you mean 'dapo'\?"),
        ({"algorithm": {"row": "dapo", "cliphigh": 1}}, r"unknown cell algorithm.cliphigh; did you mean 'clip_high'\?"),
        ({"algorithm": {"aggregate": "token_mea"}}, r"must be one of .*did you mean 'token_mean'\?"),
        ({"iterations": "many"}, "iterations='many': must be int"),
        ({"iterations": 1.5}, "iterations=1.5: must be int"),
        ({"iterations": True}, "iterations=True: must be int"),
        ({"lr": "fast"}, "lr='fast': must be float"),
        ({"lr": "inf"}, "lr=inf"),
        ({"lr": "nan"}, "lr=nan"),
        ({"activation_checkpointing": "maybe"}, "must be bool"),
        ({"out": 5}, "out=5: must be str"),
        ({"schedule": "step"}, "schedule='step': must be one of constant, linear, cosine"),
        ({"temperature": 0}, r"temperature=0.0: must lie in \[1e-06, 1e\+06\]; training at temperature 0"),
        ({"algorithm": "grpo", "group_size": 1}, "a group of one teaches nothing"),
        ({"algorithm": {"row": "grpo", "refill": "true"}}, "refill replaces groups that keep='all' never drops"),
        (
            {"algorithm": {"row": "dapo", "overlong": "penalty", "overlong_buffer": 99}, "max_new_tokens": 10},
            "must not exceed max_new_tokens=10",
        ),
    ],
)
def test_mistakes_are_named(given_settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_run(given_settings)


@pytest.mark.parametrize("name", [cell.name for cell in fields(Run) if cell.type in ("float", "int")])
def test_no_number_may_be_nan_or_infinite(name: str) -> None:
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ConfigError, match=name):
            make_run({name: value})
        with pytest.raises(ConfigError, match=name):
            Run(**{name: value})


def test_a_row_that_fixes_its_group_size_wins() -> None:
    assert Run(algorithm=ALGORITHMS["two_grpo"], group_size=8).resolved().group_size == 2


def test_the_length_budget_is_the_runs_limit() -> None:
    run = Run(algorithm=ALGORITHMS["dr_grpo"], max_new_tokens=77)
    assert run.resolved().algorithm.length_budget == 77
    assert Run(algorithm=replace(run.algorithm, length_budget=5)).resolved().algorithm.length_budget == 5


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_settings(tmp_path / "absent.toml")
    path = tmp_path / "broken.toml"
    path.write_text("lr = 1\nseed = = 2\n")
    with pytest.raises(ConfigError, match=r"broken.toml:2: not valid TOML"):
        read_settings(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(path)


@pytest.mark.parametrize(
    ("old", "value", "new"),
    [
        ("level", "sequence", "ratio_level"),
        ("importance", "truncate", "sampler_correction"),
        ("importance_level", "sequence", "correction_level"),
        ("importance_cap", 1.5, "correction_cap"),
        ("importance_floor", 0.5, "correction_floor"),
    ],
)
def test_a_cell_under_its_old_name_is_refused_with_the_new_one(old: str, value: Any, new: str) -> None:
    """A run.toml written before the renaming must not lose a cell in silence."""
    with pytest.raises(ConfigError, match=f"old.toml: unknown cell algorithm.{old}; it is called '{new}' now"):
        make_run({"algorithm": {"row": "grpo", old: value}}, where="old.toml: ")


def test_resolved_values_are_not_taken_for_chosen_ones(tmp_path: Path) -> None:
    """A rerun of run.toml with another limit has that limit's length budget, and plans its own micro-batches."""
    run = replace(Run(algorithm=ALGORITHMS["dr_grpo"], max_new_tokens=256), out=str(tmp_path))
    write_run(run, run.resolved(micro_batch_tokens=896))
    stored = read_settings(tmp_path / "run.toml")
    again = make_run(merge(stored, {"max_new_tokens": "1024"})).resolved()
    assert again.algorithm.length_budget == 1024 and again.micro_batch_tokens == 0
    assert replace(run, max_new_tokens=1024).resolved().algorithm.length_budget == 1024
    assert read_resolved(tmp_path) == {"group_size": 8, "length_budget": 256, "micro_batch_tokens": 896}
    two = Run(algorithm=ALGORITHMS["two_grpo"])
    assert two.resolved().group_size == 2 and replace(two, algorithm=ALGORITHMS["dapo"]).resolved().group_size == 8


def test_a_function_as_baseline_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file can name it, the same function comes back; where none can, the message names the remedy."""
    from onedial.core.user_code import load_object

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def median(rewards):\n    return rewards.median(dim=1, keepdim=True).values\n")
    median = load_object("mine.py:median")
    run = Run(algorithm=replace(ALGORITHMS["dr_grpo"], name="median", baseline=median))
    (tmp_path / "run").mkdir()
    assert round_trip(run, tmp_path / "run").algorithm.baseline is median
    local = replace(run, algorithm=replace(run.algorithm, baseline=lambda rewards: rewards))
    with pytest.raises(
        ConfigError, match=r"resume from that program with the same row, onedial.train\(run, resume=True\)"
    ):
        round_trip(local, tmp_path / "run")
