"""`onedial train` with bad input: exit code 2, one message that names place and remedy, and nothing lost.

The oracle of each message is what the person typed or the file that they gave; "nothing lost" is checked on the files.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from onedial.cli import main as cli

SMALL = [
    "--iterations", "1", "--prompts_per_iteration", "2", "--group_size", "2", "--max_new_tokens", "3", "--dtype",
    "float32", "--threads", "1", "--eval_prompts", "0",
]  # fmt: skip


class Shell:
    """Runs `onedial train` in this process."""

    def __init__(self, model: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.model, self.out, self.capsys = model, folder / "run", capsys

    def train(self, *words: str, model: str | None = None, out: Path | None = None) -> int:
        given = ["--model", model or str(self.model), "--out", str(out or self.out)]
        return cli.main(["train", *words, *given, *SMALL])

    def refused(self, code: int) -> str:
        """The one message of a refused command."""
        captured = self.capsys.readouterr()
        assert code == 2, captured
        assert "Traceback" not in captured.err
        lines = captured.err.strip().splitlines()
        assert sum(line.startswith("onedial") for line in lines) == 1, captured.err
        return captured.err


@pytest.fixture
def shell(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tiny_model, tmp_path, capsys)


def jsonl(folder: Path, *lines: str) -> str:
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def rows(count: int) -> list[str]:
    return [json.dumps({"question": f"What is {n} + 1?", "answer": str(n + 1)}) for n in range(count)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learning_rat", "1"], "unknown argument '--learning_rat'"),
        (["--iteration", "1"], "did you mean '--iterations'"),
        (["dappo"], "'dappo' is not in the table; did you mean 'dapo'"),
        (["--algorithm.clip_hi", "1"], "unknown cell algorithm.clip_hi; did you mean 'clip_high'"),
        (["--algorithm.clip_high"], "needs a value"),
        (["--task", "arithmetc"], "task 'arithmetc' is unknown; did you mean 'arithmetic'"),
        (["--task.level", "add1"], "did you mean 'levels'"),
        (["--task", "absent.jsonl"], "absent.jsonl"),
        (["--device", "cuda:99"], "device='cuda:99'"),
        (["--device", "abacus"], "device='abacus'"),
        (["--lora_rank", "2", "--lora_targets", "nothing_of_this_name"], "lora_targets='nothing_of_this_name'"),
        (["--lr", "fast"], "lr='fast': must be float"),
        (["--config", "absent.toml"], "absent.toml: no such file"),
        (["--track", "wandbb"], "wandbb"),
    ],
)
def test_a_wrong_word_is_named_before_a_run_exists(words: list[str], said: str, shell: Shell) -> None:
    assert said in shell.refused(shell.train(*words))
    assert not (shell.out / "run.toml").exists(), "the same command, mended, must not meet a taken directory"
    assert shell.train() == 0


def test_an_unknown_key_in_the_file_is_named_with_the_file(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("iterations = 1\nlearning_rate = 1e-5\n[algorithm]\nrow = 'dapo'\n")
    message = shell.refused(cli.main(["train", "--config", str(path)]))
    assert f"{path}: unknown setting 'learning_rate'" in message
    assert f"{path}: unknown setting 'learning_rate'" in shell.refused(shell.train("--config", str(path)))


def test_a_missing_column_shows_the_columns(shell: Shell, tmp_path: Path) -> None:
    data = jsonl(tmp_path, json.dumps({"task": "x", "result": "y"}))
    message = shell.refused(shell.train("--task", data))
    assert data in message and "task, result" in message
    data = jsonl(tmp_path, *rows(20))
    assert "did you mean 'question'" in shell.refused(shell.train("--task", data, "--task.prompt_column", "qestion"))


def test_a_broken_line_is_named_by_file_and_line(shell: Shell, tmp_path: Path) -> None:
    data = jsonl(tmp_path, *rows(2), '{"question": "cut of')
    assert f"{data}:3" in shell.refused(shell.train("--task", data))


def test_an_empty_prompt_is_named_by_row(shell: Shell, tmp_path: Path) -> None:
    data = jsonl(tmp_path, *rows(3), json.dumps({"question": "  ", "answer": "1"}))
    message = shell.refused(shell.train("--task", data))
    assert f"{data}, row 4" in message and "empty" in message


def test_a_prompt_longer_than_the_context_is_named(shell: Shell, tmp_path: Path) -> None:
    """The model has room for 256 tokens and its tokenizer makes one of each byte."""
    long = json.dumps({"question": "9" * 300, "answer": "1"})
    data = jsonl(tmp_path, *rows(9), long, *rows(30)[9:])
    (tmp_path / "test.jsonl").write_text("\n".join(rows(3)) + "\n")  # so that none of the data is held out
    message = shell.refused(shell.train("--task", data, "--task.test_path", str(tmp_path / "test.jsonl")))
    assert f"{data}, row 10" in message and "leaves room for 253" in message
    assert not (shell.out / "run.toml").exists(), "found before anything was paid"


def test_a_folder_that_is_no_model(shell: Shell, tmp_path: Path) -> None:
    assert "has no config.json" in shell.refused(shell.train(model=str(tmp_path)))
    assert "no such folder" in shell.refused(shell.train(model=str(tmp_path / "absent")))
    assert "did you mean 'smollm2'" in shell.refused(shell.train(model="smolm2"))


def test_a_directory_that_holds_another_run_is_left_alone(shell: Shell) -> None:
    assert shell.train() == 0
    shell.capsys.readouterr()
    before = {path: path.read_bytes() for path in shell.out.rglob("*") if path.is_file()}
    message = shell.refused(shell.train("grpo"))
    assert f"onedial train --resume {shell.out}" in message and "--out" in message
    assert {path: path.read_bytes() for path in shell.out.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_things_is_left_alone(shell: Shell) -> None:
    shell.out.mkdir()
    (shell.out / "thesis.txt").write_text("years of work")
    assert "is not an empty folder" in shell.refused(shell.train())
    assert [path.name for path in shell.out.iterdir()] == ["thesis.txt"]


def test_resume_of_nothing(shell: Shell, tmp_path: Path) -> None:
    message = shell.refused(cli.main(["train", "--resume", str(tmp_path / "absent")]))
    assert "no run to resume" in message or "no such file" in message
    assert not (tmp_path / "absent").exists()


def test_resume_with_changed_settings(shell: Shell) -> None:
    assert shell.train() == 0
    shell.capsys.readouterr()
    toml = (shell.out / "run.toml").read_text()
    for words, name in ((["--lr", "1"], "lr"), (["--algorithm.eps", "1"], "algorithm"), (["--task", "gsm8k"], "task")):
        message = shell.refused(cli.main(["train", "--resume", str(shell.out), *words]))
        assert f"; {name} cannot change" in message
    assert "ROW cannot change" in shell.refused(cli.main(["train", "dapo", "--resume", str(shell.out)]))
    assert "all 1 iterations are done" in shell.refused(cli.main(["train", "--resume", str(shell.out)]))
    assert (shell.out / "run.toml").read_text() == toml
    assert cli.main(["train", "--resume", str(shell.out), "--iterations", "2"]) == 0
    lines = (shell.out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2]


def test_a_run_with_relative_paths_is_resumed_in_another_folder(
    shell: Shell, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    shutil.copytree(tiny_model, here / "my-model")
    Path(jsonl(here, *rows(40))).rename(here / "sums.jsonl")
    monkeypatch.chdir(here)
    assert shell.train("--task", "sums.jsonl", model="./my-model") == 0
    monkeypatch.chdir(elsewhere)
    assert cli.main(["train", "--resume", str(shell.out), "--iterations", "2"]) == 0
    assert len((shell.out / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_resume_remembers_how_far_an_earlier_one_was_to_go(shell: Shell) -> None:
    """Oracle: the settings on disk, and what the next resume says is left."""
    assert shell.train("grpo") == 0
    assert cli.main(["train", "--resume", str(shell.out), "--iterations", "3"]) == 0
    assert "iterations = 3" in (shell.out / "run.toml").read_text()
    shell.capsys.readouterr()
    message = shell.refused(cli.main(["train", "--resume", str(shell.out)]))
    assert "all 3 iterations are done" in message and "N > 3" in message
    message = shell.refused(cli.main(["train", "--resume", str(shell.out), "--iterations", "2"]))
    assert "all 3 iterations are done" in message and "N > 3" in message


def test_an_unwritable_place(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert f"{tmp_path / 'file' / 'run'}" in shell.refused(shell.train(out=tmp_path / "file" / "run"))
    if os.geteuid() != 0:  # root writes anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        assert "cannot be written" in shell.refused(shell.train(out=tmp_path / "locked" / "run"))
    assert "cannot be written" in shell.refused(shell.train(out=Path("/proc/nowhere/run")))


def test_a_reward_that_is_not_a_number_never_trains(shell: Shell, tmp_path: Path) -> None:
    """Verdicts of NaN are errors: counted, left out of every statistic, and no update is made of them."""
    (tmp_path / "bad.py").write_text("def reward(prompt, completion):\n    return float('nan')\n")
    data = jsonl(tmp_path, *rows(30))
    code = shell.train("naive_grpo", "--task", data, "--task.reward", f"{tmp_path / 'bad.py'}:reward")
    shell.capsys.readouterr()
    import polars as pl

    table = pl.read_parquet(shell.out / "rollouts" / "*.parquet")
    assert set(table["outcome"]) == {"error"} and table["reward"].null_count() == len(table)
    assert "nan: not a finite number" in table["detail"][0]
    metrics = [json.loads(line) for line in (shell.out / "metrics.jsonl").read_text().splitlines()]
    assert code == 0 and len(metrics) == 1 and metrics[0]["step"] == 0


def test_reward_functions_see_the_iteration(shell: Shell, tmp_path: Path) -> None:
    """TRL's `trainer_state.global_step`, as a curriculum uses it; the oracle is the log's own iteration column."""
    source = (
        "def reward(completions, trainer_state, **kwargs):\n    return [trainer_state.global_step] * len(completions)\n"
    )
    (tmp_path / "step.py").write_text(source)
    data = jsonl(tmp_path, *rows(30))
    words = ["naive_grpo", "--task", data, "--task.reward", f"{tmp_path / 'step.py'}:reward", *SMALL]
    assert cli.main(["train", "--model", str(shell.model), "--out", str(shell.out), *words, "--iterations", "3"]) == 0
    import polars as pl

    table = pl.read_parquet(shell.out / "rollouts" / "*.parquet")
    assert set(table["iteration"]) == {1, 2, 3}
    assert table["reward"].to_list() == table["iteration"].cast(pl.Float64).to_list()
