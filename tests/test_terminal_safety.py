"""No control character of foreign origin reaches the terminal.

Oracle: the bytes that a pseudo terminal received. Every channel is fed the same sequences; their raw bytes must be
absent, and their escaped form must be there, so that the channel was really used.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads a pseudo terminal as Linux has them")
TITLE, ASK, CSI, TURN = "\x1b]0;PWNED\x07", "\x1b[6n", "\x9b31m", "\u202e"
HOSTILE = f"A{TITLE}B{ASK}C{CSI}D{TURN}E"
RAW = (b"\x1b]0;", b"\x07", b"\x1b[6n", b"\xc2\x9b", TURN.encode())
SMALL = [
    "--iterations", "1", "--prompts_per_iteration", "2", "--group_size", "2", "--max_new_tokens", "3", "--dtype",
    "float32", "--threads", "1", "--eval_prompts", "2", "--eval_samples", "1",
]  # fmt: skip


RUN_ALL = (
    "import json, sys; from onedial.cli.main import main; sys.exit(max([main(w) for w in json.loads(sys.argv[1])]))"
)


def on_terminal(*commands: list[str], folder: Path, expect: int) -> bytes:
    """What `onedial` writes to a terminal of 100 columns for these command lines, run in a folder in one process."""
    source = Path(__file__).parents[1] / "src"
    environment = {
        **os.environ, "PYTHONPATH": str(source), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40",
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    environment.pop("NO_COLOR", None)
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execve(sys.executable, [sys.executable, "-c", RUN_ALL, json.dumps(commands)], environment)
    written, deadline = b"", time.monotonic() + 180
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        written += part
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, 9) if time.monotonic() >= deadline else None
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(terminal)
    assert b"Traceback" not in written, written[-3000:].decode(errors="replace")
    assert code == expect, (code, written[-3000:])
    return written


def check(written: bytes) -> None:
    for sequence in RAW:
        place = written.find(sequence)
        assert place < 0, f"{sequence!r} reached the terminal: {written[max(0, place - 80) : place + 80]!r}"
    assert b"PWNED" in written, written[-2000:].decode(errors="replace")


def test_settings_and_options(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(f"seed = {json.dumps(HOSTILE)}\n")
    commands = [
        ["train", HOSTILE],
        ["train", f"--{HOSTILE}", "1"],
        ["train", "--task", HOSTILE],
        ["train", "--schedule", HOSTILE],
        ["train", "--config", f"{HOSTILE}.toml"],
        ["train", "--config", "run.toml"],
        ["train", "--resume", HOSTILE],
        ["train", "--task", "arithmetic", "--task.levels", HOSTILE],
        ["train", "--task", "arithmetic", f"--task.{HOSTILE}", "1"],
        ["eval", HOSTILE],
        ["inspect", HOSTILE],
        [HOSTILE],
    ]
    written = on_terminal(*commands, folder=tmp_path, expect=2)
    check(written)
    assert written.count(b"PWNED") >= len(commands)


def test_logs_with_hostile_names(tmp_path: Path) -> None:
    """Prompt ids, reward names, texts, the file's own name; every command that reads logs."""
    log = tmp_path / f"log{HOSTILE}.jsonl"
    records = [
        {"step": step, "prompt_id": f"{HOSTILE}{prompt}", "prompt": HOSTILE, "completion": HOSTILE,
         "reward": float(k % 2), "rewards": {HOSTILE: float(k % 2)}}
        for step in range(3) for prompt in range(4) for k in range(4)
    ]  # fmt: skip
    log.write_text("\n".join(map(json.dumps, records)))
    commands = [["inspect", log.name], ["plan", log.name, "--budget", "100"], ["report", log.name]]
    check(on_terminal(*commands, folder=tmp_path, expect=0))


def test_a_run_with_a_hostile_task(tiny_model: Path, tmp_path: Path) -> None:
    """The task's name, its notes, levels, verifiers' messages, and what is printed at the end; live view and table."""
    (tmp_path / "mine.py").write_text(
        "import onedial\n"
        f"BAD, CALLS = {HOSTILE!r}, []\n"
        "class Mine:\n"
        "    name = BAD\n"
        "    def prompt(self, rng):\n"
        "        number = rng.randrange(1000)\n"
        "        return onedial.Prompt(f'{number} {BAD}', answer=number, meta={'level': f'{BAD}{number % 2}'})\n"
        "    def verify(self, prompt, completion):\n"
        "        CALLS.append(1)\n"
        "        if len(CALLS) % 3 == 0: raise ValueError(BAD)\n"
        "        return {'reward': 1.0, 'answer': BAD, 'detail': BAD}\n"
    )
    model = ["--model", str(tiny_model)]
    out = "run"  # settings with control characters are refused
    train = ["train", "grpo", "--task", "mine.py:Mine", *model, "--out", out, *SMALL, "--verifier_workers", "1"]
    evaluate = [
        "eval",
        *model[1:],
        "--task",
        "mine.py:Mine",
        "--prompts",
        "6",
        "--samples",
        "1",
        "--max_new_tokens",
        "3",
    ]
    written = on_terminal(train, [*evaluate, "--save", f"{HOSTILE}.parquet"], folder=tmp_path, expect=0)
    check(written)
    for part in (b"could not be judged", b"sandbox", b"completions: ", b"run: "):
        assert part in written, written[-3000:].decode(errors="replace")


def test_a_task_that_raises_shows_its_message_escaped(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        f"class Mine:\n    name = 'mine'\n    def prompt(self, rng):\n        raise ValueError({HOSTILE!r})\n"
        "    def verify(self, prompt, completion):\n        return 1.0\n"
    )
    words = ["train", "grpo", "--task", "mine.py:Mine", "--model", str(tiny_model), *SMALL]
    check(on_terminal(words, folder=tmp_path, expect=2))
