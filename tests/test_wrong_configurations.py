"""Several hundred wrong configurations: each is exit code 2 and one message of at most three lines.

The oracle is the rule of each field: values just outside it, of another type, misspelt or not finite. Training is
replaced by a function that fails the test, so a wrong value that is accepted is seen.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from onedial.cli import main as cli
from onedial.core.algorithm import Algorithm
from onedial.core.field_rules import Rule, get_kinds, get_rules
from onedial.core.settings import RUN_RULES, Run

TEXTS = {
    float: ["nan", "inf", "-inf", "1e999", "fast", "", "0x10", "1,5", "9" * 5000],
    int: ["nan", "inf", "1.5", "many", "", "9" * 400, "9" * 5000, "-99999999999999999999", "²"],
    bool: ["maybe", "2", "", "tru"],
    str: ["a\x1b[2Jb", "a\nb", "\udc80"],
}


def wrong_texts(rule: Rule, kinds: tuple[Any, ...]) -> list[str]:
    """Texts that a field with this rule must refuse."""
    kind = next((kind for kind in (bool, float, int, str) if kind in kinds), None)
    if kind is None:
        return []
    texts = list(TEXTS[kind])
    for bound, step in ((rule.at_least, -1), (rule.above, 0), (rule.at_most, 1), (rule.below, 0)):
        if bound is not None:
            texts.append(repr(kind(bound) + step))
    return [*texts, *(f"{word}x" for word in rule.choices)]


def settings() -> list[tuple[str, str]]:
    run = [(f"--{name}", text) for name, rule in RUN_RULES.items() if rule.saved
           for text in wrong_texts(rule, get_kinds(Run, name))]  # fmt: skip
    row = [(f"--algorithm.{name}", text) for name, rule in get_rules(Algorithm).items() if name not in ("name", "paper")
           for text in wrong_texts(rule, get_kinds(Algorithm, name))]  # fmt: skip
    return [*run, *row]


FILES = [
    "lr = ", "lr = = 2", "[", "[task", "a = [[[[", "= 1", "lr = 1\nlr = 2", "\x00", "lr = 1e999", "lr = nan",
    "lr = '1' '2'", "task = 5", "task = ''", "task = [1]", "task = true", "[task]\nname = 7", "algorithm = 5",
    "algorithm = [1]", "algorithm = 'dappo'", "[algorithm]\nrow = 5", "[algorithm]\nrow = 'grop'",
    "[algorithm]\nlevel = 'token'", "[algorithm]\nimportance = 'mask'", "[algorithm]\ndial = 'big'",
    "[algorithm]\nbaseline = 'os:system'", "[task]\nname = 'subprocess:Popen'", "[task]\nreward = 'os:system'",
    "trust_remote_code = true", "unsafe_verifiers = true", "trust_config = true", "learning_rate = 1",
    "task_options = {}", "seed = 1979-05-27", "model = [1]", "iterations = {}", "x" * (5 << 20),
    "[algorithm]\nbaseline = '<a function of the program that started the run, median>'",
]  # fmt: skip
FLAGS = [
    ["--nosuch", "1"], ["--lr"], ["--config", "absent.toml"], ["--config", "."], ["--config", "/dev/zero"],
    ["--config", "a\x00b"], ["--config", "x" * 5000], ["--config", "~nosuchuser/x.toml"], ["--resume", "absent"],
    ["--resume", "~nosuchuser"], ["--resume", "x" * 5000], ["--from", "absent"], ["--from", "x" * 5000], ["dappo"],
    ["dapo", "grpo"], ["--task."], ["--algorithm.nosuch", "1"], ["--algorithm.clip-hihg", "1"],
    ["two_grpo", "--group-size", "4"],
    ["grpo", "--group-size", "1"], ["dapo", "--data", "x.jsonl"], ["dpo", "--plan", "x.json"],
    ["vapo", "--iterations", "5"], ["--out", "x" * 5000], ["--out", "~nosuchuser/run"], ["--out", "a\x00b"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def train(run: Run, **_: object) -> None:
        run.directory  # noqa: B018  # what the trainer asks for first; a path that cannot be is refused here
        raise AssertionError(f"accepted: {run}")

    stub = ModuleType("onedial.training.trainer.loop")
    stub.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onedial.training.trainer.loop", stub)
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["train", *words]) == 2, words
    message = capsys.readouterr().err.strip()
    assert message.startswith("onedial: ") and len(message.splitlines()) <= 3, message
    assert "Traceback" not in message and "\x1b" not in message and len(message) < 2000
    return message


def test_there_are_three_hundred() -> None:
    assert len(settings()) + len(FILES) + len(FLAGS) >= 300


def test_every_wrong_setting_is_one_message_that_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, text in settings():
        message = refused(capsys, f"{flag}={text}")
        assert flag.removeprefix("--").rpartition(".")[2] in message, (flag, text, message)


@pytest.mark.parametrize("text", FILES, ids=lambda text: text[:40].encode("unicode_escape").decode())
def test_every_wrong_file_is_one_message(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.toml").write_text(text)
    refused(capsys, "--config", "my.toml")


@pytest.mark.parametrize("words", FLAGS, ids=lambda words: " ".join(words)[:40].encode("unicode_escape").decode())
def test_every_wrong_flag_is_one_message(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, *words)


def test_flags_may_have_underscores_or_hyphens(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Run] = []

    def train(run: Run, **_: object) -> Any:
        made.append(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["onedial.training.trainer.loop"], "train", train)
    for words in (
        ["--group-size", "4", "--algorithm.clip-high=0.5"],
        ["--group_size=4", "--algorithm.clip_high", "0.5"],
    ):
        assert cli.main(["train", *words]) == 130
    assert made[0] == made[1] and (made[0].group_size, made[0].algorithm.clip_high) == (4, 0.5)
