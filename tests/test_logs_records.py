"""Single records of the nested formats, field by field. Oracle: what each trainer says that its fields hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from logs_data import make
from onedial.analysis.logs import read
from onedial.analysis.logs.readers.common import format_count, join_names
from onedial.analysis.logs.readers.group_order import infer_group_size, number_blocks
from onedial.analysis.logs.readers.lists import parse_marks
from onedial.analysis.logs.readers.messages import flatten_text, get_assistant_text, get_message_text, hash_content
from onedial.analysis.logs.readers.rows import read_number, read_numbers, read_whole
from onedial.analysis.logs.readers.traces import read_reward
from onedial.analysis.logs.schema import Log


def records(log: Log) -> list[dict[str, Any]]:
    """The rows, without what is empty in them."""
    return [{k: v for k, v in row.items() if v is not None} for row in log.frame.collect().iter_rows(named=True)]


def one_file(path: Path, *rows: Any, **options: Any) -> tuple[Log, list[dict[str, Any]]]:
    log = read(make.lines(path, list(rows)), **options)
    return log, records(log)


def notes(log: Log) -> str:
    return " ".join(log.coverage.notes)


# --- texts and lists -------------------------------------------------------------------------------------------


def test_texts_of_messages() -> None:
    user, assistant = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    assert flatten_text(None) is None and flatten_text("x") == "x" and flatten_text(3) == "3"
    assert flatten_text([user, assistant, "x", 4]) == "q\na\nx\n4" and flatten_text(user) == "q"
    assert get_assistant_text([user, assistant]) == "a", "the policy's words alone"
    assert get_assistant_text([user, {"role": "tool", "content": "t"}]) == "q\nt", "no assistant: all of it"
    assert (
        get_assistant_text("plain") == "plain" and get_assistant_text(user) == "q" and get_assistant_text(["x"]) == "x"
    )
    parts = {"content": [{"type": "text", "text": "look"}, {"type": "image"}, None, "plain"]}
    assert get_message_text(parts) == "look\n\nplain"
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "add"}]}
    assert get_message_text(call) == '[{"name": "add"}]' and get_message_text(call | {"content": "text"}) == "text"
    assert get_message_text({"value": "sharegpt"}) == "sharegpt" and get_message_text({}) == ""
    assert hash_content({"b": 1, "a": [2]}) == hash_content({"a": [2], "b": 1}) != hash_content({"a": [2]})
    assert hash_content("x") == "x"


def test_lists_in_sentences() -> None:
    names = list("abcdefgh")
    assert [join_names(names[:n]) for n in (1, 2, 3, 6)] == ["a", "a and b", "a, b and c", "a, b, c, d, e and f"]
    assert join_names(names) == "a, b, c, d, e, f and 2 more" and join_names(names[:3], 2) == "a, b and 1 more"
    assert (format_count(1, "row"), format_count(2000, "row"), format_count(0, "dry")) == (
        "1 row",
        "2,000 rows",
        "0 drys",
    )
    assert format_count(2, "reply", "replies") == "2 replies"


def test_numbers_are_told_from_booleans_and_words() -> None:
    assert (
        read_number(True) is None and read_number("3") is None and read_number(3) == 3.0 and read_number(None) is None
    )
    assert read_numbers([1, "2", None, 2.5, True]) == [1.0, 2.5] and read_numbers("12") == []
    assert read_whole("12") == read_whole(12) == 12 and read_whole(1.5) is None and read_whole(True) is None
    assert read_whole("9" * 18) == 10**18 - 1 and read_whole("9" * 19) is None and read_whole("-3") is None


def test_lists_of_verdicts_and_of_programs_tests() -> None:
    assert parse_marks([True, False, None, 0.5]) == [1.0, 0.0, None, 0.5]
    assert parse_marks([[True, True], [True, False], [True, -1], [-2]]) == [1.0, 0.0, 0.0, 0.0]
    assert parse_marks([["x"], [True]]) is None and parse_marks([[]]) is None and parse_marks([]) is None
    assert parse_marks("10") is None and parse_marks([True, "maybe"]) is None


@pytest.mark.parametrize(
    ("blocks", "size"),
    [
        ([4, 4, 4], 4),
        ([4, 8, 4], 4),
        ([4, 4, 6], None),  # not whole groups
        ([1, 1, 1], None),
        ([8, 4], 4),  # of equally many the smaller
        ([4, 8, 12, 16], None),  # a quarter of the blocks is not usual
        ([4, 4, 8, 12], 4),  # a half is
        ([], None),
    ],
)
def test_group_size_by_the_lengths_of_blocks(blocks: list[int], size: int | None) -> None:
    assert infer_group_size(blocks) == size


def test_blocks_are_numbered_in_their_order() -> None:
    assert number_blocks(list("aabbaa")) == [1, 1, 2, 2, 3, 3]
    assert number_blocks(list("aaaabb")) == [1, 1, 2, 2, 3, 3]
    assert number_blocks(list("aabbb")) == [0] * 5


def test_files_whose_order_does_not_tell_are_counted(tmp_path: Path) -> None:
    """Three files of TRL: two in whole blocks of two, one where a row is missing. Groups by hand."""
    for step, prompts in ((1, "aabbaa"), (2, "ccddee"), (3, "ffg")):
        make.parquet(
            tmp_path / f"completions_{step:05}.parquet",
            {
                "step": [step] * len(prompts),
                "prompt": list(prompts),
                "completion": [f"c{step}{i}" for i in range(len(prompts))],
                "accuracy_reward": [float(i % 2) for i in range(len(prompts))],
                "advantage": [0.0] * len(prompts),
            },
        )
    log = read(tmp_path)
    by_file = log.frame.group_by("iteration").agg(pl.col("group_id").n_unique()).sort("iteration").collect().rows()
    assert by_file == [(1, 3), (2, 3), (3, 2)]
    assert log.coverage.group_identity == "inferred from the order of the rows"
    assert "each block of 2 neighboring rows" in notes(log) and "1 group would be merged" in notes(log)
    assert "In 1 file the order does not show it" in notes(log)


# --- traces ----------------------------------------------------------------------------------------------------


def trace(**fields: Any) -> dict[str, Any]:
    return {"nodes": [], "rewards": {"solved": {"score": 1.0, "weight": 0.5}}, **fields}


def test_a_trace_by_hand(tmp_path: Path) -> None:
    nodes = [
        {"message": {"role": "user", "content": "2+2?"}, "mask": [0, 0, 0]},
        {"message": {"role": "assistant", "content": "4"}, "mask": [0, 1, 1], "sampled": True, "logprobs": [-1.0, -3.0],
         "advantages": [0.5, 0.7]},
    ]  # fmt: skip
    episode = {
        "task": {"key": "k1", "data": {"answer": 4}},
        "traces": [trace(nodes=nodes, calls=[{"finish_reason": "length"}, {"finish_reason": "stop", "error": "x"}])],
        "run": {"work": {"type": "eval", "step": 7, "policy": {"start": 3}}},
        "env": {"name": "sums"},
        "group": {"id": "g9"},
    }
    log, rows = one_file(tmp_path / "traces.jsonl", episode)
    assert rows == [
        {
            "split": "eval", "iteration": 7, "prompt_id": "sums/k1", "group_id": "g9", "source": "sums", "answer": "4",
            "policy_version": 3, "outcome_reward": 0.5, "prompt": "2+2?", "completion": "4", "completion_chars": 1,
            "completion_tokens": 2, "prompt_tokens": 4, "mean_logp": -2.0, "advantage": pytest.approx(0.6),
            "finish_reason": "length", "truncated": True,
        }
    ]  # fmt: skip
    assert not log.coverage.notes, "nothing was left out and nothing failed"


def test_lengths_of_a_trace_without_masks_are_the_calls_usage(tmp_path: Path) -> None:
    calls = [
        {"usage": {"prompt_tokens": 10, "completion_tokens": 3}, "finish_reason": "tool_calls"},
        {"usage": {"prompt_tokens": 20, "completion_tokens": 4}, "finish_reason": "stop"},
    ]
    other = [{"usage": {"input_tokens": 6, "completion_tokens": 1}}, {"usage": {"input_tokens": 8}}]
    base = {"task": {"key": "k"}}
    _, rows = one_file(
        tmp_path / "traces.jsonl",
        base | {"traces": [trace(calls=calls)]},
        base | {"traces": [trace(calls=other, stop_condition="max_turns")]},
    )
    assert [(r["prompt_tokens"], r["completion_tokens"]) for r in rows] == [(10, 7), (6, 1)]
    assert [(r["finish_reason"], r["truncated"]) for r in rows] == [("stop", False), ("max_turns", True)]


def test_helpers_failures_and_unnamed_tasks_of_traces(tmp_path: Path) -> None:
    helper = trace(agent={"name": "judge", "trainable": False})
    mine = trace(agent={"name": "solver"})
    failed = trace(ok=False, errors=[{"type": "APITimeoutError", "message": "late"}])
    data = {"data": {"idx": 5, "question": "why?"}}
    log, rows = one_file(
        tmp_path / "step_4" / "eval" / "traces.jsonl",
        {"task": data, "traces": [helper, mine]},
        {"task": data, "traces": [failed]},
        {"task": data, "traces": [], "errors": [{"type": "SetupError"}]},
        {"task": {"data": {"question": "why?"}}, "traces": [mine, trace(agent={"name": "critic"})]},
    )
    assert [row.get("outcome") for row in rows] == [None, "timeout", "error", None, None]
    assert [row.get("outcome_reward") for row in rows] == [0.5, None, None, 0.5, 0.5]
    assert {row["prompt_id"] for row in rows} == {"5", "why?"} and {row["iteration"] for row in rows} == {4}
    assert {row["split"] for row in rows} == {"eval"} and not any("source" in row for row in rows)
    groups = [row["group_id"] for row in rows]
    assert groups[0] == groups[1] == groups[2] and groups[3].endswith("/solver") and groups[4].endswith("/critic")
    assert "1 trace of agents that do not train" in notes(log) and "2 rollouts ended in an error" in notes(log)


@pytest.mark.parametrize(
    ("reward", "value"),
    [({"score": 2.0, "weight": 0.25}, 0.5), ({"score": 2.0}, 2.0), ({"score": 2.0, "weight": None}, 2.0), (True, 1.0),
     ({"weight": 2.0}, None), ("x", None), (0.3, 0.3)],
)  # fmt: skip
def test_rewards_of_a_trace_are_score_times_weight(reward: Any, value: float | None) -> None:
    assert read_reward(reward) == value


def test_traces_with_several_rewards_keep_each_and_old_ones_their_total(tmp_path: Path) -> None:
    both = {"solved": {"score": 1.0, "weight": 2.0}, "style": 0.5, "none": None}
    base = {"task": {"key": "k"}, "run": {"type": "train"}, "group_id": "g", "env_name": "e", "policy_version": 2}
    _, rows = one_file(
        tmp_path / "traces.jsonl",
        base | {"traces": [trace(rewards=both)], "eval_step": 3},
        base | {"nodes": [], "rewards": {}, "reward": 0.75},
    )
    assert [row["outcome_reward"] for row in rows] == [2.5, 0.75]
    assert rows[0]["reward_solved"] == 2.0 and rows[0]["reward_style"] == 0.5 and "reward_solved" not in rows[1]
    assert rows[0]["iteration"] == 3 and rows[0]["split"] == "train" and rows[0]["prompt_id"] == "e/k"
    assert rows[0]["group_id"] == "g" and rows[0]["policy_version"] == 2


# --- verifiers, NeMo-RL, tinker, ms-swift ----------------------------------------------------------------------


def test_a_result_of_verifiers_by_hand(tmp_path: Path) -> None:
    base = {"example_id": 3, "prompt": [{"role": "user", "content": "q"}], "reward": 1.0, "answer": "4"}
    said = {"completion": [{"role": "assistant", "content": "four"}]}
    log, rows = one_file(
        tmp_path / "step_2" / "results.jsonl",
        base | said | {"env_name": "sums", "metrics": {"exact": 1, "completion_tokens": 9, "note": "x"},
                       "is_truncated": False, "stop_condition": "stop", "advantage": 0.25},
        base | said | {"task": "other", "exact": 0.5, "token_usage": {"input_tokens": 5, "output_tokens": 6}},
        base | said | {"error": {"type": "ReadTimeout"}, "reward": 0.0},
        base | said | {"reward": "much"},
    )  # fmt: skip
    assert rows[0] | {"reward_note": None} == rows[0] | {"reward_note": None}
    assert {k: v for k, v in rows[0].items() if k != "group_id"} == {
        "split": "eval", "iteration": 2, "prompt_id": "sums/3", "prompt": "q", "completion": "four", "answer": "4",
        "outcome_reward": 1.0, "completion_chars": 4, "completion_tokens": 9, "truncated": False, "source": "sums",
        "finish_reason": "stop", "advantage": 0.25, "reward_exact": 1.0,
    }  # fmt: skip
    assert (rows[1]["prompt_id"], rows[1]["source"], rows[1]["reward_exact"]) == ("other/3", "other", 0.5)
    assert (rows[1]["prompt_tokens"], rows[1]["completion_tokens"]) == (5, 6)
    assert rows[2]["outcome"] == "timeout" and "outcome_reward" not in rows[2] and "source" not in rows[2]
    assert rows[2]["prompt_id"] == "/3" and "outcome_reward" not in rows[3]
    assert log.broken_lines == 1 and "1 rollout ended in an error" in notes(log)
    assert log.coverage.group_identity == "given"


def test_old_results_whose_ids_repeat_are_grouped_by_them_and_else_by_the_prompt(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": "c", "reward": 1.0, "generation_ms": 5.0}
    _, again = one_file(tmp_path / "a" / "r.jsonl", row | {"id": 1}, row | {"id": 2, "prompt": "q"}, row | {"id": 1})
    assert [r["prompt_id"] for r in again] == ["/1", "/2", "/1"]
    log, own = one_file(tmp_path / "b" / "r.jsonl", row | {"id": 1}, row | {"id": 2}, row | {"id": 3, "prompt": "q"})
    assert own[0]["group_id"] == own[1]["group_id"] != own[2]["group_id"]
    assert log.coverage.group_identity == "inferred from the prompt text"


@pytest.mark.parametrize(
    ("examples", "said"), [(3, "6"), (2, None), (5 * 10**11 - 1, "999,999,999,998"), (5 * 10**11, None), ("x", None)]
)
def test_metadata_that_promises_more_rollouts_is_held_against_the_file(
    examples: Any, said: str | None, tmp_path: Path
) -> None:
    row = {"example_id": 1, "prompt": "p", "completion": "c", "reward": 1.0}
    (tmp_path / "metadata.json").write_text(json.dumps({"num_examples": examples, "rollouts_per_example": 2}))
    log, _ = one_file(tmp_path / "results.jsonl", *[row | {"example_id": i // 2} for i in range(4)])
    if said is None:
        assert "promises" not in notes(log)
    else:
        assert f"promises {said} rollouts and the file holds 4" in notes(log)


def test_a_row_of_nemo_by_hand(tmp_path: Path) -> None:
    base = {"content": ["text"], "rewards": [1.0], "input_lengths": [3]}
    tokens = {"token_ids": [[5, 6, 7, 8]], "token_loss_mask": [[0, 0, 1, 1]], "advantages": [[0, 0, 0.5, 0.5]],
              "generation_logprobs": [[0.0, 0.0, -1.0, -3.0]]}  # fmt: skip
    chat = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    log, rows = one_file(
        tmp_path / "train_data_step12.jsonl",
        base | tokens,
        base | tokens | {"token_ids": [[5, 6, 9, 9]], "sample_loss_mask": [0], "rewards": [False]},
        base | {"content": [chat]},
        base,
        base | {"token_ids": [[]], "token_loss_mask": [[]]},
    )
    assert [r.get("prompt_id") is None for r in rows] == [False, False, False, True, True]
    assert rows[0]["group_id"] == rows[1]["group_id"] != rows[2]["group_id"] and rows[1]["status"] == "masked"
    assert [(r["split"], r["iteration"], r["outcome_reward"]) for r in rows] == [
        ("train", 12, reward) for reward in (1.0, 0.0, 1.0, 1.0, 1.0)
    ]
    assert (rows[0]["prompt_tokens"], rows[0]["completion_tokens"], rows[0]["mean_logp"]) == (2, 2, -2.0)
    assert rows[0]["advantage"] == 0.5 and rows[0]["completion"] == "text" and "status" not in rows[0]
    assert (rows[2]["prompt"], rows[2]["completion"], rows[2]["completion_chars"]) == ("q", "a\nb", 3)
    assert "2 rows have neither tokens nor messages" in notes(log) and log.coverage.group_identity == "none"
    assert log.coverage.reward_is == "rewards" and log.coverage.survivors_only is False


def test_a_row_of_tinker_by_hand(tmp_path: Path) -> None:
    base = {"split": "train_1", "iteration": 4, "group_idx": 2, "traj_idx": 1, "total_reward": 0.9}
    steps = [{"ac_len": 5, "ob_len": 11}, {"ac_len": 6, "ob_len": 30}]
    log, rows = one_file(
        tmp_path / "iteration_000004" / "train_rollout_summaries.jsonl",
        base | {"steps": steps, "trajectory_metrics": {"correct": 1, "format": 0.5, "word": "x"}, "tags": ["gsm", "b"],
                "sampling_client_step": 3},
        base | {"split": "test", "steps": [{"ac_len": None}], "trajectory_metrics": {"correct": 0.5}},
        {"group_idx": 1},
    )  # fmt: skip
    group = rows[0].pop("group_id")
    assert rows[0] == {
        "split": "train", "iteration": 4, "rollout_index": 1, "outcome_reward": 0.9, "policy_version": 3,
        "source": "gsm", "completion_tokens": 11, "prompt_tokens": 11, "correct": True, "reward_correct": 1.0,
        "reward_format": 0.5,
    }  # fmt: skip
    assert group.endswith("/train_1/4/2") and rows[1]["split"] == "eval"
    assert "completion_tokens" not in rows[1] and "correct" not in rows[1] and rows[1]["reward_correct"] == 0.5
    assert log.broken_lines == 1 and len(rows) == 2


def test_a_flush_of_swift_by_hand(tmp_path: Path) -> None:
    flush = {
        "step": ["3", "3", "3", "3"], "prompt": ["p", "p", "q", "q"], "completion": ["a", "bb", "c", "d"],
        "accuracy": [1, 0, 1, None], "format": [0.5, 0.5, 0.5, 0.5], "advantages": [0.1, -0.1, 0, 0],
        "entropy": [0.3, 0.3, 0.3, 0.3], "remark": ["x", "y", "z", "w"],
    }  # fmt: skip
    cut = flush | {"step": ["4"] * 4, "prompt": list("rrss"), "completion": ["e", "f", "g"]}
    log, rows = one_file(tmp_path / "completions.jsonl", flush, cut)
    assert len(rows) == 7 and "cut off in some column: 1 row." in notes(log)
    first = rows[0]
    assert (first["iteration"], first["prompt"], first["completion"], first["completion_chars"]) == (3, "p", "a", 1)
    assert (first["outcome_reward"], first["shaped_reward"], first["advantage"], first["entropy"]) == (
        1.0,
        1.5,
        0.1,
        0.3,
    )
    assert (first["reward_accuracy"], first["reward_format"]) == (1.0, 0.5) and "reward_remark" not in first
    assert rows[1]["completion_chars"] == 2 and "outcome_reward" not in rows[3] and rows[3]["shaped_reward"] == 0.5
    assert [row["group_id"] for row in rows[:2]] == [first["group_id"]] * 2 != [rows[2]["group_id"]] * 2
    assert len({row["group_id"] for row in rows}) == 4 and {row["iteration"] for row in rows[4:]} == {4}


# --- lists and code --------------------------------------------------------------------------------------------


def test_a_list_of_verdicts_by_hand(tmp_path: Path) -> None:
    row = {"problem_id": "t1", "problem": "add", "graded_list": [True, False, None], "code_list": ["x", "yy"],
           "difficulty": "easy", "platform": "lc", "answer": "4", "completion_tokens": [7, 8.0, "9"]}  # fmt: skip
    mapped: dict[str, Any] = {"format": "sample-lists", "columns": {"correct": "graded_list"}}
    log, rows = one_file(tmp_path / "a.jsonl", row, row | {"problem_id": "t2", "graded_list": []},
                         row | {"problem_id": "t3", "graded_list": ["maybe"]},
                         row | {"problem_id": "t4", "graded_list": "no list"}, **mapped)  # fmt: skip
    assert (
        [r.get("outcome_reward") for r in rows]
        == [1.0, 0.0, None]
        == [None if r.get("correct") is None else float(r["correct"]) for r in rows]
    )
    assert [r["rollout_index"] for r in rows] == [0, 1, 2] and {r["prompt_id"] for r in rows} == {"t1"}
    assert [r.get("completion") for r in rows] == ["x", "yy", None]
    assert [r.get("completion_chars") for r in rows] == [1, 2, None]
    assert {(r["prompt"], r["level"], r["answer"]) for r in rows} == {("add", "easy", "4")}
    assert "empty or missing: 1 prompt." in notes(log) and log.broken_lines == 2
    without = records(read(tmp_path / "a.jsonl", text=False, **mapped))
    assert not any({"prompt", "completion"} & set(r) for r in without)
    assert [r.get("completion_chars") for r in without] == [1, 2, None]


def test_programs_by_hand(tmp_path: Path) -> None:
    base = {"task_id": "h/1", "completion": "pass", "prompt": "def"}
    log, rows = one_file(
        tmp_path / "h.jsonl",
        base | {"passed": True, "result": "passed"},
        base | {"passed": False, "result": " Timed Out "},
        base | {"passed": None},
        base | {"passed": 1, "task_id": None},
        {"task_id": "h/2", "passed": 1, "solution": "s"},
    )
    assert [(r["prompt_id"], r["outcome"], r["correct"], r["outcome_reward"]) for r in rows] == [
        ("h/1", "correct", True, 1.0), ("h/1", "wrong", False, 0.0), ("h/2", "correct", True, 1.0),
    ]  # fmt: skip
    assert [r["completion"] for r in rows] == ["pass", "pass", "s"] and rows[0]["prompt"] == "def"
    assert log.broken_lines == 2 and "1 program ran out of time" in notes(log) and rows[0]["split"] == "eval"


def test_results_of_programs_in_every_shape(tmp_path: Path) -> None:
    results = {
        "old": {"base": ["pass", ["fail"]], "plus": [["pass", []]]},
        "new": [{"base_status": "pass", "plus_status": "fail", "solution": "s"}],
        "lists": {"graded_list": [True, 0], "code_list": ["c"]},
        "status": [{"status": "PASS"}, {"passed": 1}, {"passed": 0.5}, True],
        "none": [{"what": 1}],
    }
    path = tmp_path / "a_eval_results.json"
    path.write_text(json.dumps({"eval": results}))
    log = read(path)
    rows = records(log)
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row["prompt_id"], []).append((row["rollout_index"], row["correct"]))
    assert found == {
        "old": [(0, True), (1, False)], "new": [(0, False)], "lists": [(0, True), (1, False)],
        "status": [(0, True), (1, True), (2, False), (3, True)],
    }  # fmt: skip
    assert rows[0]["reward_base"] == rows[0]["reward_plus"] == 1.0 and "reward_base" not in rows[1]
    assert [r["completion"] for r in rows if "completion" in r] == ["s", "c"] and log.broken_lines == 1
    assert "base and the plus tests" in notes(log)


def test_lm_eval_by_hand(tmp_path: Path) -> None:
    base = {"doc_id": 1, "doc": {}, "target": 4, "filtered_resps": ["4"], "filter": "strict", "acc": 1, "score": 0.25}
    log, rows = one_file(
        tmp_path / "samples_x.jsonl",
        base,
        base | {"doc_id": 2, "target": ["a", "b"], "filtered_resps": ["x", "y"], "acc": 0},
        base | {"filter": "loose"},
        base | {"doc_id": None},
    )
    assert [(r["prompt_id"], r["outcome_reward"], r["answer"], r["completion"]) for r in rows] == [
        ("1", 1.0, "4", "4"), ("2", 0.0, "a\nb", "x\ny"),
    ]  # fmt: skip
    assert "The metric read is acc." in notes(log) and "another filter: 1 row." in notes(log) and log.broken_lines == 1
    chosen = records(read(tmp_path / "samples_x.jsonl", outcome="score"))
    assert [r["outcome_reward"] for r in chosen] == [0.25, 0.25]
