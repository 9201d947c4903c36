"""Parts of the verifiers' machinery one by one. Oracles: hand values, a stopped clock, a socket that gives little."""

from __future__ import annotations

import queue
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from onedial.core.types import Prompt
from onedial.training.verify import math_equal, pool, process, rewards, sandbox, worker
from onedial.training.verify.math_equal import Math
from onedial.training.verify.pool import VerifierPool
from onedial.training.verify.process import Process
from onedial.training.verify.sandbox import Sandbox, prepare_launch
from onedial.training.verify.transcripts import count_repeats
from onedial.training.verify.verdict import judge, read_fields

# --- verdicts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [78, 79])
def test_long_values_are_quoted_in_eighty_characters(length: int) -> None:
    """Quotation marks are two of them."""
    word = "x" * length
    shown = repr(word) if length == 78 else repr(word)[:77] + "..."
    assert len(shown) == 80 and read_fields(word, "f")["detail"] == f"f returned reward {shown}: not a finite number"


def test_an_error_of_the_comparison_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """math-verify returns False for its own errors unless told to raise; a verdict of wrong would train on them."""
    import math_verify

    def verify(gold: Any, found: Any, *, timeout_seconds: Any, raise_on_error: bool) -> bool:
        if raise_on_error:
            raise RecursionError("too deep")
        return False

    monkeypatch.setattr(math_verify, "verify", verify)
    verdict = judge(Math(), Prompt("q", answer="x+1"), r"\boxed{1+x}", ())
    assert verdict["outcome"] == "error" and "too deep" in verdict["detail"]


def test_a_reference_that_cannot_be_read_is_an_error_and_an_answer_is_not() -> None:
    with pytest.raises(ValueError, match="reference answer"):
        math_equal._parse_reference("")
    assert judge(Math(), Prompt("q", answer="x^2"), "no mathematics here.", ())["outcome"] in ("unparseable", "wrong")
    assert judge(Math(), Prompt("q", answer="x^2"), r"\boxed{x\cdot x}", ())["outcome"] == "correct"


@pytest.mark.parametrize(
    ("text", "times"),
    [("", 1), ("a", 1), ("a a", 2), ("x a b a b a b", 3), ("a b c d a b c d", 2), ("x y a b c a b c z", 2),
     ("a b c d e a b c d e", 1), ("a b a b b b b", 4), ("a b c a b", 1)],
)  # fmt: skip
def test_repeats_of_phrases_wherever_they_begin(text: str, times: int) -> None:
    assert count_repeats(text.split()) == times


def test_paths_that_make_no_sense_are_left_to_the_loader() -> None:
    for spec in ("~nobody_has_this_name/f.py:g", "a\0b.py:g", "package.module:g", "plain"):
        assert rewards.settle_path(spec) == spec


# --- frames ----------------------------------------------------------------------------------------------------


def test_frames_arrive_whole_in_pieces_of_any_size() -> None:
    ours, theirs = socket.socketpair()
    body = bytes(range(256)) * 5000  # more than one call of recv may give

    def write() -> None:
        frame = struct.pack("<I", len(body)) + body
        for start in range(0, len(frame), 70_001):
            theirs.sendall(frame[start : start + 70_001])
        worker.send(theirs, b"")
        theirs.close()

    thread = threading.Thread(target=write)
    thread.start()
    assert worker.receive(ours) == body and worker.receive(ours) == b""
    with pytest.raises(EOFError):
        worker.receive(ours)
    thread.join()
    ours.close()


def test_a_frame_that_breaks_off_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(struct.pack("<I", 10) + b"123")
    theirs.close()
    with pytest.raises(EOFError):
        worker.receive(ours)
    ours.close()


# --- the pool --------------------------------------------------------------------------------------------------


def bare_pool(items: list[Any], workers: int) -> VerifierPool:
    """A pool with a queue and nothing else."""
    made = object.__new__(VerifierPool)
    made._todo, made._done = queue.SimpleQueue(), queue.SimpleQueue()
    made._workers, made._pending, made._failure = workers, 0, None
    for item in items:
        made._todo.put(item)
    return made


@pytest.mark.parametrize(
    ("waiting", "workers", "taken"), [(1, 2, 1), (2, 2, 1), (3, 2, 2), (9, 2, 5), (9, 1, 8), (50, 2, 8), (50, 9, 6)]
)
def test_a_worker_takes_its_share_of_what_waits(waiting: int, workers: int, taken: int) -> None:
    """One, and of those behind it one part in `workers`, eight at most."""
    backlog: deque[Any] = deque()
    made = bare_pool([(i, b"") for i in range(waiting)], workers)
    assert made._take_items(backlog) and [key for key, _ in backlog] == list(range(taken))
    assert made._todo.qsize() == waiting - taken


def test_a_closing_pool_gives_nothing_to_judge() -> None:
    backlog: deque[Any] = deque()
    assert not bare_pool([None], 1)._take_items(backlog) and not backlog
    assert not bare_pool([(0, b""), None, (1, b"")], 1)._take_items(backlog) and len(backlog) == 1


def test_three_deaths_in_a_row_without_a_verdict_end_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five workers: one judges an item and dies, two die idle, one judges an item, and three more die idle."""
    made = bare_pool([(i, b"") for i in range(9)], 1)
    made._closed, made._verifier = False, Math()
    judged = iter([1, 0, 0, 1, 0, 0, 0])

    def judge_some(process: Process, backlog: deque[Any]) -> bool:
        for _ in range(next(judged)):
            backlog.popleft()
        return False

    monkeypatch.setattr(made, "_launch_worker", lambda: None)
    monkeypatch.setattr(made, "_judge_backlog", judge_some)
    made._serve_items()
    assert "keep dying before they judge anything" in str(made._failure) and list(judged) == []


def test_draining_ends_at_its_time_limit() -> None:
    made = bare_pool([], 1)
    made._pending = 1
    started = time.monotonic()
    assert made.drain(0.05) == [] and 0.04 < time.monotonic() - started < 5.0
    assert made.drain(0.0) == []
    made._done.put(("key", read_fields(1.0, "f")))
    ((key, verdict),) = made.drain()
    assert key == "key" and verdict.reward == 1.0 and made.pending == 0


def test_a_process_is_looked_at_after_long_work_or_every_half_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: sixteen processes left behind are kept, with seventeen the worker is replaced."""
    now, found = 100.0, list(range(17))
    monkeypatch.setattr(process, "list_descendants", lambda pid: found)
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: now))
    made = object.__new__(Process)
    made.pid, made._looked = 1, 100.0
    now = 100.4
    assert not made.is_crowded(0.0001), "looked less than half a second ago, and too short for many"
    now = 100.6
    assert made.is_crowded(0.0001) and made._looked == 100.6
    now = 100.7
    assert not made.is_crowded(0.001) and made.is_crowded(0.003), "work of two milliseconds may start many"
    found.pop()
    assert not made.is_crowded(1.0)


def test_the_end_of_a_worker_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    made = object.__new__(Process)
    for level, status, words in (
        ("process", 3, "ended its process (exit status 3)"),
        ("process", -11, "died of SIGSEGV"),
        ("process", 139, "ended its process (exit status 139)"),
        ("namespace", 139, "died of SIGSEGV"),
        ("namespace", 128, "ended its process (exit status 128)"),
        ("namespace", 0, "ended its process (exit status 0)"),
    ):
        made._sandbox, made._process = Sandbox(level), None  # type: ignore[assignment]
        monkeypatch.setattr(process, "exit_status", lambda _, status=status: status)
        assert made.death() == words
    monkeypatch.setattr(process, "exit_status", lambda _: None)
    assert made.death() == "closed its channel"


# --- the sandbox -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "version"),
    [("bubblewrap 0.8.0\n", (0, 8)), ("bubblewrap 1.12.3", (1, 12)), ("", (0, 0)), ("x y", (0, 0))],
)
def test_versions_of_bubblewrap(output: str, version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=output))
    assert sandbox._bubblewrap_version.__wrapped__() == version


def test_each_worker_has_a_user_of_its_own() -> None:
    users = []
    for _ in range(3):
        launch = prepare_launch(Sandbox("namespace", change_user=True), [])
        assert launch.limits is not None
        users.append(launch.limits.user)
    assert all(isinstance(user, int) and 61184 <= user < 61184 + 4096 for user in users) and len(set(users)) == 3
    assert prepare_launch(Sandbox("namespace"), []).limits.user is None  # type: ignore[union-attr]


def test_no_sandbox_is_the_trainers_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    bare = prepare_launch(Sandbox("none"), [])
    assert bare.command == () and bare.limits is None and bare.environment["SECRET_TOKEN"] == "x"
    inside = prepare_launch(Sandbox("namespace"), [])
    assert inside.command[0] == "bwrap" and "SECRET_TOKEN" not in inside.environment and inside.folder == ""
    assert inside.environment["HOME"] == inside.environment["TMPDIR"] == "/tmp"


def test_what_a_sandbox_says_of_itself() -> None:
    weak = Sandbox("process", change_user=True, skipped=("a: b", "c: d"))
    assert weak.text.startswith("verifiers run in sandbox 'process': ")
    assert weak.text.endswith(", another user; no stronger one because a: b; c: d")
    assert "another user" not in Sandbox("landlock").text and "because" not in Sandbox("landlock").text


def test_impossible_pools_are_refused() -> None:
    for name in ("workers", "timeout_s", "memory_mb"):
        with pytest.raises(pool.ConfigError, match=f"{name}=0"):
            VerifierPool(Math(), **{"workers": 1, name: 0})
