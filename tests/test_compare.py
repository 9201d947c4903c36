"""Comparisons: paired runs at equal tokens, resumable, with intervals that say what the data cannot tell apart.

Oracles: hand-made records, scipy's t interval, the logs that the trainer itself writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from onedial.cli.main import main
from onedial.core.errors import ConfigError, RunDirError
from onedial.core.run_log import read_json_lines
from onedial.evidence import paired_runs
from onedial.evidence.arm_summary import summarize
from onedial.evidence.arms import Arm, cross_arms, make_arm_run
from onedial.evidence.comparison import describe_difference, make_plots
from onedial.evidence.paired_runs import RECORD, train_arm
from onedial.evidence.paired_statistics import (
    cost_to_reach,
    final_accuracy,
    mean_curve,
    pair_difference,
    pair_ratio,
    token_grid,
)
from run_records import record
from train_tasks import Early

BUDGET = 300


PAIRS = [(0.70, 0.60), (0.62, 0.55), (0.81, 0.70), (0.75, 0.66)]
RECORDS = [
    made
    for seed, (better, worse) in enumerate(PAIRS)
    for made in (record("worse", seed, [0.1, worse]), record("better", seed, [0.1, better]))
]


# --- statistics --------------------------------------------------------------------------------------------------


def test_differences_are_paired_by_seed() -> None:
    """Oracle: scipy's interval of the differences of pairs."""
    found = pair_difference(RECORDS, "better", "worse", final_accuracy)
    values = [a - b for a, b in PAIRS]
    wanted = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (found.estimate.low, found.estimate.high) == pytest.approx(wanted)
    assert found.told_apart


def test_seeds_that_only_one_arm_has_are_left_out() -> None:
    found = pair_difference([*RECORDS, record("better", 9, [0, 1.0])], "better", "worse", final_accuracy)
    assert found.estimate.num_prompts == 4
    with pytest.raises(ValueError, match="share no seed"):
        pair_difference([record("a", 0, [0, 1]), record("b", 1, [0, 1])], "a", "b", final_accuracy)


def test_what_cannot_be_told_apart_is_said_to_be_so() -> None:
    pairs = enumerate([(0.7, 0.6), (0.5, 0.62)])
    same = [record(arm, seed, [0.1, pair[n]]) for seed, pair in pairs for n, arm in enumerate("ab")]
    (found,) = summarize(same)["differences"]
    assert not found["told_apart"] and describe_difference(found).endswith("not told apart")
    assert "one seed has no interval" in describe_difference(summarize(same[:2])["differences"][0])
    (clear,) = summarize(RECORDS)["differences"]
    assert clear["told_apart"] and describe_difference(clear).startswith("better − worse: +9.2 points (+6.5 to +12.0)")


def test_intervals_of_several_arms_hold_jointly() -> None:
    """Oracle: with k differences each has the level 1 − 0.05/k."""
    many = [record(f"arm{n}", seed, [0, 0.1 * n + 0.01 * seed * n]) for n in range(4) for seed in range(3)]
    found = summarize(many)["differences"]
    assert [one["level"] for one in found] == pytest.approx([1 - 0.05 / 3] * 3)


def test_cost_to_a_target_by_hand() -> None:
    run = record("a", 0, [0.1, 0.5, 0.4, 0.9])
    assert cost_to_reach(run, 0.3) == pytest.approx(50) and cost_to_reach(run, 0.3, "rollouts") == pytest.approx(5)
    assert cost_to_reach(run, 0.65) == pytest.approx(250), "the first crossing, on the line from 0.4 to 0.9"
    assert cost_to_reach(run, 0.05) == 0 and cost_to_reach(run, 0.95) is None


def test_ratios_are_geometric_means() -> None:
    runs = [record("a", s, [0, 1], [0, t]) for s, t in enumerate((100, 400))]
    runs += [record("b", s, [0, 1], [0, t]) for s, t in enumerate((200, 200))]
    ratio = pair_ratio(runs, "a", "b", lambda one: cost_to_reach(one, 1.0))
    assert ratio is not None and ratio.value == pytest.approx(1.0) and ratio.low < 0.5 and ratio.high > 2
    assert pair_ratio(runs, "a", "b", lambda one: cost_to_reach(one, 1.1)) is None, "never reached"


def test_mean_curves_lie_on_a_grid_that_all_runs_reach() -> None:
    runs = [record("a", 0, [0.0, 1.0], [0, 100]), record("a", 1, [0.0, 0.5], [0, 200])]
    assert token_grid(runs)[-1] == 100
    found = mean_curve(runs, "a", [0, 100, 150])
    assert found[1] is not None and found[1].value == pytest.approx((1.0 + 0.25) / 2) and found[2] is None


def test_a_page_has_one_line_per_arm() -> None:
    accuracy = make_plots(RECORDS)[0]
    assert [line.name for line in accuracy.series] == ["worse", "better"]
    assert accuracy.series[1].y[-1] == pytest.approx(np.mean([pair[0] for pair in PAIRS]))
    assert len({line.role for line in accuracy.series}) == 2


# --- runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def base(tiny_model: Path) -> dict[str, Any]:
    return {
        "model": str(tiny_model), "task": Early(), "max_generated_tokens": BUDGET, "prompts_per_iteration": 3,
        "group_size": 4, "max_new_tokens": 6, "lr": 1e-3, "dtype": "float32", "threads": 1,
        "micro_batch_tokens": 2048, "eval_prompts": 4, "eval_samples": 2, "eval_every": 2, "verifier_workers": 1,
    }  # fmt: skip


ARMS = (Arm("naive_grpo", {"algorithm": {"row": "naive_grpo"}}), Arm("two_grpo", {"algorithm": {"row": "two_grpo"}}))


def test_arms_of_different_group_sizes_cost_the_same_tokens(base: dict[str, Any], tmp_path: Path) -> None:
    runs = [make_arm_run(arm, 0, base, tmp_path) for arm in ARMS]
    records = [train_arm(run, arm, title=arm.name, plain=True) for run, arm in zip(runs, ARMS, strict=True)]
    for run, made in zip(runs, records, strict=True):
        spent = made["series"]["tokens_generated"]
        assert sum(spent[:-1]) < BUDGET <= sum(spent) == made["curve"][-1]["tokens"]
        logged = read_json_lines(run.directory / "eval.jsonl")
        assert [point["avg"] for point in made["curve"]] == pytest.approx([one["avg"]["value"] for one in logged])
        assert not (run.directory / "checkpoints").exists(), "weights of a finished run are not kept"
    assert len(records[1]["series"]["time_s"]) > len(records[0]["series"]["time_s"])
    assert records[0]["curve"][0] == records[1]["curve"][0], "the same model on the same held-out prompts"


def test_a_finished_run_is_read_and_a_stopped_one_goes_on(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the record of a run that was never stopped, but for its seconds."""
    whole = train_arm(make_arm_run(ARMS[0], 0, base, tmp_path / "whole"), ARMS[0], title="", plain=True)
    run = make_arm_run(ARMS[0], 0, base, tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr("onedial.training.trainer.loop.save_checkpoint", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_arm(run, ARMS[0], title="", plain=True)
    assert not (run.directory / RECORD).exists()
    made = train_arm(run, ARMS[0], title="", plain=True)
    for one in (whole, made):
        for point in one["curve"]:
            del point["seconds"]
        del one["series"]["time_s"]
    assert made == whole
    monkeypatch.setattr(paired_runs, "train", _refuse)
    assert train_arm(run, ARMS[0], title="")["series"].keys() >= {"time_s"}


def _flip_a_digit(content: bytes) -> bytes:
    return content.replace(b'"iteration": 2', b'"iteration": 3', 1)


def test_a_damaged_record_is_made_again_from_the_logs(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_arm_run(ARMS[0], 0, base, tmp_path)
    whole = train_arm(run, ARMS[0], title="", plain=True)
    monkeypatch.setattr(paired_runs, "train", _refuse)
    path = run.directory / RECORD
    sound = path.read_bytes()
    for content in (sound[: len(sound) // 2], b"", b"[]", b"{}", b"\xff" + sound, b"[" * 99999, _flip_a_digit(sound)):
        assert content != sound
        path.write_bytes(content)
        assert train_arm(run, ARMS[0], title="", plain=True) == whole
        assert "damaged" in capsys.readouterr().err and path.read_bytes() == sound
    path.unlink()
    path.mkdir()
    with pytest.raises(RunDirError, match=r"record.json: cannot be read \(Is a directory\); move it away"):
        train_arm(run, ARMS[0], title="", plain=True)


def test_a_damaged_line_of_the_logs_is_never_left_out_of_a_record(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is not complete then: it is resumed, which writes the line again."""
    run = make_arm_run(ARMS[0], 0, base, tmp_path)
    train_arm(run, ARMS[0], title="", plain=True)
    (run.directory / RECORD).unlink()
    monkeypatch.setattr(paired_runs, "train", _refuse)
    for name in ("metrics.jsonl", "eval.jsonl"):
        log = run.directory / name
        sound = log.read_bytes()
        log.write_bytes(sound.replace(b"{", b"x", 1))
        with pytest.raises(AssertionError, match="trained again"):
            train_arm(run, ARMS[0], title="", plain=True)
        log.write_bytes(sound)
    train_arm(run, ARMS[0], title="", plain=True)


def _interrupt(*args: Any) -> None:
    raise KeyboardInterrupt


def _refuse(*args: Any, **options: Any) -> None:
    raise AssertionError("a finished run was trained again")


def test_a_folder_of_other_settings_is_refused(base: dict[str, Any], tmp_path: Path) -> None:
    train_arm(make_arm_run(ARMS[0], 0, base, tmp_path), ARMS[0], title="", plain=True)
    with pytest.raises(RunDirError, match=r"other settings \(lr\)"):
        train_arm(make_arm_run(ARMS[0], 0, base | {"lr": 2e-3}, tmp_path), ARMS[0], title="")


def test_arms_are_crossed() -> None:
    arms = cross_arms(["grpo", "rloo"], {"lr": ["1e-5", "2e-5"], "algorithm.dial": ["0", "1"]})
    assert len(arms) == 8 and arms[1].name == "grpo lr=1e-5 dial=1"
    assert arms[1].settings == {"algorithm": {"row": "grpo", "dial": "1"}, "lr": "1e-5"}
    with pytest.raises(ConfigError, match="is no comparison"):
        cross_arms(["grpo"], {})
    with pytest.raises(ConfigError, match="given twice"):
        cross_arms(["grpo", "grpo"], {})


def test_the_command_trains_compares_and_writes_a_page(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "model": tiny_model, "task": f"{Path(__file__).parent / 'train_tasks.py'}:Early", "max-generated-tokens": 150,
        "prompts-per-iteration": 3, "group-size": 4, "max-new-tokens": 6, "dtype": "float32", "threads": 1,
        "micro-batch-tokens": 2048, "eval-prompts": 4, "eval-samples": 1, "num-seeds": 2, "out": tmp_path / "out",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    assert main(["compare", "rloo", "naive_grpo", *words]) == 0
    out = capsys.readouterr().out
    assert "naive_grpo − rloo" in out and "held out" in out
    outcome = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [run["arm"] for run in outcome["runs"]] == ["rloo", "naive_grpo"] * 2
    assert outcome["differences"][0]["seeds"] == 2
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "Which differences the data support" in page and "Held-out accuracy" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grpo"], "is no comparison"),
        (["grpo", "rloo"], "needs --max-generated-tokens N"),
        (["grpo", "rloo", "--vary", "lr"], "must be SETTING=A,B"),
        (["grpo", "--vary", "lr=1e-5,x", "--max-generated-tokens", "9"], "grpo lr=x: lr='x': must be float"),
        (["grpo", "rlo"], "did you mean 'rloo'?"),
        (["grpo", "rloo", "--num-seeds", "0"], "--num-seeds 0: must be at least 1"),
        (
            ["grpo", "sft", "--max-generated-tokens", "9"],
            "sft: max_generated_tokens=9: algorithm 'sft' generates nothing",
        ),
        (["grpo", "rloo", "--iterations", "5"], "unknown argument '--iterations'"),
        (["grpo", "rloo", "--max-generated-tokens", "9", "--eval-prompts", "0"], "leaves nothing to compare"),
    ],
)
def test_mistakes_are_told_before_anything_trains(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words]) == 2
    assert message in capsys.readouterr().err
