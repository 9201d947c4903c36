"""The worker pool under hostile verifiers. Oracles: the outcome each must have; the process table."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onedial.core.errors import ConfigError, DataError, VerifierError
from onedial.core.types import Prompt, Verdict
from onedial.training.verify.descendants import list_descendants
from onedial.training.verify.math_equal import Math
from onedial.training.verify.pool import VerifierPool
from onedial.training.verify.process import Process
from onedial.training.verify.rewards import Reward
from onedial.training.verify.verifiers import Number
from onedial.training.verify.worker import SANDBOX_HINT

PROMPT = Prompt("q", answer="1")
HOSTILE = Reward((f"{Path(__file__).parent / 'hostile_verifier.py'}:hostile",))


EXPECTED = {
    "right": ("correct", ""),
    "half": ("wrong", ""),
    "raise": ("error", "hostile raised ZeroDivisionError: division by zero"),
    "file": (
        "error",
        f"hostile raised FileNotFoundError: [Errno 2] No such file or directory: '/no/such/file'; {SANDBOX_HINT}",
    ),
    "sysexit": ("error", "hostile raised SystemExit: 0"),
    "exit": ("error", "hostile ended its process (exit status 3)"),
    "segfault": ("error", "hostile died of SIGSEGV"),
    "memory": ("error", "hostile raised MemoryError"),
    "nan": ("error", "hostile returned reward nan: not a finite number"),
    "inf": ("error", "hostile returned reward inf: not a finite number"),
    "string": ("error", "hostile returned reward '1.0': not a finite number"),
    "none": ("error", "hostile gave no reward (None): not judged"),
    "print": ("correct", ""),
    "fork": ("correct", ""),
    "forkexit": ("error", "hostile ended its process (exit status 1)"),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(HOSTILE, workers=2, timeout_s=5.0) as shared:
        yield shared


def ask(pool: VerifierPool, completions: list[str], wait_s: float = 30.0) -> dict[Any, Verdict]:
    for index, completion in enumerate(completions):
        pool.submit((index, completion.split()[0]), PROMPT, completion)
    results = dict(pool.drain(wait_s))
    assert pool.pending == 0
    return results


def test_every_way_to_fail_has_its_outcome_and_never_a_reward(pool: VerifierPool) -> None:
    for (_, what), verdict in ask(pool, list(EXPECTED)).items():
        assert (verdict.outcome, verdict.detail) == EXPECTED[what]
        assert verdict.usable == (verdict.outcome != "error")
        assert verdict.reward == {"half": 0.5}.get(what, float(verdict.outcome == "correct"))


def test_each_item_is_judged_once_and_order_changes_nothing(pool: VerifierPool) -> None:
    """Invariance: verdicts depend on the item, not on what came before it or died beside it."""
    kinds = ["right", "half", "raise", "exit", "nan", "right", "fork"] * 3
    shuffled = random.Random(0).sample(kinds, len(kinds))
    results = ask(pool, shuffled)
    assert len(results) == len(kinds)
    assert {index: verdict.outcome for (index, _), verdict in results.items()} == {
        index: EXPECTED[what][0] for index, what in enumerate(shuffled)
    }


def test_workers_are_light_and_judge_in_their_main_thread(tmp_path: Path) -> None:
    """Oracle: the worker's own modules and threads. Loading torch would cost each worker a second and 200 MB."""
    file = tmp_path / "light.py"
    file.write_text(
        "import resource, sys, threading, time\n"
        "def reward(prompt, completion):\n"
        "    heavy = [name for name in ('torch', 'numpy', 'polars', 'sympy') if name in sys.modules]\n"
        "    main = threading.current_thread() is threading.main_thread()\n"
        "    left = resource.getrlimit(resource.RLIMIT_CPU)[0] - time.process_time()\n"
        "    answer = f'{heavy} {prompt.plain} {prompt.id} {left // 2}'\n"
        "    return {'reward': float(main and not heavy), 'answer': answer}\n"
    )
    with VerifierPool(Reward((f"{file}:reward",)), workers=1) as pool:
        pool.submit(0, PROMPT, "x")
        verdict = dict(pool.drain(30))[0]
    # processor time of four times the limit of 10 s, in whole seconds
    assert (verdict.outcome, verdict.answer) == ("correct", f"[] q {PROMPT.id} 20.0")


def test_quick_items_are_quick(pool: VerifierPool) -> None:
    """200 items in a second, even on a busy machine; measured 30,000 a second on an idle one."""
    ask(pool, ["right"])
    start = time.monotonic()
    assert {verdict.outcome for verdict in ask(pool, ["right"] * 200).values()} == {"correct"}
    assert time.monotonic() - start < 1.0


@pytest.mark.parametrize("unsafe", [False, True])
def test_c14_a_hanging_verifier_times_out_and_is_not_wrong(unsafe: bool) -> None:
    """peers.md C14 (verl 5635, 5839): no silent zero, no endless hang, and the children die as well.

    The children are found from outside, by a command line that no other process has.
    """
    seconds = f"60.{os.getpid()}{int(unsafe)}"
    children: set[str] = set()
    with VerifierPool(HOSTILE, workers=3, timeout_s=1.0, unsafe=unsafe) as pool:
        start = time.monotonic()
        for key, completion in enumerate(["hang", "sigterm", f"children {seconds}", "right", "right"]):
            pool.submit((key, completion.split()[0]), PROMPT, completion)
        results: dict[Any, Verdict] = {}
        while pool.pending:
            children |= _running(seconds)
            results |= dict(pool.drain(0.1))
        assert time.monotonic() - start < 30
    outcomes = {what: (verdict.outcome, verdict.usable, verdict.detail) for (_, what), verdict in results.items()}
    timed_out = ("timeout", False, "hostile took longer than 1 s")
    assert outcomes == {"hang": timed_out, "sigterm": timed_out, "children": timed_out, "right": ("correct", True, "")}
    assert len(children) == 2, "the children were never seen"
    for pid in map(int, children):
        assert _gone(pid), f"child {pid} outlived its verifier"


def test_c14_sympy_that_never_ends_times_out() -> None:
    """A power tower that computer algebra cannot finish; math-verify's own limit would call it wrong, or hang."""
    monster = r"\boxed{9^{9^{9^{9}}} - 9^{9^{9^{9}}} + \frac{1}{2}}"
    with VerifierPool(Math(), workers=1, timeout_s=3.0) as pool:
        pool.submit("monster", Prompt("q", answer=r"\frac{1}{2}"), monster)
        pool.submit("plain", Prompt("q", answer=r"\frac{1}{2}"), r"\boxed{\frac{2}{4}}")
        results = dict(pool.drain(30))
    assert results["plain"].outcome == "correct"
    assert results["monster"].outcome in ("timeout", "error")
    assert not results["monster"].usable


def test_memory_limit_holds_for_children_of_a_lazy_allocation(pool: VerifierPool) -> None:
    """The pool goes on after an item that asked for more than its 2 GB."""
    results = ask(pool, ["memory", "right", "memory", "right"])
    assert [results[key].outcome for key in sorted(results)] == ["error", "correct", "error", "correct"]


def test_submit_and_poll_do_not_wait() -> None:
    with VerifierPool(HOSTILE, workers=1, timeout_s=30.0) as pool:
        start = time.monotonic()
        pool.submit("slow", PROMPT, "hang")
        assert pool.poll() == []
        assert time.monotonic() - start < 0.5
        assert pool.drain(0.1) == [] and pool.pending == 1
        start = time.monotonic()
    assert time.monotonic() - start < 5, "close waited for a hanging verifier"
    with pytest.raises(VerifierError, match="closed"):
        pool.submit("late", PROMPT, "right")


@pytest.mark.parametrize("unsafe", [False, True])
def test_workers_die_with_the_trainer(tmp_path: Path, unsafe: bool) -> None:
    """Oracle: the process table, after the trainer was killed with SIGKILL while a worker and its child hung."""
    script, seconds = tmp_path / "trainer.py", f"61.{os.getpid()}{int(unsafe)}"
    script.write_text(
        "import subprocess, time\n"
        "from onedial.core.types import Prompt\nfrom onedial.training.verify.pool import VerifierPool\n"
        "from onedial.training.verify.rewards import Reward\n"
        "def reward(prompt, completion):\n"
        "    subprocess.Popen(['sleep', completion], start_new_session=True)\n    time.sleep(60)\n"
        f"pool = VerifierPool(Reward((reward,)), workers=1, timeout_s=60, unsafe={unsafe})\n"
        f"pool.submit(0, Prompt('q'), {seconds!r})\n"
        "time.sleep(60)\n"
    )
    source = str(Path(__file__).parents[1] / "src")
    trainer = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": source})
    below: list[int] = []
    try:
        _wait_for(lambda: bool(_running(seconds)), 30)
        below = list_descendants(trainer.pid)
    finally:
        trainer.kill()
        trainer.wait()
    assert len(below) >= 2 and {int(pid) for pid in _running(seconds)} <= set(below)
    _wait_for(lambda: all(_gone(pid) for pid in below), 10)


def test_in_process_verifiers_start_no_worker() -> None:
    before = _children()
    with VerifierPool(Number(), workers=2) as pool:
        pool.submit("a", Prompt("q", answer=3), "3")
        pool.submit("b", Prompt("q", answer="x"), "3")
        assert _children() == before
        results = dict(pool.poll())
    assert results["a"].outcome == "correct"
    assert results["b"].outcome == "error" and "reference answer 'x' is not a number" in results["b"].detail


class _Unloadable:
    name = "unloadable"
    in_process = False

    def __reduce__(self) -> Any:
        return (_explode, ())

    def judge(self, prompt: Any, completion: str, token_ids: Any = ()) -> float:
        return 1.0


def _explode() -> None:
    raise RuntimeError("no such weights file")


def test_a_verifier_that_cannot_be_loaded_is_one_clear_error() -> None:
    with VerifierPool(_Unloadable(), workers=1) as pool:
        pool.submit(0, PROMPT, "x")
        with pytest.raises(VerifierError, match="could not be loaded in a worker.*RuntimeError: no such weights file"):
            pool.drain(30)


class _Stillborn(Process):
    """Comes up, and is dead by the time it is asked."""

    def alive(self) -> bool:
        return False


def test_workers_that_keep_dying_do_not_hang_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an endless wait for items that nobody will judge: the pool says so."""
    monkeypatch.setattr("onedial.training.verify.pool.Process", _Stillborn)
    with VerifierPool(HOSTILE, workers=1) as pool:
        pool.submit(0, PROMPT, "right")
        with pytest.raises(VerifierError, match="workers of verifier hostile keep dying before they judge anything"):
            pool.drain(30)


def test_impossible_settings_and_unsendable_prompts_are_refused() -> None:
    with pytest.raises(ConfigError, match="workers=0: must be positive"):
        VerifierPool(Number(), workers=0)
    with pytest.raises(ConfigError, match="timeout_s=-1"):
        VerifierPool(Number(), workers=1, timeout_s=-1)
    with (
        VerifierPool(HOSTILE, workers=1) as pool,
        pytest.raises(DataError, match="cannot be sent to a worker"),
    ):
        pool.submit(0, Prompt("q", meta={"file": sys.stdout}), "right")


def _gone(pid: int) -> bool:
    """Whether the process is over; a zombie that its adopter has not reaped counts as over."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def _running(argument: str) -> set[str]:
    """Numbers of the processes `sleep ARGUMENT`."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if file.read_bytes() == f"sleep\0{argument}\0".encode():
                found.add(file.parent.name)
    return found


def _wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
