"""Prompts that cannot be drawn: one clear error that names the task and the position, and Ctrl-C works."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from onedial.core.errors import DataError
from onedial.core.types import Prompt
from onedial.training.tasks import open_task, verify
from onedial.training.verify.verdict import judge


@dataclass(frozen=True)
class Broken:
    how: str
    name: str = "broken"

    def prompt(self, rng: Random) -> Prompt:
        number = rng.randrange(10**9)
        if self.how == "raise":
            raise KeyError("no such\ncolumn")
        while self.how == "hang":
            with contextlib.suppress(Exception):
                time.sleep(0.01)
        return Prompt(f"{number} \ud800" if self.how == "surrogate" else f"{number} \x00", answer=number)

    def verify(self, prompt: Any, completion: str) -> Any:
        return {"reward": 1.0, "answer": "a\udc00b", "detail": "\ud800"}


def test_a_task_that_raises_is_named_with_the_position() -> None:
    with pytest.raises(DataError, match=r"task 'broken', train prompt 7 \(seed 3\): prompt\(rng\) raised KeyError"):
        open_task(Broken("raise")).draw("train", 3, 7)


def test_a_task_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one that swallows every Exception; the alarm is put back as it was."""
    monkeypatch.setattr("onedial.training.tasks.task.DRAW_LIMIT_S", 0.2)
    before = signal.getsignal(signal.SIGALRM)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"test prompt 0 \(seed 1\): prompt\(rng\) took longer than 0.2 s"):
        open_task(Broken("hang")).draw("test", 1, 0)
    assert time.monotonic() - start < 10
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_alarm_of_the_user_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "setitimer", lambda *given: pytest.fail("the alarm is taken"))
    monkeypatch.setattr(signal, "getitimer", lambda which: (5.0, 0.0))
    assert open_task(Broken("")).draw("train", 0, 0).answer


def test_ctrl_c_ends_a_hanging_draw(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import time\n"
        "class Mine:\n"
        "    name = 'mine'\n"
        "    def prompt(self, rng):\n        print('drawing', flush=True)\n        time.sleep(60)\n"
        "    def verify(self, prompt, completion):\n        return 1.0\n"
    )
    spec = f"{tmp_path / 'mine.py'}:Mine"
    code = f"from onedial.training.tasks import open_task; open_task({spec!r}).draw('train', 0, 0)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"drawing\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT


def test_half_characters_are_named_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"train prompt 0 \(seed 0\): the prompt contains an incomplete character .*\\ud800"
    ):
        open_task(Broken("surrogate")).draw("train", 0, 0)
    assert "\x00" in open_task(Broken("")).draw("train", 0, 0).plain  # NUL is a character like any other
    for column in ("question", "answer"):
        records = [{"question": f"What is {n} + 1?", "answer": f"is {n + 1}"} for n in range(8)]
        records[5][column] = "broken \udfff"
        file = tmp_path / f"{column}.jsonl"
        file.write_text("\n".join(map(json.dumps, records)))
        part = "prompt" if column == "question" else "answer"
        with pytest.raises(DataError, match=rf"{column}.jsonl, row 6: the {part} contains an incomplete character"):
            open_task(str(file))


def test_verdicts_can_be_written(tmp_path: Path) -> None:
    """A verifier may return what no file takes; it reaches verdicts as question marks."""
    found = verify(open_task(Broken("")), Prompt("q"), "x")
    assert (found.answer, found.detail) == ("a?b", "?")

    class Raises:
        name, in_process = "raises", True

        def judge(self, prompt: Any, completion: str, token_ids: Any = ()) -> float:
            raise ValueError("\udfff")

    fields = judge(Raises(), Prompt("q"), "x")
    assert fields["outcome"] == "error" and fields["detail"].encode().endswith(b"ValueError: ?")
