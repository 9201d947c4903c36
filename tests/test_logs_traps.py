"""The traps of each format by name, broken and hostile files, and rate tables. Oracles: hand values and dict loops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from findings_logs import key_figures, rate_log
from logs_data import make
from onedial.analysis.findings import collect
from onedial.analysis.findings.expected import expected_silent_shares
from onedial.analysis.findings.pass_rates import pass_rates
from onedial.analysis.logs import find_scale, read
from onedial.analysis.logs.grouping import group_rollouts, group_with_scale
from onedial.analysis.logs.readers.common import make_log
from onedial.analysis.logs.readers.rates import find_grid
from onedial.analysis.logs.readers.trl import measure_overlap
from onedial.analysis.logs.schema import Coverage
from onedial.analysis.logs.splits import count_splits, select_split
from onedial.analysis.logs.store import store_records
from onedial.core.errors import DataError


def figures_of(path: Path, **options: Any) -> dict[str, Any]:
    return key_figures(select_split(read(path, **options)))


def columns(path: Path, *names: str) -> list[tuple[Any, ...]]:
    return read(path).frame.select(names).collect().rows()


# TRL


def test_trl_rows_repeated_in_the_next_file_count_once(tmp_path: Path) -> None:
    """The same generation batch logged at steps 1 and 2, then half of it still queued at step 3."""
    rows = make.rollouts(1, iterations=1, prompts=4, ragged=False)
    later = [make.Row(3, row.prompt + 10, row.index, row.reward, row.tokens) for row in rows[:8]]
    make.trl(tmp_path, [make.Row(1, r.prompt, r.index, r.reward, r.tokens) for r in rows])
    first = pl.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    first.with_columns(step=pl.lit(2)).write_parquet(tmp_path / "completions" / "completions_00002.parquet")
    make.trl(tmp_path / "other", later)
    new = pl.read_parquet(tmp_path / "other" / "completions" / "completions_00003.parquet")
    pl.concat([first.with_columns(step=pl.lit(3))[8:], new.with_columns(step=pl.lit(3))]).write_parquet(
        tmp_path / "completions" / "completions_00003.parquet"
    )
    log = read(tmp_path / "completions")
    figures = key_figures(log)
    oracle = make.expected([*rows, *later])
    assert figures["rollouts"] == oracle["rollouts"] == 24
    assert figures["groups"] == oracle["groups"] and figures["mixed_share"] == oracle["mixed_share"]
    assert any("24 rows" in note for note in log.coverage.notes), log.coverage.notes


def test_trl_short_answers_that_repeat_by_chance_are_kept(tmp_path: Path) -> None:
    """The first row of a file equals the last of the one before, in the middle of a group: no proof, nothing cut."""
    assert measure_overlap([1, 2, 3, 4], [4, 5, 6], ["a", "a", "b"]) == 0
    assert measure_overlap([1, 2, 3, 4], [3, 4, 5, 6], ["a", "a", "a", "b"]) == 0
    assert measure_overlap([1, 2, 3, 4], [3, 4, 5, 6], ["a", "a", "b", "b"]) == 2
    assert measure_overlap([3, 4], [3, 4], ["a", "a"]) == 2


def test_trl_coverage_says_last_batch_inferred_groups_and_possible_evaluation(tmp_path: Path) -> None:
    coverage = read(make.trl(tmp_path, make.rollouts(0))).coverage
    assert coverage.last_batch_only is True
    assert coverage.group_identity == "inferred from the prompt text"
    assert coverage.evaluation_mixed_in is None


def test_trl_with_two_reward_functions_takes_the_one_that_judges(tmp_path: Path) -> None:
    rows = make.rollouts(3)
    make.trl(tmp_path, rows, second=True)
    oracle = make.expected(rows)
    named, total = figures_of(tmp_path), figures_of(tmp_path, outcome="total")
    assert named["mixed_share"] == oracle["mixed_share"]
    assert named["mean_shaped_reward"] == pytest.approx(total["mean_reward"])
    assert total["mixed_share"] > named["mixed_share"]  # the format reward splits unanimous groups
    assert named["on_shaped_reward"]["mixed_share"] == total["mixed_share"]
    assert {"reward_accuracy_reward", "reward_format_reward"} <= set(read(tmp_path).components)


def test_trl_conversational_prompts_are_grouped_by_content(tmp_path: Path) -> None:
    chat = [[{"role": "user", "content": f"q{i // 2}"}] for i in range(4)]
    done = [[{"role": "assistant", "content": f"a{i}"}] for i in range(4)]
    make.parquet(
        tmp_path / "completions_00001.parquet",
        {"step": [1] * 4, "prompt": chat, "completion": done, "f": [1.0, 0.0, 1.0, 1.0], "advantage": [0.0] * 4},
    )
    figures = figures_of(tmp_path)
    assert (figures["groups"], figures["mixed_share"]) == (2, 0.5)
    assert columns(tmp_path, "prompt")[0] == ("q0",)


# verl


def test_verl_score_includes_shaping_and_acc_is_the_outcome(tmp_path: Path) -> None:
    """With a length penalty in score, every all-wrong group looks mixed (verl-recipe 125); acc tells."""
    rows = make.rollouts(4)
    log = read(make.verl_legacy(tmp_path, rows, acc=True))
    figures, oracle = key_figures(log), make.expected(rows)
    assert log.coverage.reward_is == "acc"
    for name in ("mixed_share", "all_correct_share", "all_wrong_share", "mean_reward"):
        assert figures[name] == pytest.approx(oracle[name], abs=1e-12)
    assert figures["on_shaped_reward"]["mixed_share"] > figures["mixed_share"]
    shaped = sum((row.reward or 0) - 0.01 * row.tokens for row in rows) / len(rows)
    assert figures["mean_shaped_reward"] == pytest.approx(shaped)


def test_verl_without_acc_says_that_score_may_be_shaped(tmp_path: Path) -> None:
    log = read(make.verl_legacy(tmp_path, make.rollouts(4)))
    assert any("undercounted" in note for note in log.coverage.notes)


def test_verl_acc_missing_in_some_rows_falls_back_to_score(tmp_path: Path) -> None:
    base = {"input": "a", "output": "b", "gts": "c", "step": 1}
    make.lines(tmp_path / "1.jsonl", [{**base, "score": 1.0, "acc": True}, {**base, "score": 0.0}])
    figures = figures_of(tmp_path)
    assert (figures["mean_reward"], figures["mixed_share"]) == (0.5, 1.0)
    assert "acc` is missing in 1" in " ".join(figures["coverage"]["notes"])


def test_verl_v1_uid_with_several_outputs_is_one_rollout(tmp_path: Path) -> None:
    rows = [("u_0_0", 0.0), ("u_0_1", 1.0), ("u_1_0", 0.0), ("v_x_0_0", 1.0), ("v_x_1_0", 1.0)]
    make.lines(
        tmp_path / "7.jsonl",
        [{"input": uid[0], "output": "o", "gts": "", "score": s, "step": 7, "uid": uid} for uid, s in rows],
    )
    figures = figures_of(tmp_path)
    assert (figures["rollouts"], figures["groups"]) == (4, 2)
    assert (figures["mixed_share"], figures["all_correct_share"]) == (0.5, 0.5)


def test_verl_same_prompt_in_two_steps_is_two_groups(tmp_path: Path) -> None:
    for step in (1, 2):
        make.lines(
            tmp_path / f"{step}.jsonl",
            [{"input": "p", "output": "o", "gts": "", "score": float(step == i), "step": step} for i in (1, 2)],
        )
    assert figures_of(tmp_path)["groups"] == 2


def test_verl_survivors_only_is_told_by_the_groups(tmp_path: Path) -> None:
    """24 groups, all mixed: the filter was on. With one silent group it was off."""
    objects = [
        {"input": f"p{p}", "output": "o", "gts": "", "score": float(i), "step": 1, "uid": f"u{p}_{i}_0"}
        for p in range(24)
        for i in range(2)
    ]
    make.lines(tmp_path / "a" / "1.jsonl", objects)
    assert read(tmp_path / "a").coverage.survivors_only is True
    assert figures_of(tmp_path / "a")["pass_at_k"] is None
    silent = [{**objects[0], "input": "s", "uid": f"s_{i}_0"} for i in range(2)]
    make.lines(tmp_path / "b" / "1.jsonl", objects + silent)
    assert read(tmp_path / "b").coverage.survivors_only is False
    assert figures_of(tmp_path / "b")["mixed_share"] == 24 / 25
    make.lines(tmp_path / "c" / "1.jsonl", objects[:8])
    assert read(tmp_path / "c").coverage.survivors_only is None


@pytest.mark.parametrize(
    ("rewards", "told"),
    [
        ([0.0, 0.25, 0.5, 0.75], None),  # graded rewards hardly ever tie
        ([0.0] * 8 + [1.0] * 8, None),  # 24 groups of 16 at one half: 0.9993 of such logs have no silent group
        ([0.0, 0.0, 0.0, 1.0], True),  # (1 − (3/4)⁴ − (1/4)⁴)²⁴ = 4e-5
    ],
)
def test_a_log_without_silent_groups_is_a_filtered_one_only_where_chance_would_have_made_some(
    rewards: list[float], told: bool | None, tmp_path: Path
) -> None:
    objects = [
        {"input": f"p{p}", "output": "o", "gts": "", "score": reward, "step": 1, "uid": f"u{p}_{i}_0"}
        for p in range(24)
        for i, reward in enumerate(rewards)
    ]
    make.lines(tmp_path / "1.jsonl", objects)
    assert read(tmp_path).coverage.survivors_only is told


def test_verl_validation_dump_beside_the_rollouts_is_set_aside(tmp_path: Path) -> None:
    rows = make.rollouts(2, iterations=2)
    make.verl_legacy(tmp_path / "rollouts", rows)
    make.verl_legacy(tmp_path / "validation", make.rollouts(9, iterations=1))
    log = read(tmp_path)
    assert count_splits(log)["eval"] > 0
    figures = key_figures(select_split(log))
    assert figures["rollouts"] == len(rows) and figures["groups"] == make.expected(rows)["groups"]
    assert "set aside" in " ".join(figures["coverage"]["notes"])


# prime-rl and verifiers


def test_prime_rl_reads_all_and_not_effective(tmp_path: Path) -> None:
    rows = make.rollouts(6)
    log = select_split(read(make.prime_rl(tmp_path, rows)))
    assert key_figures(log)["rollouts"] == len(rows)
    assert all(file.parent.name == "all" for file in log.files)
    only = tmp_path / "only" / "rollouts" / "step_1" / "train" / "effective" / "traces.jsonl"
    make.lines(only, (make.episode(row) for row in rows[:6]))
    notes = " ".join(read(tmp_path / "only").coverage.notes)
    assert "Only `effective` was found" in notes


def test_trace_reward_is_the_weighted_sum_of_what_was_computed(tmp_path: Path) -> None:
    """2·0.5 + 0·0.25, the null reward left out (hand value), never a stored total."""
    path = make.lines(tmp_path / "traces.jsonl", [make.episode(make.Row(1, 0, 0, 1.0, 4))])
    row = read(path).frame.collect().row(0, named=True)
    assert row["outcome_reward"] == 1.0 and row["reward_solved"] == 1.0 and row["reward_extra"] == 0.0
    assert (row["prompt_tokens"], row["completion_tokens"]) == (7, 4)
    assert row["mean_logp"] == pytest.approx(-0.5) and row["advantage"] == pytest.approx(0.1)


def test_trace_group_that_spans_two_steps_is_one_group(tmp_path: Path) -> None:
    for step, index in ((1, 0), (2, 1)):
        make.lines(
            tmp_path / "rollouts" / f"step_{step}" / "train" / "all" / "traces.jsonl",
            [make.episode(make.Row(1, 5, index, float(index), 4))],
        )
    figures = figures_of(tmp_path)
    assert (figures["groups"], figures["mixed_share"]) == (1, 1.0)


def test_trace_of_an_agent_that_does_not_train_is_no_rollout(tmp_path: Path) -> None:
    record = make.episode(make.Row(1, 0, 0, 1.0, 4))
    helper = {**record["traces"][0], "agent": {"name": "judge", "trainable": False}}
    record["traces"].append(helper)
    figures = figures_of(make.lines(tmp_path / "traces.jsonl", [record]))
    assert figures["rollouts"] == 1 and "1 trace of agents" in " ".join(figures["coverage"]["notes"])


def test_flat_traces_of_older_versions(tmp_path: Path) -> None:
    """One trace a line, with group_id and a plain number as reward."""
    objects = []
    for index in range(4):
        trace = make.episode(make.Row(1, index // 2, index, 1.0, 4))["traces"][0]
        trace |= {"rewards": {"r": float(index % 2 or index > 1)}, "group_id": f"g{index // 2}", "kind": "train"}
        objects.append(trace)
    figures = figures_of(make.lines(tmp_path / "traces.jsonl", objects))
    assert (figures["groups"], figures["mixed_share"], figures["all_correct_share"]) == (2, 0.5, 0.5)


def test_verifiers_unfinished_evaluation_is_said(tmp_path: Path) -> None:
    log = read(make.verifiers(tmp_path, make.rollouts(0), promised=5000))
    assert any("did not finish" in note for note in log.coverage.notes)


def test_verifiers_old_id_that_repeats_is_the_example(tmp_path: Path) -> None:
    """Two examples with the same text (as with images left out) stay two groups when id repeats."""
    base = {"prompt": "same", "completion": "x", "task": "default", "answer": "", "generation_ms": 0.0}
    rows = [{**base, "id": i % 2, "reward": float(i > 1)} for i in range(4)]
    assert figures_of(make.lines(tmp_path / "a" / "results.jsonl", rows))["groups"] == 2
    rows = [{**base, "id": i, "reward": 1.0} for i in range(4)]
    assert figures_of(make.lines(tmp_path / "b" / "results.jsonl", rows))["groups"] == 1


def test_verifiers_files_of_two_models_are_never_one_group(tmp_path: Path) -> None:
    rows = make.rollouts(1, iterations=1)
    make.verifiers(tmp_path / "env--model-a" / "1", rows)
    make.verifiers(tmp_path / "env--model-b" / "2", rows)
    assert figures_of(tmp_path)["groups"] == 2 * make.expected(rows)["groups"]


# NeMo-RL and ms-swift


def test_nemo_misaligned_rewards_are_not_read(tmp_path: Path) -> None:
    rows = make.rollouts(3, iterations=10, ragged=False)
    log = read(make.nemo(tmp_path, rows, dynamic=True))
    assert log.coverage.survivors_only is True and log.coverage.reward_is == "filtered_rewards"
    assert key_figures(log)["mean_reward"] == pytest.approx(make.expected(rows)["mean_reward"])
    assert log.frame.select(pl.col("mean_logp").mean()).collect().item() == pytest.approx(-0.125)


def test_swift_flush_logged_twice_counts_once_and_cut_rows_are_counted(tmp_path: Path) -> None:
    rows = make.rollouts(5, ragged=False)
    log = read(make.swift(tmp_path / "a", rows, twice=True))
    assert key_figures(log)["rollouts"] == len(rows)
    said = "Counted once, since they repeat the flush before: "
    assert f"{said}{len(rows)} rows." in log.coverage.notes
    make.lines(
        tmp_path / "b" / "completions.jsonl",
        [
            {
                "step": ["1"] * 3,
                "prompt": ["p"] * 3,
                "completion": ["a", "b", "c"],
                "Acc": [1.0, 0.0],
                "advantages": [0.1, 0.2],
            }
        ],
    )
    log = read(tmp_path / "b")
    assert key_figures(log)["rollouts"] == 2
    assert any("cut off in some column: 1 row." in note for note in log.coverage.notes)
    assert not any(said in note for note in log.coverage.notes)


def test_swift_ray_lines_are_lists_of_rows(tmp_path: Path) -> None:
    rows = [{"gen_step": 3, "prompt": f"p{i // 2}", "completion": "c", "reward": float(i == 0)} for i in range(4)]
    log = read(make.lines(tmp_path / "completions.jsonl", [rows]))
    figures = key_figures(log)
    assert (log.format, figures["groups"], figures["mixed_share"], figures["all_wrong_share"]) == (
        "ms-swift",
        2,
        0.5,
        0.5,
    )


# scales and silence


def test_a_log_that_names_a_reward_per_row_stays_small(tmp_path: Path) -> None:
    records = [make.episode(make.Row(1, i // 4, i, float(i % 2), 4)) for i in range(200)]
    for i, record in enumerate(records):
        record["traces"][0]["rewards"][f"part{i}\ud800"] = {"score": 0.0, "weight": 1.0}
    log = read(make.lines(tmp_path / "traces.jsonl", records))
    assert len(log.components) == 64
    assert key_figures(log)["mixed_share"] == 1.0


def test_silence_is_max_equals_min_and_never_a_standard_deviation(tmp_path: Path) -> None:
    """0.95 eight times: numpy's std is not 0 and its mean is not 0.95; the group is silent all the same."""
    objects = [{"prompt": "a", "reward": 0.95} for _ in range(8)] + [{"prompt": "b", "reward": r} for r in (0.3, 0.9)]
    figures = figures_of(make.lines(tmp_path / "a.jsonl", objects))
    assert (figures["mixed_share"], figures["silent_other_share"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("rewards", "right", "wrong", "exact"),
    [
        ([1.0, 0.0], 1.0, 0.0, True),
        ([1.0, -1.0], 1.0, -1.0, True),
        ([10.0, 0.0], 10.0, 0.0, True),
        ([0.5, 1.0, 0.0], 1.0, 0.0, True),
        ([0.2, 0.4], 1.0, 0.0, True),
        ([1.0, 1.0], 1.0, 0.0, True),
        ([0.0, 0.0], 1.0, 0.0, True),
        ([0.7, 0.7], None, None, False),
        ([0.0, 0.6, 1.2], 1.2, 0.0, False),
    ],
)
def test_which_reward_is_right(
    rewards: list[float], right: float | None, wrong: float | None, exact: bool, tmp_path: Path
) -> None:
    marks = find_scale(read(make.lines(tmp_path / "a.jsonl", [{"prompt": "a", "reward": r} for r in rewards])))
    assert (marks.right, marks.wrong, marks.exact) == (right, wrong, exact)


@pytest.mark.parametrize("late", [0.5, 2.0, None])
def test_a_third_reward_far_into_a_log_is_seen(late: float | None, tmp_path: Path) -> None:
    """Two values in the first rows are a guess: a third beyond them changes what is right, as in `find_scale`."""
    objects = [{"prompt": f"p{i // 4}", "reward": float(i % 3 == 0)} for i in range(24_000)]
    if late is not None:
        objects[-1]["reward"] = late
    log = read(make.lines(tmp_path / "a.jsonl", objects), text=False)
    marks, groups = group_with_scale(log, lambda marks: {})
    assert marks == find_scale(log)
    again = group_rollouts(log, marks=find_scale(log)).collect()
    assert groups.sort("group_id").equals(again.sort("group_id").select(groups.columns))
    assert (marks.right, marks.exact) == {0.5: (1.0, True), 2.0: (2.0, False), None: (1.0, True)}[late]
    assert groups.get_column("c").sum() == sum(row["reward"] == marks.right for row in objects)


def test_a_graded_verdict_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    """acc of 0.5 in every rollout: silent, but not all wrong; 0.0 and 1.0 stay what they are."""
    objects = [{"prompt": p, "acc": v} for p, v in (("a", 0.5), ("b", 0.0), ("c", 1.0)) for _ in range(3)]
    figures = figures_of(make.lines(tmp_path / "a.jsonl", objects), format="table")
    assert [figures[f"{kind}_share"] for kind in ("all_correct", "all_wrong", "silent_other")] == [1 / 3] * 3


def test_graded_rewards_on_an_unknown_scale_withhold_pass_at_k(tmp_path: Path) -> None:
    figures = figures_of(make.lines(tmp_path / "a.jsonl", [{"prompt": "a", "reward": r} for r in (0.1, 0.5, 1.7)]))
    assert figures["pass_at_k"] is None and "graded" in figures["withheld"]["pass_at_k"]


def test_nan_and_infinite_rewards_are_unusable_and_counted(tmp_path: Path) -> None:
    rewards = {"a": ("NaN", "1", "0"), "b": ("Infinity", "null", "-1e999")}
    lines = [f'{{"prompt":"{p}","reward":{r}}}' for p, values in rewards.items() for r in values]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    figures = figures_of(tmp_path / "a.jsonl")
    assert (figures["rollouts"], figures["unusable"], figures["groups"], figures["groups_of_one"]) == (6, 4, 2, 1)
    assert (figures["mean_reward"], figures["mixed_share"], figures["broken_lines"]) == (0.5, 1.0, 0)


# broken and hostile files


def test_broken_lines_are_counted_and_located(tmp_path: Path) -> None:
    good = json.dumps({"prompt": "p", "correct": True})
    lines = [good, "{broken", "", '{"other": 1}', "[1, 2]", '{"prompt": "p", "correct": "maybe"}', good, good[:-4]]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    log = read(path)
    assert [(place.line, place.file) for place in log.broken][:4] == [(n, str(path)) for n in (2, 4, 5, 8)]
    assert log.broken_lines == 5 and "maybe" in log.broken[4].reason
    assert key_figures(log)["rollouts"] == 3
    assert key_figures(log)["unusable"] == 1


def test_broken_place_is_right_far_into_a_file(tmp_path: Path) -> None:
    """Blocks of a few MiB: the line number counts from the beginning of the file, blank lines included."""
    line = json.dumps({"prompt": "p" * 200, "correct": 1})
    lines = [line] * 60_000
    lines[41_234], lines[50_000] = "{", ""
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    log = read(path, text=False)
    assert [place.line for place in log.broken] == [41_235]
    assert key_figures(log)["rollouts"] == 59_998


def test_a_value_of_another_type_is_kept_where_it_can_be_read(tmp_path: Path) -> None:
    objects = [{"prompt": "p", "score": s} for s in (1, 0.5, True, "0.25", "oops", [1], None)]
    log = read(make.lines(tmp_path / "a.jsonl", objects), format="table", columns={"outcome_reward": "score"})
    assert log.frame.select("outcome_reward").collect().to_series().to_list() == [1.0, 0.5, 1.0, 0.25, None, None, None]
    assert log.broken_lines == 2


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"PAR1", b"PAR1" + bytes(range(256)) * 9, b"\x00" * 999, b"\x1f\x8b\x08\x00garbage"]
)
@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.parquet", "a.json", "a.csv", "a.arrow", "a.jsonl.gz", "a.jsonl.zst", "a"]
)
def test_garbage_is_one_clear_error(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError):
        read(path)


def test_a_truncated_compressed_file_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    import gzip

    whole = gzip.compress(
        "".join(
            json.dumps({"prompt": f"p{i % 9}", "correct": i % 2, "n": "x" * (i % 50)}) + "\n" for i in range(9000)
        ).encode()
    )
    path.write_bytes(whole[: len(whole) // 2])
    log = read(path)
    figures = key_figures(log)
    assert 1000 < figures["rollouts"] < 9000 and log.broken_lines >= 1


def test_an_error_names_the_file_that_was_given_not_its_decompressed_copy(tmp_path: Path) -> None:
    import gzip

    path = make.parquet(tmp_path / "a" / "b" / "x.parquet", {"question": ["q"], "gold": ["a"]})
    packed = path.with_name("x.parquet.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    for asked in (packed, tmp_path / "a"):
        with pytest.raises(DataError) as caught:
            read(asked)
        assert str(caught.value).startswith(f"{packed}: not recognized")


def test_unreadable_files_of_a_folder_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    rows = make.rollouts(0)
    make.trl(tmp_path, rows)
    (tmp_path / "completions" / "completions_00099.parquet").write_bytes(b"")
    (tmp_path / "completions" / "completions_00100.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "trainer_state.json").write_text('{"log_history": []}')
    (tmp_path / "notes.txt").write_text("unrelated")
    log = read(tmp_path)
    assert key_figures(log)["rollouts"] == len(rows) and log.broken_lines == 2
    assert {Path(place.file).name for place in log.broken} == {"completions_00099.parquet", "completions_00100.parquet"}
    assert any("trainer_state.json" in note for note in log.coverage.notes)


def test_checkpoints_beside_a_log_are_not_reported_as_unread(tmp_path: Path) -> None:
    """A run folder as onedial leaves it: tokenizer, configuration and state lie beside weights. Others are told."""
    make.onedial_run(tmp_path, make.rollouts(0))
    for name in ("checkpoints/iteration_000001/model.safetensors", "checkpoints/iteration_000001/resume/m.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for name in ("tokenizer.json", "generation_config.json", "resume/state.json"):
        (tmp_path / "checkpoints" / "iteration_000001" / name).write_text("{}")
    (tmp_path / "plan.json").write_text('{"onedial_plan": 1}')
    assert not any("not read" in note for note in read(tmp_path).coverage.notes)
    make.lines(tmp_path / "other.jsonl", [{"question": "q"}])
    assert any("other.jsonl" in note for note in read(tmp_path).coverage.notes)


def test_a_folder_without_a_log_names_what_it_saw(tmp_path: Path) -> None:
    make.lines(tmp_path / "train.jsonl", [{"question": "q", "gold": "a"}])
    with pytest.raises(DataError, match=r"gold.*question.*--map"):
        read(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match="verl"):
        read(tmp_path, format="verll")
    with pytest.raises(DataError, match="OpenRLHF 0.11 writes no rollout log"):
        read(tmp_path, format="openrlhf")
    with pytest.raises(DataError, match="did you mean 'prompt'"):
        read(tmp_path, columns={"promt": "question"})
    with pytest.raises(DataError, match="no column 'x'"):
        read(tmp_path, columns={"prompt": "x"})


HOSTILE = st.sampled_from(
    [
        "<script>alert(1)</script>",
        "\x1b[31mred\x1b[0m",
        "\x00\x07",
        "\u202egnp.exe",
        "\ud800",
        "a" * 300,
        "'; DROP",
        "=1+1",
        "NaN",
        "",
    ]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | HOSTILE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "prompt",
    "completion",
    "reward",
    "correct",
    "step",
    "advantage",
    "input",
    "output",
    "score",
    "gts",
    "uid",
    "acc",
    "task",
    "traces",
    "nodes",
    "rewards",
    "example_id",
    "prompt_tokens",
    "response_tokens",
    "prompt_idx",
    "group_idx",
    "traj_idx",
    "total_reward",
    "content",
    "idx",
    "doc_id",
    "doc",
    "resps",
    "passed",
    "task_id",
    "graded_list",
    "solve_rate",
    "n_correct",
    "n",
    "id",
    "eval",
    "split",
    "group_id",
    "metrics",
    "token_usage",
    "error",
    "steps",
    "run",
    "group",
]
RECORDS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(RECORDS | VALUES, max_size=6),
    cut=st.integers(0, 40),
    name=st.sampled_from(["a.jsonl", "a.json", "results.jsonl"]),
)
def test_no_json_makes_a_traceback(records: list[Any], cut: int, name: str, tmp_path: Path) -> None:
    """Any JSON, cut anywhere: figures, or one DataError."""
    text = json.dumps(records) if name == "a.json" else "".join(json.dumps(record) + "\n" for record in records)
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogatepass")[: max(0, len(text) - cut)])
    try:
        json.dumps(key_figures(select_split(read(path))))
    except DataError as error:
        assert str(error)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.sampled_from(["trl", "verl", "traces", "verifiers", "open-instruct", "tinker", "nemo", "swift", "table"]),
    field=st.integers(0, 30),
    value=VALUES,
    where=st.integers(0, 5),
)
def test_one_hostile_value_in_a_good_log_costs_at_most_its_line(
    base: str, field: int, value: Any, where: int, tmp_path: Path
) -> None:
    rows = make.rollouts(1, iterations=1, prompts=3)
    objects = _objects(base, rows, tmp_path)
    victim = objects[where % len(objects)]
    names = sorted(victim)
    victim[names[field % len(names)]] = value
    path = make.lines(tmp_path / "hostile.jsonl", [json.loads(json.dumps(o)) for o in objects])
    try:
        figures = key_figures(read(path))
    except DataError:
        return
    json.dumps(figures)
    if base != "swift":
        assert len(objects) - 1 <= (figures["rollouts"] or len(objects)) <= len(objects) + 8


def _objects(base: str, rows: list[make.Row], tmp_path: Path) -> list[dict[str, Any]]:
    writers = {
        "verl": make.verl_v1,
        "verifiers": make.verifiers,
        "open-instruct": make.open_instruct,
        "tinker": make.tinker,
    }
    writers |= {"nemo": make.nemo, "swift": make.swift}
    if base == "table":
        return make.table(rows)
    if base == "traces":
        return [make.episode(row) for row in rows]
    if base == "trl":
        return [
            {"step": 1, "prompt": r.text, "completion": "c", "f": r.reward, "advantage": 0.0, "reward": r.reward}
            for r in rows
        ]
    folder = writers[base](tmp_path / base, rows)
    files = [file for file in folder.rglob("*.jsonl") if "metadata" not in file.name]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


# rates


def test_rates_with_a_count(tmp_path: Path) -> None:
    objects = [{"prompt_text": f"p{k}", "solve_rate": k / 16, "n_correct": k} for k in (0, 1, 8, 16, 16)]
    log = read(make.lines(tmp_path / "a.jsonl", objects))
    figures = key_figures(log)
    assert log.kind == "rates" and log.frame.select("k", "n").collect().rows() == [
        (0, 16),
        (1, 16),
        (8, 16),
        (16, 16),
        (16, 16),
    ]
    assert (figures["mixed_share"], figures["all_correct_share"], figures["all_wrong_share"]) == (0.4, 0.4, 0.2)
    assert figures["pass_at_k"]["1"] == pytest.approx((0 + 1 / 16 + 0.5 + 1) / 4)  # one prompt stands twice
    plain = sum((math.comb(k, 4) + math.comb(16 - k, 4)) / math.comb(16, 4) for k in (0, 1, 8, 16, 16)) / 5
    assert figures["expected_silent_share"]["4"] == pytest.approx(plain)


@pytest.mark.parametrize(
    ("columns", "n"),
    [
        ({"pass_rate": [0.25, 0.5, 0.75]}, 4),
        ({"llama8b_solve_rate": [1 / 64, 0.5, 47 / 64]}, 64),
        ({"avg@16": [0.0, 1.0, 0.5]}, 16),
        ({"difficulty": ["3/8", "8/8", "0/8"]}, 8),
        ({"num_correct": [1, 2, 3], "num_samples": [8, 8, 8]}, 8),
        ({"pass_rate": [0.33, 0.67, 1.0]}, 3),
        ({"pass_rate": [25.0, 50.0, 100.0]}, 4),
        ({"accuracy": [0.2, 0.4, 1.0]}, 5),
    ],
)
def test_tries_are_given_named_or_inferred(columns: dict[str, list[Any]], n: int, tmp_path: Path) -> None:
    rows = [
        dict(zip(columns, values, strict=True)) | {"problem": f"p{i}"}
        for i, values in enumerate(zip(*columns.values(), strict=True))
    ]
    log = read(make.lines(tmp_path / "a.jsonl", rows))
    assert log.kind == "rates"
    assert log.frame.select("n").collect().to_series().to_list() == [n] * 3


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_rates_inside_an_object_are_found_by_their_dotted_name(kind: str, tmp_path: Path) -> None:
    """verl's datasets keep them in extra_info; k of 8 by construction."""
    rows = [{"prompt": [{"role": "user", "content": f"q{k}"}], "extra_info": {"solve_rate": k / 8}} for k in range(9)]
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    log = read(path)
    assert log.coverage.reward_is == "the column extra_info.solve_rate"
    assert log.frame.select("k", "n").collect().rows() == [(k, 8) for k in range(9)]


def test_a_verdict_inside_an_object_can_be_mapped(tmp_path: Path) -> None:
    rows = [{"problem": f"q{i // 4}", "info": {"ok": i % 3 == 0}} for i in range(12)]
    log = read(make.lines(tmp_path / "a.jsonl", rows), columns={"correct": "info.ok"})
    assert log.frame.select("correct").collect().to_series().to_list() == [i % 3 == 0 for i in range(12)]


def test_shares_per_prompt_in_one_json_object_are_rates_by_epoch(tmp_path: Path) -> None:
    """{index: [accuracy of 8 tries, …]}, as One-Shot-RLVR publishes them; lists of 0 and 1 alone stay verdicts."""
    (tmp_path / "a.json").write_text(json.dumps({"7": [0.0, 0.125, 1.0], "9": [0.5, 0.625]}))
    log = read(tmp_path / "a.json")
    assert log.kind == "rates"
    assert log.frame.select("prompt_id", "iteration", "k", "n").collect().rows() == [
        ("7", 1, 0, 8), ("7", 2, 1, 8), ("7", 3, 8, 8), ("9", 1, 4, 8), ("9", 2, 5, 8)
    ]  # fmt: skip
    (tmp_path / "b.json").write_text(json.dumps({"7": [0, 1, 1], "9": [0, 0]}))
    assert read(tmp_path / "b.json").kind == "rollouts"


def test_tries_that_cannot_be_inferred_are_withheld_until_given(tmp_path: Path) -> None:
    path = make.lines(
        tmp_path / "a.jsonl", [{"problem": f"p{i}", "solve_rate": r} for i, r in enumerate((0.0, 1.0, 1.0))]
    )
    figures = figures_of(path)
    assert figures["pass_at_k"] is None and "not known" in figures["withheld"]["pass_at_k"]
    assert figures["all_correct_share"] == 2 / 3
    assert figures_of(path, tries=8)["pass_at_k"]["8"] == pytest.approx(2 / 3)


def test_rates_outside_the_unit_interval_are_set_aside(tmp_path: Path) -> None:
    rates = ("0.5", "NaN", "-0.5", "1.0")
    (tmp_path / "a.jsonl").write_text("\n".join(f'{{"problem":"p{i}","solve_rate":{r}}}' for i, r in enumerate(rates)))
    figures = figures_of(tmp_path / "a.jsonl", format="rates")
    assert (figures["groups"], figures["broken_lines"], figures["mean_reward"]) == (2, 2, 0.75)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 256), ks=st.lists(st.integers(0, 256), min_size=1, max_size=30))
def test_smallest_grid_explains_every_rate(n: int, ks: list[int]) -> None:
    """Oracle: the least common denominator of the fractions, by gcd."""
    from fractions import Fraction

    import numpy as np

    rates = [Fraction(min(k, n), n) for k in ks]
    inner = [rate for rate in rates if 0 < rate < 1]
    found = find_grid(np.array([float(rate) for rate in rates]))
    common = math.lcm(*(rate.denominator for rate in inner)) if inner else None
    if common == 100:  # might as well be rates rounded to two decimals
        assert found is not None and found <= 100
    else:
        assert found == common


@given(n=st.integers(1, 30), c=st.integers(0, 30), k=st.integers(1, 30))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n: int, c: int, k: int) -> None:
    c = min(c, n)
    got = pass_rates(collect(rate_log([c] * 3, [n] * 3)), [k])
    if k > n:
        assert k not in got
    else:
        assert got[k].prompts == 3
        assert got[k].value == pytest.approx(1 - math.prod((n - c - i) / (n - i) for i in range(k)))


def test_silent_at_is_the_probability_of_a_unanimous_draw() -> None:
    """2 of 4 right, pairs: 2 of the 6 pairs are unanimous."""
    found = expected_silent_shares(collect(rate_log([2], [4])))
    assert found[2].share == pytest.approx(2 / 6)
    assert 8 not in found


# the real files beside the checkout


def test_real_cruxeval(shared_data: Path) -> None:
    document = json.loads((shared_data / "cruxeval_scored_codellama7b.json").read_text())
    marks = next(v for v in document.values() if isinstance(v, dict) and isinstance(next(iter(v.values()))[0], bool))
    figures = figures_of(shared_data / "cruxeval_scored_codellama7b.json")
    groups = list(marks.values())
    assert figures["rollouts"] == 8000 and figures["groups"] == len(groups) == 800
    assert figures["mixed_share"] == sum(len(set(g)) > 1 for g in groups) / 800
    assert figures["all_correct_share"] == sum(all(g) for g in groups) / 800
    assert figures["pass_at_k"] == pytest.approx(
        make.passes([(i, len(g), sum(g)) for i, g in enumerate(groups)]), abs=1e-12
    )


def test_real_solve_rates(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "deepscaler_solve_rate128.jsonl").read_text().splitlines()]
    figures = figures_of(shared_data / "deepscaler_solve_rate128.jsonl", text=False)
    assert figures["groups"] == 29_724 and figures["group_sizes"] == {"128": 29_724}
    assert figures["all_wrong_share"] == 6130 / 29_724 and figures["all_correct_share"] == 1196 / 29_724
    assert figures["mean_reward"] == pytest.approx(sum(row["solve_rate"] for row in rows) / len(rows))
    g4 = (
        sum(math.comb(r["n_correct"], 4) + math.comb(128 - r["n_correct"], 4) for r in rows)
        / math.comb(128, 4)
        / len(rows)
    )
    assert figures["expected_silent_share"]["4"] == pytest.approx(g4)


def test_real_rates_by_epoch(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "dsr_sub_acc8_by_epoch.jsonl").read_text().splitlines()]
    rates = [rate for row in rows for rate in row["acc_per_epoch_of_8"]]
    log = read(shared_data / "dsr_sub_acc8_by_epoch.jsonl")
    figures = key_figures(log)
    assert figures["groups"] == len(rates) and figures["prompts"] == len(rows) == 1209
    assert figures["mixed_share"] == sum(0 < rate < 1 for rate in rates) / len(rates)
    assert log.frame.select(pl.col("iteration").max()).collect().item() == max(
        len(r["acc_per_epoch_of_8"]) for r in rows
    )


def test_real_big_math(shared_data: Path) -> None:
    log = read(shared_data / "bigmath_digits_test_1000.jsonl")
    assert log.frame.select("n").unique().collect().item() == 64
    assert "inferred" in " ".join(log.coverage.notes)


@pytest.mark.parametrize(
    "name", ["gsm8k_train.jsonl", "countdown_train.parquet", "HumanEval.jsonl.gz", "math_train.json"]
)
def test_real_task_data_is_no_log_and_says_what_is_needed(name: str, shared_data: Path) -> None:
    with pytest.raises(DataError, match="Columns seen"):
        read(shared_data / name)


@pytest.mark.parametrize("name", ["nemo-rl", "ms-swift", "tinker", "traces", "verifiers", "sample-lists", "lm-eval"])
def test_a_format_asked_for_that_reads_nothing_is_refused_and_makes_no_row(name: str, tmp_path: Path) -> None:
    path = make.lines(tmp_path / "log.jsonl", [{"question": "q", "mark": 1}, {"question": "q", "mark": 0}])
    with pytest.raises(DataError):
        read(path, name)


def test_no_records_are_no_rows() -> None:
    assert make_log("x", "x", store_records([]), coverage=Coverage(), samples=[]).frame.collect().is_empty()


def test_the_former_name_of_the_status_is_read(tmp_path: Path) -> None:
    run = make.onedial_run(tmp_path, make.rollouts(1))
    new = read(run).frame.collect()
    for file in (run / "rollouts").glob("*.parquet"):
        pl.read_parquet(file).rename({"status": "fate"}).write_parquet(file)
    assert read(run).frame.collect().equals(new)
    assert set(new.get_column("status")) >= {"trained"}


@pytest.mark.parametrize("words", ["T F", "y n", "Correct Incorrect", "pass FAIL", "1.0 0", "Right wrong"])
def test_right_and_wrong_may_be_spelled(words: str, tmp_path: Path) -> None:
    """Oracle: 3 of 4 answers are right, in two groups, of which one is silent."""
    right, wrong = words.split()
    rows = [{"question": q, "correct": mark} for q, mark in (("a", right), ("a", right), ("b", wrong), ("b", right))]
    figures = figures_of(make.lines(tmp_path / "log.jsonl", rows))
    assert figures["mean_reward"] == 0.75 and figures["silent_share"] == 0.5 and not figures["broken_lines"]
