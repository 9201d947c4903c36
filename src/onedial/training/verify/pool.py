"""A pool of killable worker processes, so that judging overlaps decoding and no verifier can stop a run.

A verifier that raises, ends its process, or returns something invalid gives an `error`; one that takes too long gives a
`timeout` and is killed with all processes that it started. Neither is ever a reward.

Why not pebble, loky or `concurrent.futures`: they unpickle what a worker returns, so a verifier that executes text
could run code in the trainer (here replies are JSON); they do not kill the descendants of a worker; they have no limit
on memory; and their workers cannot be started inside a sandbox.
"""

from __future__ import annotations

import pickle
import queue
import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Self

import cloudpickle

from onedial.core.errors import ConfigError, DataError, VerifierError
from onedial.core.types import Prompt, Verdict
from onedial.training.verify.process import Process
from onedial.training.verify.sandbox import REMEDY, SUFFICIENT, Sandbox, choose_sandbox, list_readable
from onedial.training.verify.verdict import Fields, Verifier, judge, make_failure, make_verdict

_MAX_BATCH = 8  # items per message; small, because a hanging item holds up the rest of its message
_MAX_IDLE_DEATHS = 3
Item = tuple[Hashable, bytes]


class VerifierPool:
    """Judges completions asynchronously; results come back in the order in which they are ready, under the caller's
    keys.

    A verifier with `in_process = True` is called directly in `submit` and no worker is started. `step` is the iteration
    that reward functions see as `trainer_state.global_step`.
    """

    def __init__(
        self,
        verifier: Verifier,
        workers: int,
        timeout_s: float = 10.0,
        memory_mb: int = 2048,
        *,
        unsafe: bool = False,
        hidden: Sequence[Path] = (),
        start_timeout_s: float = 60.0,
        show_output: bool = False,
    ) -> None:
        """timeout_s: wall-clock seconds for one completion. memory_mb: address space beyond the loaded verifier.

        unsafe: no sandbox. hidden: folders that no worker may read even if they lie beside the user's code (the run).
        Workers start at once, in the background. Raises ConfigError for impossible settings, and for a verifier that
        executes what the model writes where this machine has no sufficient sandbox.
        """
        for name, value in (("workers", workers), ("timeout_s", timeout_s), ("memory_mb", memory_mb)):
            if value <= 0:
                raise ConfigError(f"verifier pool {name}={value}: must be positive")
        self.step = 0
        self._verifier = verifier
        self._timeout_s = timeout_s
        self._memory_mb, self._start_timeout_s, self._show_output = memory_mb, start_timeout_s, show_output
        self._todo: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Hashable, Fields]] = queue.SimpleQueue()
        self._pending = 0
        self._failure: VerifierError | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._processes: set[Process] = set()
        self._workers = workers
        self._threads: list[threading.Thread] = []
        self.sandbox: Sandbox | None = None
        if verifier.in_process:
            if not unsafe:
                refuse_unsafe(verifier, None)
            return
        self._readable = list_readable(verifier, [folder.resolve() for folder in hidden])
        self.sandbox = choose_sandbox(self._readable, unsafe=unsafe)
        refuse_unsafe(verifier, self.sandbox)
        try:
            self._pickled = cloudpickle.dumps(verifier)
        except Exception as error:  # the verifier may refer to anything
            raise ConfigError(f"verifier {verifier.name} cannot be sent to a worker process: {error}") from error
        self._threads = [threading.Thread(target=self._serve_items, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def note(self) -> str:
        """One line for the screen: where verifiers run."""
        return self.sandbox.text if self.sandbox else f"verifier {self._name!r} runs in the trainer's process"

    @property
    def pending(self) -> int:
        """Items submitted whose results have not been returned."""
        return self._pending

    def submit(self, key: Hashable, prompt: Prompt, completion: str, token_ids: Sequence[int] = ()) -> None:
        """Submits one completion; returns at once, except for in-process verifiers, which judge here."""
        if self._closed:
            raise VerifierError("the verifier pool is closed")
        self._pending += 1
        if self._verifier.in_process:
            self._done.put((key, judge(self._verifier, prompt, completion, token_ids)))
        else:
            self._todo.put((key, _pack_item(prompt, completion, token_ids)))

    def poll(self) -> list[tuple[Hashable, Verdict]]:
        """The results that are ready, without waiting. Raises VerifierError if no worker can be started."""
        if self._failure is not None:
            raise self._failure
        results = []
        while True:
            try:
                key, fields = self._done.get_nowait()
            except queue.Empty:
                break
            results.append((key, make_verdict(fields)))
        self._pending -= len(results)
        return results

    def drain(self, timeout: float | None = None) -> list[tuple[Hashable, Verdict]]:
        """Waits until everything submitted is judged, or `timeout` seconds; late results stay pending."""
        deadline = None if timeout is None else time.monotonic() + timeout
        results = self.poll()
        while self._pending and (deadline is None or time.monotonic() < deadline):
            time.sleep(0.001)
            results += self.poll()
        return results

    def close(self) -> None:
        """Kills the workers; what has not been judged is dropped. Can be called twice."""
        self._closed = True
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            while thread.is_alive():
                self._interrupt_workers()
                thread.join(0.05)
        self._threads = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _serve_items(self) -> None:
        """One thread per worker: takes items, has them judged, and replaces the worker if it had to be killed."""
        process: Process | None = None
        backlog: deque[Item] = deque()
        idle_deaths = 0
        try:
            while not self._closed:
                process = process or self._launch_worker()
                if not backlog and not self._take_items(backlog):
                    return
                waiting = len(backlog)
                if self._judge_backlog(process, backlog):
                    continue
                idle_deaths = idle_deaths + 1 if len(backlog) == waiting else 0
                if idle_deaths >= _MAX_IDLE_DEATHS:
                    raise VerifierError(f"the workers of verifier {self._name} keep dying before they judge anything")
                self._retire_worker(process)
                process = None
        except VerifierError as error:
            self._fail(error)
        except Exception as error:  # a thread that ended in silence would leave its items pending for ever
            self._fail(VerifierError(f"the verifier pool broke: {type(error).__name__}: {error}"))
        finally:
            self._retire_worker(process)

    def _fail(self, error: VerifierError) -> None:
        if not self._closed:
            self._failure = error

    def _take_items(self, backlog: deque[Item]) -> bool:
        """Waits for an item and takes its fair share of those waiting behind it; False if the pool is closing."""
        item = self._todo.get()
        share = min(_MAX_BATCH - 1, self._todo.qsize() // self._workers)
        while item is not None:
            backlog.append(item)
            if share <= 0:
                return True
            share -= 1
            try:
                item = self._todo.get_nowait()
            except queue.Empty:
                return True
        return False

    def _judge_backlog(self, process: Process, backlog: deque[Item]) -> bool:
        """Judges the backlog while the worker lives; False if the worker must be replaced. Each item is judged once."""
        if not process.alive():  # died while idle: nobody's verdict
            return False
        started = time.monotonic()
        try:
            process.ask(self.step, [packed for _, packed in backlog])
        except OSError:
            return False
        while backlog:
            try:
                fields, lives = process.answer(self._timeout_s), True
            except TimeoutError:
                fields, lives = make_failure("timeout", f"{self._name} took longer than {self._timeout_s:g} s"), False
            except (OSError, EOFError, ValueError):
                fields, lives = make_failure("error", f"{self._name} {process.death()}"), False
            if self._closed:
                return False
            self._done.put((backlog.popleft()[0], fields))
            if not lives:
                return False
        return not process.is_crowded(time.monotonic() - started)

    @property
    def _name(self) -> str:
        return self._verifier.name

    def _launch_worker(self) -> Process:
        """A new worker, with one more attempt if the first does not start."""
        try:
            process = self._start_process()
        except (VerifierError, OSError):
            if self._closed:
                raise VerifierError("the verifier pool is closed") from None
            process = self._start_process()
        with self._lock:
            self._processes.add(process)
        return process

    def _start_process(self) -> Process:
        assert self.sandbox is not None, "only pools with workers start one"
        return Process(
            self._pickled,
            sandbox=self.sandbox,
            readable=self._readable,
            timeout_s=self._timeout_s,
            memory_mb=self._memory_mb,
            start_timeout_s=self._start_timeout_s,
            show_output=self._show_output,
        )

    def _retire_worker(self, process: Process | None) -> None:
        if process is not None:
            with self._lock:
                self._processes.discard(process)
            process.kill()

    def _interrupt_workers(self) -> None:
        """Wake the threads that wait for a worker's answer; each then kills its own worker."""
        with self._lock:
            for process in self._processes:
                process.hang_up()


def refuse_unsafe(verifier: Verifier, sandbox: Sandbox | None) -> None:
    """Raises ConfigError if the verifier executes what the model writes and the sandbox would not contain it.

    sandbox: None if the verifier runs in the trainer's process.
    """
    if not getattr(verifier, "executes_text", False) or (sandbox and sandbox.level in (*SUFFICIENT, "none")):
        return
    risk = "--unsafe-verifiers runs it with your rights, at your risk"
    if sandbox is None:
        raise ConfigError(
            f"verifier {verifier.name!r} executes what the model writes, and in_process runs it in the trainer; leave "
            f"in_process out, so that it runs in a sandbox; {risk}"
        )
    raise ConfigError(
        f"verifier {verifier.name!r} executes what the model writes, and this machine has no sandbox for it "
        f"({'; '.join(sandbox.skipped)}): {REMEDY}; {risk}"
    )


def _pack_item(prompt: Prompt, completion: str, token_ids: Sequence[int]) -> bytes:
    """An item for the worker. Raises DataError when the prompt holds something that cannot be sent."""
    view = {
        "text": prompt.text,
        "messages": [dict(message) for message in prompt.messages],
        "answer": prompt.answer,
        "source": prompt.source,
        "meta": dict(prompt.meta),
        "id": prompt.id,
        "plain": prompt.plain,
    }
    try:
        return pickle.dumps((view, completion, tuple(token_ids)))
    except Exception as error:  # meta may contain anything
        raise DataError(f"prompt {prompt.id}: its answer or meta cannot be sent to a worker: {error}") from error
