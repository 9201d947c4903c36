"""Wrong arguments of every command but `train`: each is exit code 2 and one message of at most three lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from onedial.cli import eval as eval_command
from onedial.cli import main as cli
from onedial.core.field_rules import get_kinds
from onedial.core.settings import RUN_RULES, Run
from test_wrong_configurations import FILES, wrong_texts

NUMBERS = ("nan", "inf", "-inf", "1e999", "-1", "0", "abc", "", "1,5")
WHOLE = ("nan", "1.5", "x", "", "-1", "0", "9" * 30)
PATHS = ("", "absent", "/dev/null", "/dev/zero", "a\0b", "x" * 5000, "~nosuchuser/x", "\x1b[31mred", "/etc/passwd")
READING = [
    *(["--map", pair] for pair in ("", "=", "a", "a=", "=b", "prompt=nosuch", "promt=question", "prompt=question,")),
    ["--map", "prompt=question", "--map", "prompt=response"],
    ["--map", "prompt=question,prompt=response"],
    ["--map", "reward=ok,outcome_reward=tokens"],
    ["--map", "prompt=question", "--format", "trl"],
    *(["--outcome", name] for name in ("", "nosuch", "ook")),
    *(["--format", name] for name in ("", "tlr", "table ", "trl", "rates", "verl", "onedial", "openrlhf", "nemo")),
    *(["--split", name] for name in ("", "evel", "eval")),
    *(["--tries", text] for text in ("8", *WHOLE)),
    ["--nosuch"],
    ["--Map", "a=b"],
    ["extra"],
]
COMMANDS = {"inspect": [], "report": [], "plan": ["--budget", "100"]}
LOG_CASES = [
    *([name, "log.jsonl", *own, *words] for name, own in COMMANDS.items() for words in READING),
    *([name, path, *own] for name, own in COMMANDS.items() for path in PATHS),
    *([name, *own] for name, own in COMMANDS.items()),
    *([name, "log.jsonl", f"--{option}={text}"] for name in ("inspect", "report") for option in ("price", "seconds")
      for text in NUMBERS),
    *([name, file, f"--{option}=3"] for name in ("inspect", "report") for option in ("price", "seconds")
      for file in ("rates.jsonl", "bare.jsonl")),
    *([name, "rates.jsonl", "--split", split, *own] for name, own in COMMANDS.items() for split in ("train", "eval")),
    *([name, "rates.jsonl", "--outcome", "total", *own] for name, own in COMMANDS.items()),
    *([name, "log.jsonl", "-o", path] for name in ("inspect", "report")
      for path in ("", "/", "a\0b", "x" * 300, "/dev/full")),
    *(["inspect", "log.jsonl", "--group-size", text] for text in ("1", "9999", *WHOLE)),
    *(["inspect", "log.jsonl", "--at-k", text] for text in ("0", "", "a", "1,,2", "-1", "99999", "9" * 30, "²")),
    ["inspect", "log.jsonl", "--findings"],
    ["inspect", "--json"],
    *(["inspect", "--formats", *words] for words in (["log.jsonl"], ["--findings"], ["--price=3"], ["--tries=3"])),
    ["report", "log.jsonl", "--json"],
    ["report", "log.jsonl", "--open", "yes"],
]  # fmt: skip
PLAN_CASES = [
    *(["plan", "log.jsonl", "--budget", text] for text in (*NUMBERS, "3", "1e300")),
    *(["plan", "log.jsonl", "--budget", "100", f"--{name}={text}"] for name in ("group-size", "fixed-size")
      for text in WHOLE),
    *(["plan", "log.jsonl", "--budget", "100", f"--rho={text}"] for text in NUMBERS),
    *(["plan", "log.jsonl", "--budget", "100", f"--audit={text}"] for text in ("nan", "1", "-0.1", "0.9999999", "x")),
    *(["plan", "log.jsonl", "--budget", "100", "--export", text]
      for text in ("", "x", "onedial:", "onedial:x.txt", "onedail:x.json", "trl:x.csv", "onedial:/",
                   "table:/proc/x.csv", "trl:" + "x" * 300 + ".jsonl", "verl:a\0b.parquet")),
    ["plan", "log.jsonl", "--budget", "100", "--unit", "token"],
    ["plan", "bare.jsonl", "--budget", "100", "--unit", "tokens"],
    ["plan", "rates.jsonl", "--budget", "100", "--survivors-only"],
]  # fmt: skip
OTHER_CASES = [
    *(["algorithms", *words] for words in ([""], ["dappo"], ["DAPO"], ["dapo", "grpo"], ["--row", "dapo"], ["\x1b[2J"],
                                           ["x" * 5000], ["--coefficients", "nosuch"])),
    *(["allocators", *words] for words in ([""], ["adaptiv"], ["ADAPTIVE"], ["adaptive", "extra"], ["\x1b[2J"])),
    *(["explain", *words] for words in (["-o", ""], ["-o", "/"], ["-o", "/dev/full"], ["-o", "a\0b"], ["-o", "x" * 300],
                                        ["-o", "/proc/x.html"], ["extra"], ["--nosuch"])),
    *(["bench", *words] for words in ([], ["genrate"], ["generate", "extra"], ["generate", "--dtype", "int8"],
                                      ["generate", "--model", "Nosuch/nosuch"], ["generate", "--model", ""],
                                      ["generate", "--model", "/tmp/nosuch"], ["generate", "--write", "/nosuch/x.md"],
                                      ["generate", "--write", "/"], ["generate", "--figures", ""])),
    *(["bench", "generate", f"--{name}={text}"] for name in ("repeats", "peer-rows") for text in WHOLE),
    *(["bench", "generate", f"--threads={text}"] for text in WHOLE if text != "0"),
    *([word] for word in ("nosuch", "--nosuch", "", "inspct", "\x1b[2J", "-v", "x" * 5000)),
    ["help", "nosuch"],
]  # fmt: skip
EVAL_CASES = [
    *(["eval", "smollm2", f"--{flag.replace('_', '-')}={text}"] for flag, name in eval_command.FLAGS.items()
      for text in wrong_texts(RUN_RULES[name], get_kinds(Run, name))
      if RUN_RULES[name].saved and (flag, text) != ("temperature", "0.0")),
    *(["eval", *words] for words in ([], ["absent/model"], ["Nosuch/nosuch"], ["smollm2", "extra"],
                                     ["smollm2", "--nosuch"], ["smollm2", "--lr", "1"], ["smollm2", "--task."],
                                     ["smollm2", "--algorithm.dial", "1"], ["x" * 5000], ["a\0b"],
                                     ["smollm2", "--temperature", "0", "--samples", "4"],
                                     ["smollm2", "--prompts", "0"])),
]  # fmt: skip


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log with lengths, one without, and a table of solve rates; models are not loaded."""
    rows = [{"question": f"q{p}", "response": "r", "ok": (p + i) % 3 == 0, "tokens": 5 + i, "step": 1}
            for p in range(12) for i in range(4)]  # fmt: skip
    bare = [{name: row[name] for name in ("question", "ok")} for row in rows]
    rates = [{"prompt": f"q{i}", "solve_rate": (i % 9) / 8} for i in range(40)]
    for name, table in (("log", rows), ("bare", bare), ("rates", rates)):
        renamed = [{("is_correct" if key == "ok" else key): value for key, value in row.items()} for row in table]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in renamed))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    assert cli.main(words) == 2, words
    message = capsys.readouterr().err.strip()
    assert message.startswith("onedial: ") and len(message.splitlines()) <= 3, (words, message)
    assert "Traceback" not in message and "\x1b" not in message and len(message) < 2000, (words, message)
    return message


@pytest.mark.parametrize("cases", [LOG_CASES, PLAN_CASES, OTHER_CASES], ids=["logs", "plan", "others"])
def test_every_wrong_argument_is_one_message(cases: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    for words in cases:
        refused(capsys, words)


def test_every_wrong_argument_of_eval_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onedial.training.trainer import evaluate

    def run_evaluation(*words: Any, **options: Any) -> None:
        raise AssertionError(f"accepted: {words}")

    monkeypatch.setattr(evaluate, "run_evaluation", run_evaluation)
    for words in EVAL_CASES:
        refused(capsys, words)


@pytest.mark.parametrize("words", [["eval", "run"], ["train", "--resume", "run"], ["train", "dpo", "--from", "run"]])
def test_every_wrong_file_of_a_run_is_one_message(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    for text in FILES:
        Path("run/run.toml").write_text(text)
        refused(capsys, words)


def test_one_column_under_two_names_and_a_repeated_pair_are_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"q": ["a", "a"], "right": [1, 0]}).write_csv("t.csv")
    assert cli.main(["inspect", "t.csv", "--map", "prompt=q,answer=q", "--map", "prompt=q,correct=right"]) == 0


@pytest.mark.parametrize("words", [["train", "grpo", "--model"], ["eval"], ["bench", "generate", "--model"]])
def test_a_model_out_of_reach_is_told_before_torch_is_imported(words: list[str]) -> None:
    code = (
        "import sys; from onedial.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit(code if not {'torch', 'transformers'} & set(sys.modules) else 99)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "Qwen/Qwen9-nope"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "hub cannot be reached" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "log.jsonl", "-o", "log.jsonl"],
        ["report", "log.jsonl", "-o", "log.jsonl"],
        ["plan", "log.jsonl", "--budget", "100", "-o", "log.jsonl"],
        ["explain", "-o", "log.jsonl"],
        ["plan", "log.jsonl", "--budget", "100", "--export", "trl:log.jsonl"],
        ["plan", "log.jsonl", "--budget", "100", "--export", "table:./link.jsonl"],
        ["plan", "folder", "--budget", "100", "--export", "table:folder/part.jsonl"],
    ],
    ids=" ".join,
)
def test_no_output_overwrites_a_log(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the bytes of the log before."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"p{i // 4}", "reward": float(i % 3 == 0), "step": 1} for i in range(64)]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "link.jsonl").symlink_to(log)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "part.jsonl").write_bytes(log.read_bytes())
    before = log.read_bytes()
    assert cli.main(words) == 2 and "overw" in capsys.readouterr().err
    assert log.read_bytes() == before == (tmp_path / "folder" / "part.jsonl").read_bytes()


def test_a_rho_that_no_gradients_have_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1e308 used to print a warning of numpy's beside a plan."""
    rates = tmp_path / "rates.csv"
    rates.write_text("prompt,solve_rate\n" + "".join(f"q{i},{i % 9 / 8}\n" for i in range(40)))
    for rho in ("1e308", "1e-300", "0", "nan", "inf", "-1"):
        assert cli.main(["plan", str(rates), "--budget", "100", f"--rho={rho}"]) == 2
        assert f"--rho {float(rho):g}: must lie in" in capsys.readouterr().err
