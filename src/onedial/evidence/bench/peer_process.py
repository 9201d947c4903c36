"""A separate process for each side of a step, so that their memory is measured separately and no thread pool is shared.

The two wait for each other, so that their measurements alternate: `Worker.ask(mode)` lets the process do one piece of
work and report how long it took and its peak memory so far.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from onedial.core.errors import EngineError
from onedial.evidence.bench.workload import Conditions, Workload

# What runs in a process: sends what the last piece of work took (None at first), gets the next mode (None: stop).
Exchange = Callable[[float | None], str | None]
# name → module with `serve(conditions, workload, exchange)`
SERVERS = {
    "ours": "onedial.evidence.bench.ours",
    "trl": "onedial.evidence.bench.peer_trl",
    "vllm": "onedial.evidence.bench.peer_vllm",
}


class Reply(NamedTuple):
    """Seconds of the work, and peak bytes of the process so far."""

    seconds: float
    peak_bytes: int


class WorkerFailed(EngineError):
    """A process that could not do its work; `name` says which."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} could not be measured: {why}")
        self.name = name


class Worker:
    """A process that holds the model of one side and does one piece of work whenever asked.

    Raises WorkerFailed with the last output of the process if it fails.
    """

    def __init__(self, name: str, conditions: Conditions, workload: Workload) -> None:
        self.name = name
        handle, path = tempfile.mkstemp(prefix=f"onedial-bench-{name}-", suffix=".log")
        os.close(handle)
        self._log = Path(path)
        spawn = multiprocessing.get_context("spawn")
        self._pipe, there = spawn.Pipe()
        # not a daemon: vLLM starts processes of its own
        self._process = spawn.Process(target=_live, args=(there, SERVERS[name], conditions, workload, path))
        with _hold_interrupts():  # the process lets them through when its output goes to the file
            self._process.start()
        there.close()

    def __enter__(self) -> Worker:
        try:
            self._receive()  # ready
        except BaseException:
            self.close()
            raise
        return self

    def ask(self, mode: str = "") -> Reply:
        """One piece of work."""
        self._pipe.send(mode)
        return self._receive()

    def _receive(self) -> Reply:
        try:
            seconds, peak, error = self._pipe.recv()
        except EOFError:
            tail = self._log.read_text(errors="replace").strip().splitlines()[-3:]
            seconds, peak, error = None, 0, f"the process died: {' '.join(tail) or 'no message'}"
        if error:
            raise WorkerFailed(self.name, error)
        return Reply(seconds or 0.0, peak)

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(timeout=20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._log.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _hold_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the end of the block, and in a process that is started in it until that lets it through."""
    resource_tracker.ensure_running()  # where it has to be started it lets them through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live(pipe: Connection, module: str, conditions: Conditions, workload: Workload, log: str) -> None:
    """The main loop of the process: the output of libraries goes to a file, the figures through the pipe."""
    os.environ["OMP_NUM_THREADS"] = str(conditions.threads)  # for thread pools other than torch's
    with open(log, "a") as sink:
        os.dup2(sink.fileno(), sys.stdout.fileno() if _real(sys.stdout) else 1)
        os.dup2(sink.fileno(), sys.stderr.fileno() if _real(sys.stderr) else 2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    import torch

    from onedial.evidence.bench.machine import peak_bytes

    torch.set_num_threads(conditions.threads)
    device = torch.device(conditions.device)

    def exchange(seconds: float | None) -> str | None:
        pipe.send((seconds, peak_bytes(device), ""))
        try:
            mode: str = pipe.recv()
        except EOFError:
            return None
        return mode

    try:
        importlib.import_module(module).serve(conditions, workload, exchange)
    except BrokenPipeError:
        return  # the other end has gone; nobody listens
    except Exception as error:
        import traceback

        traceback.print_exc()
        pipe.send((None, 0, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"))


def _real(stream: object) -> bool:
    try:
        stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return True
