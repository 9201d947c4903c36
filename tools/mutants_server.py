"""Runs pytest for mutants.py, each time in a fork of a process that has imported the slow packages.

Requests come on standard input, one JSON object per line; the answer to each is the exit code, 124 past the limit.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

# What tests/conftest.py sets before it imports these.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
# They start no threads when they are imported, which a fork would lose.
SLOW = (
    "hypothesis", "polars", "pyarrow.parquet", "pytest", "rich.console", "scipy.optimize", "scipy.stats", "torch",
    "transformers", "transformers.models.llama.modeling_llama",
)  # fmt: skip
# A plugin that transformers has imported is not rewritten; only its own asserts would say less.
REWRITTEN = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
OPTIONS = ("-q", "--tb=line", *REWRITTEN, "-p", "no:cacheprovider", "-p", "mutants_plugin")


def serve() -> None:
    """Answers requests until standard input ends."""
    for name in SLOW:
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        print(run_forked(**json.loads(line)), flush=True)


def run_forked(words: list[str], environment: dict[str, str], out: str, limit: float) -> int:
    """pytest with these words in a fork; every process that it leaves in its group is ended."""
    child = os.fork()
    if child == 0:
        os.setsid()  # a group of its own
        null, written = os.open(os.devnull, os.O_RDONLY), os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for source, target in ((null, 0), (written, 1), (written, 2)):
            os.dup2(source, target)
        os.environ.update(environment)
        try:
            code = int(sys.modules["pytest"].main([*OPTIONS, *words]))
        except BaseException:
            traceback.print_exc()
            code = 3
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    code = wait(child, limit)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if code is None:
        os.waitpid(child, 0)
    return 124 if code is None else code


def wait(child: int, limit: float) -> int | None:
    """The exit code of a child, None past the limit. The first process of a machine reaps the orphans of others too."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(-1, os.WNOHANG)
        if done == child:
            return os.waitstatus_to_exitcode(status)
        if not done:
            time.sleep(0.05)
    return None


def apart() -> tuple[str, ...]:
    """The command before a command that gives it process numbers of its own, where this machine lets us."""
    words = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    allowed = shutil.which(words[0]) and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if allowed else ()


class Server:
    """A process that serves the tests of one copy of the checkout."""

    def __init__(self, copy: Path) -> None:
        self.out = copy.parent / "output.txt"
        paths = os.pathsep.join([str(copy / "src"), str(Path(__file__).parent)])
        self.process = subprocess.Popen(
            [*apart(), sys.executable, "-c", "import mutants_server; mutants_server.serve()"],
            cwd=copy,
            env=os.environ | OFFLINE | {"PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, words: Iterable[str], limit: float, **environment: str) -> tuple[int, str]:
        """Exit code and output of pytest."""
        assert self.process.stdin and self.process.stdout
        request = {"words": list(words), "environment": environment, "out": str(self.out), "limit": limit}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("mutants: a change ended the process that runs the tests")
        code = int(answer)
        return code, self.out.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
