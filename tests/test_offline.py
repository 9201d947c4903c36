"""Rows that train on what others wrote: files in TRL's formats, a task's demonstrations, a past run, a frozen model.

Oracles: TRL's own reading of the formats, the chat template by hand, the log of the run learned from, and repetition.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from maths_batches import make_group
from onedial.analysis import logs
from onedial.cli import main as cli
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.errors import CheckpointError, ConfigError, DataError
from onedial.core.run_log import read_groups, read_json_lines
from onedial.core.settings import Run
from onedial.core.settings_file import make_run, read_settings
from onedial.core.types import Prompt
from onedial.training.lm.text import Text
from onedial.training.tasks import open_task, verify
from onedial.training.tasks.arithmetic import LEVELS
from onedial.training.tasks.demonstrations import read_demonstrations, read_preferences
from onedial.training.trainer import checkpoint
from onedial.training.trainer.loop import train
from onedial.training.trainer.metrics import METRICS
from onedial.training.trainer.offline import group_completions
from onedial.training.trainer.past_rollouts import (
    PAIRS_PER_GROUP,
    make_pairs,
    make_past_demonstrations,
    make_past_pairs,
    read_past_groups,
)
from train_tasks import Early

END = 0  # the tiny model's <|end|>
USER, BLUE = {"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "blue"}
GREEN = {"role": "assistant", "content": "green"}


def file(folder: Path, *rows: dict[str, Any], name: str = "data.jsonl") -> str:
    path = folder / name
    if name.endswith(".parquet"):
        pl.DataFrame(list(rows)).write_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def text(tiny_model: Path) -> Text:
    from transformers import AutoTokenizer

    return Text(AutoTokenizer.from_pretrained(tiny_model))


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Run:
    return Run(
        model=str(tiny_model), task="arithmetic", algorithm=ALGORITHMS["sft"], out=str(tmp_path / "run"), iterations=4,
        prompts_per_iteration=3, group_size=4, max_new_tokens=6, lr=1e-3, dtype="float32", threads=1, eval_prompts=0,
        checkpoint_every=2, verifier_workers=1,
    )  # fmt: skip


# --- formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_demonstrations_in_each_format(tmp_path: Path, name: str) -> None:
    """Oracle: the rows themselves; a conversation of two assistant turns is two demonstrations."""
    (plain,) = read_demonstrations(file(tmp_path, {"prompt": "Sky?", "completion": " blue"}, name=name))
    assert (plain.prompt.text, plain.completions) == ("Sky?", (" blue",))
    (chat,) = read_demonstrations(file(tmp_path, {"prompt": [USER], "completion": [BLUE]}, name=name))
    assert (chat.prompt.messages, chat.completions) == ((USER,), (BLUE,))
    talk = [USER, BLUE, {"role": "user", "content": "Sure?"}, GREEN]
    turns = read_demonstrations(file(tmp_path, {"messages": talk}, name=name))
    assert [(len(t.prompt.messages), t.completions) for t in turns] == [(1, (BLUE,)), (3, (GREEN,))]
    (whole,) = read_demonstrations(file(tmp_path, {"text": "The sky is blue."}, name=name))
    assert (whole.prompt.plain, whole.completions) == ("", ("The sky is blue.",))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Sky?", "chosen": " blue", "rejected": " green"},
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
        {"chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        {"prompt": "Sky?", "chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        {"chosen": [USER, BLUE, USER, BLUE], "rejected": [USER, BLUE, USER, GREEN]},
    ],
    ids=["text", "messages", "implicit", "implicit beside a prompt", "implicit after a turn"],
)
def test_preferences_are_read_as_trl_reads_them(tmp_path: Path, row: dict[str, Any]) -> None:
    """Oracle: TRL's `maybe_extract_prompt`."""
    data_utils = pytest.importorskip("trl.data_utils", reason="TRL is not installed")
    expected = data_utils.maybe_extract_prompt(dict(row))
    (pair,) = read_preferences(file(tmp_path, row))
    shown = [
        pair.prompt.text or list(pair.prompt.messages),
        *(c if isinstance(c, str) else [c] for c in pair.completions),
    ]
    assert shown == [expected[name] for name in ("prompt", "chosen", "rejected")]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "a", "answer": "b"}], "row 1: must have 'prompt' + 'completion' or 'messages' or 'text'; its"),
        ([{"text": "a"}, {"prompt": "a"}], "row 2: must have"),
        ([{"text": "a"}, {"text": " "}, {"text": ""}], "2 of 3 examples have an empty completion"),
        ([{"prompt": " ", "completion": "a"}], "row 1: the prompt is empty"),
        ([{"prompt": "a", "completion": [USER]}], "must be text, or one message of the assistant"),
        ([{"messages": [USER]}], "no assistant turn"),
        ([{"text": 3}], "'text' must be a string"),
    ],
)
def test_unusable_demonstrations_are_named(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_demonstrations(file(tmp_path, *rows))
    assert said in str(caught.value) and "data.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "chosen": "b"}, "must have 'chosen' + 'rejected'"),
        ({"chosen": "b", "rejected": "c"}, "no column 'prompt'"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "a pair must differ"),
        ({"chosen": [USER, BLUE], "rejected": [USER, BLUE]}, "are the same"),
        ({"chosen": [USER, BLUE], "rejected": [BLUE, GREEN]}, "begin differently"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "1 of 1 examples have an empty completion"),
    ],
)
def test_unusable_preferences_are_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match="row 1") as caught:
        read_preferences(file(tmp_path, row))
    assert said in str(caught.value)


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_tokens_of_a_demonstration_by_hand(text: Text) -> None:
    """Oracle: the tiny model's template and byte tokenizer by hand. The completion begins where the policy would begin
    and ends with the token at which it would stop, once."""
    prompt = Prompt(messages=(USER,))
    for completion in (BLUE, "blue"):
        read, written = text.encode_written(prompt, completion, (END,))
        assert read == text.encode(prompt)
        assert text.tokenizer.decode(list(read)) == "<|turn|>user\nSky?<|end|><|turn|>assistant\n"
        assert text.tokenizer.decode(list(written)) == "blue<|end|>" and written.count(END) == 1
    read, written = text.encode_written(Prompt(text="Sky?"), " blue", (END,))
    assert (text.tokenizer.decode(list(read)), text.tokenizer.decode(list(written))) == ("Sky?", " blue<|end|>")
    read, written = text.encode_written(Prompt(), "blue", (END,))
    assert (text.tokenizer.decode(list(read)), text.tokenizer.decode(list(written))) == ("b", "lue<|end|>")
    (group,) = [group_completions(prompt, ("blue", "green"), text, (END,))]
    assert [r.verdict.correct for r in group.rollouts] == [True, False] and group.mixed


def test_what_a_template_puts_after_the_end_is_left_out(text: Text) -> None:
    """Oracle: by hand; SmolLM2's template writes a line break after <|im_end|>, where generation has stopped."""
    tokenizer = type(text.tokenizer).from_pretrained(text.tokenizer.name_or_path)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>{% endfor %}", "<|end|>\n{% endfor %}")
    _, written = Text(tokenizer).encode_written(Prompt(messages=(USER,)), BLUE, (END,))
    assert tokenizer.decode(list(written)) == "blue<|end|>"


def test_too_long_examples_are_counted_and_named(run: Run, tmp_path: Path) -> None:
    """Oracle: the tiny model reads 256 tokens and its tokenizer makes one of each byte."""
    rows = [{"prompt": "a", "completion": "b" * length} for length in (254, 255, 300, 9)]
    with pytest.raises(DataError) as caught:
        train(replace(run, data=file(tmp_path, *rows)))
    message = str(caught.value)
    assert "2 of 4 examples exceed the model's context of 256 tokens" in message
    assert "row 2: 257 tokens" in message and "row 3" in message and not (Path(run.out) / "run.toml").exists()


# --- a task's demonstrations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("match", ["bare", "end", "last"])
def test_demonstrations_of_arithmetic_are_right_and_of_the_train_split(match: str) -> None:
    """Oracle: the task's own verifier, and its held-out prompts."""
    source = open_task("arithmetic", levels=",".join(LEVELS), match=match)
    assert source.demonstrate is not None
    held_out = {prompt.plain for prompt in source.heldout(200)}
    for position in range(100):
        prompt = source.draw("train", 0, position)
        assert prompt.plain not in held_out
        assert verify(source, prompt, source.demonstrate(prompt)).correct


def test_solutions_of_gsm8k_are_demonstrations(tmp_path: Path) -> None:
    """Oracle: the task's own verifier on a row in the dataset's format, and its text without <<…>> by hand."""
    rows = [
        {"question": f"{n} and 2?", "answer": f"It is {n}+2=<<{n}+2={n + 2}>>{n + 2}.\n#### {n + 2}"} for n in range(20)
    ]
    source = open_task("gsm8k", path=file(tmp_path, *rows))
    assert source.demonstrate is not None
    prompt = source.draw("train", 0, 0)
    written = source.demonstrate(prompt)
    assert "<<" not in written and f"+2={prompt.answer}." in written and verify(source, prompt, written).correct


def test_examples_that_the_evaluation_asks_are_noted(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: two held-out prompts of the task put into the data by hand."""
    held = [list(prompt.messages) for prompt in open_task("arithmetic").heldout(2)]
    rows = [{"prompt": prompt, "completion": [BLUE]} for prompt in ([USER], *held)]
    train(replace(run, data=file(tmp_path, *rows), iterations=1, eval_prompts=4, eval_samples=1))
    out = " ".join(capsys.readouterr().out.split())
    assert "2 of them have a prompt that the evaluation asks" in out
    assert "3 demonstrations from " in out and "the run takes 3, 1.0 epochs" in out


# --- training --------------------------------------------------------------------------------------------------------


def weights(directory: str | Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.find_latest(Path(directory))
    assert newest is not None
    return {
        **load_file(newest / "resume" / "masters.safetensors"),
        **load_file(newest / "resume" / "moments.safetensors"),
    }


def untimed(directory: str | Path) -> list[dict[str, Any]]:
    clock = {"time_s", "generate_s", "verify_s", "update_s", "tokens_per_s", "memory_gb"}
    records = read_json_lines(Path(directory) / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in clock} for record in records]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def pairs_file(folder: Path, count: int = 7) -> str:
    rows = [{"prompt": f"word {n}:", "chosen": "a" * (1 + n % 3), "rejected": "zz"} for n in range(count)]
    return file(folder, *rows, name="pairs.jsonl")


@pytest.mark.parametrize("row", ["sft", "rft", "online_rft", "dpo"])
def test_each_row_resumes_bit_for_bit(run: Run, row: str, tmp_path: Path) -> None:
    """Invariance: a run stopped half-way and resumed has the weights, moments and metrics of one that was not."""
    generates = ALGORITHMS[row].generates
    run = replace(run, algorithm=ALGORITHMS[row], task=Early() if generates else "arithmetic", group_size=4)
    run = replace(run, data=pairs_file(tmp_path) if row == "dpo" else "")  # 7 pairs, 12 taken: two epochs
    train(run)
    half = replace(run, out=str(tmp_path / "half"))
    train(replace(half, iterations=2))
    train(half, resume=True)
    assert same(weights(run.out), weights(half.out))
    assert untimed(run.out) == untimed(half.out)
    assert (Path(run.out) / "rollouts").exists() == generates
    record = untimed(run.out)[-1]
    assert set(METRICS) >= set(record) and record["step"] == 4 and record["nll"] > 0
    assert (record["pair_margin"] is not None) == (row == "dpo")
    assert (record["reward_mean"] is not None) == generates and (record["tokens_generated"] > 0) == generates


def test_sft_learns_its_demonstrations(run: Run, tmp_path: Path) -> None:
    """Oracle: the surprise at two demonstrations falls to almost nothing; every epoch has each of them once."""
    data = file(tmp_path, {"prompt": "x:", "completion": "abc"}, {"prompt": "y:", "completion": "de"})
    train(replace(run, data=data, iterations=40, prompts_per_iteration=2, lr=5e-3))
    records = untimed(run.out)
    assert {record["tokens_trained"] for record in records} == {7}  # abc, de and an end each
    assert records[0]["nll"] > 3 and records[-1]["nll"] < 0.2


def test_dpo_learns_its_pairs(run: Run, tmp_path: Path) -> None:
    """Oracle: at the start the policy is the reference, so the loss is log 2 and every margin 0; then margins grow."""
    data = pairs_file(tmp_path, 4)
    train(replace(run, algorithm=ALGORITHMS["dpo"], data=data, iterations=25, prompts_per_iteration=4, lr=1e-3))
    records = untimed(run.out)
    assert records[0]["loss"] == pytest.approx(0.693147, abs=1e-5) and records[0]["pair_margin"] == pytest.approx(
        0, abs=1e-5
    )
    assert records[-1]["pair_accuracy"] == 1.0 and records[-1]["loss"] < 0.3
    gap = [record["chosen_logp"] - record["rejected_logp"] for record in (records[0], records[-1])]
    assert gap[1] - gap[0] == pytest.approx(records[-1]["pair_margin"] / 0.1, rel=1e-3), (
        "margin = β · growth of the gap"
    )


def test_rft_samples_from_the_frozen_model(run: Run, tmp_path: Path) -> None:
    """Oracle: however fast the policy moves, the rollouts are those of a policy that does not move; those of
    online_rft are not."""
    tokens: dict[tuple[str, float], list[list[int]]] = {}
    for name in ("rft", "online_rft"):
        for lr in (1e-2, 1e-12):
            out = str(tmp_path / f"{name}-{lr}")
            train(replace(run, algorithm=ALGORITHMS[name], task=Early(), group_size=4, lr=lr, iterations=3, out=out))
            frame = pl.read_parquet(Path(out) / "rollouts" / "*.parquet").sort("group_id", "rollout_index")
            tokens[name, lr] = frame["token_ids"].to_list()
            assert set(frame["policy_version"]) == ({0} if name == "rft" else {0, 1, 2})
            trained = frame.filter(pl.col("advantage") > 0)
            assert set(trained["correct"]) == {True}
    assert tokens["rft", 1e-2] == tokens["rft", 1e-12] == tokens["online_rft", 1e-12]
    assert tokens["online_rft", 1e-2] != tokens["online_rft", 1e-12]


def test_changed_data_stop_a_resumed_run(run: Run, tmp_path: Path) -> None:
    train(replace(run, data=file(tmp_path, {"text": "abc"}, {"text": "def"}), iterations=2))
    data = file(tmp_path, {"text": "abc"}, {"text": "deg"})
    with pytest.raises(DataError, match="the data have changed"):
        train(replace(run, data=data), resume=True)


def test_rows_and_data_that_do_not_fit_are_refused(run: Run) -> None:
    """Oracle: the documented errors say what to give."""
    with pytest.raises(ConfigError, match=r"give --data FILE with the columns prompt, chosen and rejected, or --from"):
        train(replace(run, algorithm=ALGORITHMS["dpo"]))
    with pytest.raises(ConfigError, match=r"'countdown.*' writes no demonstrations; give --data"):
        train(replace(run, task="countdown"))
    with pytest.raises(ConfigError, match="'grpo' trains on what the model writes"):
        Run(algorithm=ALGORITHMS["grpo"], data="x.jsonl")


def test_report_and_inspect_say_that_nothing_was_generated(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the documented message; the page holds the curve of the metrics."""
    train(replace(run, iterations=2))
    capsys.readouterr()
    assert cli.main(["inspect", run.out]) == 2
    assert "sft trained on demonstrations and generated no rollouts" in capsys.readouterr().err
    with pytest.raises(DataError, match="generated no rollouts"):
        logs.read(run.out)
    assert cli.main(["report", run.out]) == 0
    assert "generated no rollouts" in capsys.readouterr().out
    page = (Path(run.out) / "report.html").read_text()
    assert "Negative log-likelihood" in page and "generated no rollouts" in page


# --- from an earlier run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 8, 100])
def test_pairs_of_a_group_use_each_rollout_alike(limit: int) -> None:
    """Oracle: counting. min(limit, max(k, w)) pairs, no pair twice, uses on a side at most one apart."""
    for right in range(1, 7):
        for wrong in range(1, 7):
            group = make_group([1.0] * right + [0.0] * wrong, position=right, lengths=range(1, right + wrong + 1))
            pairs = make_pairs(group, 0, limit)
            assert len(pairs) == min(limit, max(right, wrong))
            assert pairs == make_pairs(group, 0, limit)
            sides = [[len(pair.rollouts[side].completion.token_ids) for pair in pairs] for side in (0, 1)]
            assert len(set(zip(*sides, strict=True))) == len(pairs)
            for side, allowed in zip(sides, (range(1, right + 1), range(right + 1, right + wrong + 1)), strict=True):
                uses = Counter(dict.fromkeys(allowed, 0))
                uses.update(side)
                assert set(side) <= set(allowed) and max(uses.values()) - min(uses.values()) <= 1
            assert all([r.verdict.correct for r in pair.rollouts] == [True, False] for pair in pairs)
    assert make_pairs(make_group([1.0, 1.0]), 0) == []
    assert PAIRS_PER_GROUP == 8


@pytest.fixture(scope="module")
def warm(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run whose rollouts are partly right: the answer is one digit, judged by the last number."""
    folder = tmp_path_factory.mktemp("warm")
    rows = [{"question": f"{n}?", "answer": "1"} for n in range(40)]
    words = [
        "train", "naive_grpo", "--model", str(tiny_model), "--task", file(folder, *rows), "--task.reward",
        f"{Path(__file__).parent / 'offline_reward.py'}:early", "--out", str(folder / "warm"), "--iterations", "3",
        "--prompts_per_iteration", "4", "--group_size", "4", "--max_new_tokens", "4", "--dtype", "float32",
        "--threads", "1", "--eval_prompts", "3", "--eval_samples", "2", "--verifier_workers", "1",
    ]  # fmt: skip
    assert cli.main(words) == 0
    return folder / "warm"


def test_warm_up_then_dpo_in_two_commands(warm: Path, tmp_path: Path, text: Text) -> None:
    """Oracle: the log of the first run: every pair is a right and a wrong rollout of one of its later groups, prompt
    tokens are as many as logged; settings are the first run's but where given."""
    out = tmp_path / "dpo"
    words = [
        "train",
        "dpo",
        "--from",
        str(warm),
        "--out",
        str(out),
        "--iterations",
        "2",
        "--prompts_per_iteration",
        "4",
    ]
    assert cli.main([*words, "--threads", "1"]) == 0
    earlier, made = make_run(read_settings(warm / "run.toml")), make_run(read_settings(out / "run.toml"))
    assert made.data == str(warm) and made.model == str(checkpoint.find_latest(warm))
    assert (made.task, made.task_options) == (earlier.task, earlier.task_options)
    assert (made.max_new_tokens, made.eval_prompts, made.iterations) == (4, 3, 2)
    assert len(read_json_lines(out / "eval.jsonl")) == 2 and untimed(out)[-1]["pair_margin"] is not None

    frame = pl.read_parquet(warm / "rollouts" / "*.parquet").filter(pl.col("iteration") > 1)  # the newer half of 3
    logged = {(r["group_id"], tuple(r["token_ids"])): r for r in frame.iter_rows(named=True)}
    pairs = make_past_pairs(read_past_groups(warm, text), 0)
    mixed = frame.group_by("group_id").agg(pl.col("reward").n_unique()).filter(pl.col("reward") > 1)
    assert {pair.id for pair in pairs} == set(mixed["group_id"])
    for pair in pairs:
        sides = [logged[pair.id, r.completion.token_ids] for r in pair.rollouts]
        assert [side["correct"] for side in sides] == [True, False]
        assert sides[0]["prompt_tokens"] == len(pair.prompt_tokens)
    right = frame.filter("correct")
    assert len(make_past_demonstrations(read_past_groups(warm, text))) == len(right)
    assert cli.main(["train", "sft", *words[2:4], "--out", str(tmp_path / "sft"), "--iterations", "1"]) == 0


def test_damaged_rollouts_of_a_run_are_not_learned_from(warm: Path, text: Text, tmp_path: Path) -> None:
    """Oracle: every reward of one file turned round, in a file that parquet reads well; a missing column."""
    copied = Path(shutil.copytree(warm, tmp_path / "warm"))
    file = copied / "rollouts" / "000003.parquet"
    frame = pl.read_parquet(file)
    frame.with_columns(~pl.col("correct"), reward=1 - pl.col("reward")).write_parquet(file)
    with pytest.raises(CheckpointError, match=r"000003\.parquet: not as the run wrote it"):
        list(read_past_groups(copied, text))
    frame.drop("completion").write_parquet(file)
    with pytest.raises(DataError, match=r"000003\.parquet: not a readable rollouts file: 'completion'"):
        read_groups(file)


def test_a_run_that_cannot_be_learned_from(warm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the documented errors."""
    assert cli.main(["train", "dpo", "--from", str(tmp_path)]) == 2
    assert "no run here (run.toml is missing)" in capsys.readouterr().err
    assert cli.main(["train", "grpo", "--from", str(warm)]) == 2
    assert "'grpo' trains on what the model writes" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(warm), "--from", str(warm)]) == 2
    assert "from cannot change" in capsys.readouterr().err
    words = ["train", "dpo", "--from", str(warm), "--out", str(tmp_path / "other"), "--task.wording", "Say {question}"]
    # the pairs keep the prompts of the run that they come from
    assert cli.main([*words, "--iterations", "1", "--eval_prompts", "0"]) == 0
