"""What differs between Linux and macOS: the same answers with the calls that macOS lacks taken away.

The oracle is the behavior with those calls in place.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import pytest

from onedial.core.system import available_cores, exit_status
from onedial.training.verify.process import Process
from onedial.training.verify.rewards import Reward
from onedial.training.verify.sandbox import choose_sandbox, list_readable

SRC = Path(__file__).parents[1] / "src" / "onedial"
# of `os`, not on macOS with Python 3.11 and 3.12
LINUX_ONLY = {
    "copy_file_range", "eventfd", "getrandom", "getxattr", "listxattr", "memfd_create", "pidfd_open",
    "posix_fadvise", "posix_fallocate", "sched_getaffinity", "sched_setaffinity", "setns", "setresgid", "setresuid",
    "setxattr", "splice", "unshare", "waitid",
}  # fmt: skip
# asked for behind `sys.platform == "linux"`; another user is chosen there alone
GUARDED = {("process.py", "pidfd_open"), ("confine.py", "setresgid"), ("confine.py", "setresuid")}


@pytest.fixture(params=["as it is", "as on macOS"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "as on macOS":
        for name in LINUX_ONLY & set(dir(os)):
            monkeypatch.delattr(os, name)
        monkeypatch.setattr(sys, "platform", "darwin")
    return str(request.param)


def linux_only_calls(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os"
    }
    return {name for name in named & LINUX_ONLY if (path.name, name) not in GUARDED}


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda path: str(path.relative_to(SRC)))
def test_no_other_module_calls_what_macos_lacks(path: Path) -> None:
    assert not linux_only_calls(path) or path.name == "sandbox.py", "put it into core/system.py"


def test_cores_are_counted(system: str) -> None:
    cores = available_cores()
    assert 1 <= cores <= (os.cpu_count() or 1)
    if system == "as it is" and sys.platform == "linux":
        assert cores == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("code", "status"), [("pass", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)]
)
def test_the_status_of_a_child(system: str, code: str, status: int) -> None:
    """Oracle: what subprocess itself says when it waits."""
    with subprocess.Popen([sys.executable, "-c", "input()\n" + code], stdin=subprocess.PIPE) as child:
        assert exit_status(child) is None
        child.communicate(b"\n")
        assert exit_status(child) == child.returncode == status
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        for _ in range(1000):
            if (found := exit_status(child)) is not None:
                break
            time.sleep(0.01)
        assert found == status
        assert exit_status(child) == status, "a second question has the same answer"


def test_verifiers_start_answer_and_die(system: str) -> None:
    def reward(prompt: str, completion: str) -> float:
        if completion == "end":
            os._exit(7)
        return float(len(completion))

    verifier = Reward((reward,))
    readable = list_readable(verifier)
    worker = Process(
        cloudpickle.dumps(verifier),
        sandbox=choose_sandbox(readable),
        readable=readable,
        memory_mb=0,
        timeout_s=30,
        start_timeout_s=60,
    )
    try:
        assert worker.alive()
        item = {"text": "q", "messages": (), "answer": None, "source": "", "meta": {}, "id": "1", "plain": "q"}
        worker.ask(1, [cloudpickle.dumps((item, "four", ()))])
        assert worker.answer(30)["reward"] == 4
        worker.ask(1, [cloudpickle.dumps((item, "end", ()))])
        with pytest.raises((EOFError, OSError)):
            worker.answer(30)
        assert worker.death() == "ended its process (exit status 7)"
        assert not worker.alive()
    finally:
        worker.kill()


def test_a_process_is_prepared_without_the_gnu_library(system: str) -> None:
    """With it, the 128 MB of a tensor that is freed are kept until they are returned on purpose."""
    code = (
        "import os, sys, platform, torch\n"
        + ("" if system == "as it is" else "del os.sched_getaffinity; sys.platform = 'darwin'\n")
        + "from onedial.training.trainer.cpu import prepare_process, read_process_bytes, trim_memory_beyond\n"
        "prepare_process(0); before = read_process_bytes() if sys.platform == 'linux' else 0\n"
        "def kept(): return bool(before) and read_process_bytes() - before > 2**26\n"
        "part = torch.ones(2**25); del part\n"
        "print(kept(), torch.get_num_threads() >= 1, trim_memory_beyond(0), kept())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    glibc = system == "as it is" and sys.platform == "linux"
    assert done.stdout.split() == [str(glibc), "True", str(glibc), "False"], done.stderr
