"""Threads for the free cores. Oracles: hand values, the operating system's own count, and runs with other threads."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onedial.core.settings import Run
from onedial.core.system import available_cores, read_busy_seconds
from onedial.training import cores
from onedial.training.cores import CoreShare
from onedial.training.trainer import checkpoint
from onedial.training.trainer.loop import train

LOOP = "while True: pass"


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    cores.set_threads(before)


def follow(number: int, others: list[float], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads after each second in which others used so many cores and this process all its threads."""
    state = {"now": 0.0, "own": 0.0, "busy": 100.0, "threads": number}
    monkeypatch.setattr(torch, "get_num_threads", lambda: state["threads"])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: state.update(threads=count))
    share = CoreShare(number, *(lambda name=name: state[name] for name in ("now", "own", "busy")))
    share.update()
    found = []
    for used in others:
        state["now"] += 1.0
        state["own"] += state["threads"]
        state["busy"] += state["threads"] + used
        share.update()
        found.append(int(state["threads"]))
    return found


@pytest.mark.parametrize(
    "number, others, threads",
    [
        (2, [0.0, 0.1, 0.2, 0.0], [2, 2, 2, 2]),
        (2, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [1, 1, 1, 1, 2, 2]),  # the running mean: .5, .75, .875, .44, .22, .11
        (2, [9.0], [1]),  # never none
        (8, [3.0] * 4, [6, 6, 5, 5]),  # 1.5, 2.25, 2.6, 2.8 of eight
        (1, [1.0, 0.0], [1, 1]),
    ],
)
def test_threads_follow_the_free_cores(
    number: int, others: list[float], threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert follow(number, others, monkeypatch) == threads


def test_nothing_changes_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count().__next__
    monkeypatch.setattr(torch, "set_num_threads", lambda count: pytest.fail("threads were changed"))
    share = CoreShare(2, clock=clock, own=lambda: 0.0, busy=lambda: None)
    for _ in range(5):
        share.update()
    broken = "cpu  1 2 3\n" + "".join(f"cpu{core} not numbers\n" for core in range(1024))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: broken)
    assert read_busy_seconds() is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_seconds_of_others_are_seen() -> None:
    """Oracle: the CPU time that the operating system gives for a child that loops."""
    before = read_busy_seconds()
    with subprocess.Popen([sys.executable, "-S", "-c", LOOP]) as other:
        time.sleep(0.6)
        ticks = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        after = read_busy_seconds()
        other.kill()
    assert before is not None and after is not None
    assert after - before >= 0.8 * sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") > 0.05


@pytest.mark.skipif(available_cores() < 2, reason="needs two cores")
def test_the_number_of_threads_changes_no_bit(small_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariance: weights and rollouts of runs with one thread, with two, and with another number at every look."""
    turn = itertools.cycle([1, 2, 2, 1, 2])

    def weights(name: str, threads: int) -> dict[str, Any]:
        run = replace(small_run, threads=threads, iterations=2, out=f"{small_run.out}-{name}")
        train(run)
        newest = checkpoint.find_latest(Path(run.out))
        assert newest is not None
        return load_file(newest / "resume" / "masters.safetensors")

    one, two = weights("one", 1), weights("two", 2)
    monkeypatch.setattr(CoreShare, "update", lambda self: torch.set_num_threads(next(turn)))
    mixed = weights("mixed", 0)
    assert next(turn) in (1, 2) and all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(one[name], mixed[name]) for name in one)
