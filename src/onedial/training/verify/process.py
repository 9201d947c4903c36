"""One worker process from the trainer's side: starts it, sends work, and kills it with everything it started."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from onedial.core.errors import VerifierError
from onedial.core.system import exit_status
from onedial.training.verify.descendants import kill_descendants, list_descendants
from onedial.training.verify.sandbox import SOURCE, Sandbox, is_library, prepare_launch
from onedial.training.verify.verdict import Fields
from onedial.training.verify.worker import receive, send

_MAX_LEFT_BEHIND = 16  # processes below a worker; with more it is to be replaced, and they die with it
_LOOK_S = 0.5
_QUICK_S = 0.002  # in less time no verifier starts more than a few processes
_SIGNAL_BASE = 128  # exit status of bubblewrap when what it ran died of signal n: 128 + n


class Process:
    """A started worker. It is not forked, because the trainer has threads: a new interpreter in its own session and
    group."""

    def __init__(
        self,
        verifier: bytes,
        *,
        sandbox: Sandbox,
        readable: Sequence[str],
        memory_mb: int,
        timeout_s: float,
        start_timeout_s: float,
        show_output: bool = False,
    ) -> None:
        """verifier: pickled. readable: what the sandbox shows. timeout_s: of one judgment, to bound processor time.

        Raises VerifierError when the verifier cannot be loaded in time.
        """
        self._sandbox = sandbox
        self._launch = prepare_launch(sandbox, readable)
        self._channel, theirs = socket.socketpair()
        serve = f"from onedial.training.verify.worker import main; main({theirs.fileno()})"
        code = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); {serve}"
        output = None if show_output else subprocess.DEVNULL
        with theirs:
            self._process = subprocess.Popen(
                [*self._launch.command, sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=self._launch.environment,
            )
        self.pid = self._process.pid
        self._looked = 0.0
        self._death_watch = os.pidfd_open(self.pid) if sys.platform == "linux" else None
        setup = {
            # "" is the folder we are in; user code is shown under its real path only
            "path": [(os.path.abspath if is_library(entry) else os.path.realpath)(entry) for entry in sys.path],
            "verifier": verifier,
            "memory_mb": memory_mb,
            "timeout_s": timeout_s,
            "limits": self._launch.limits,
            "supervise": sandbox.level != "namespace",
        }
        try:
            self._channel.settimeout(start_timeout_s)
            send(self._channel, pickle.dumps(setup))
            answer = json.loads(receive(self._channel))
        except (OSError, EOFError) as error:
            why = f"did not start within {start_timeout_s:g} s" if isinstance(error, TimeoutError) else self.death()
            self.kill()
            raise VerifierError(f"the verifier's worker {why}") from error
        if not answer["ready"]:
            self.kill()
            raise VerifierError(f"the verifier could not be loaded in a worker: {answer['why']}")

    def ask(self, step: int, items: Sequence[bytes]) -> None:
        """Sends pickled items to judge; each is answered by one `answer`, in order."""
        send(self._channel, pickle.dumps((step, list(items))))

    def answer(self, timeout_s: float) -> Fields:
        """The next verdict's fields. TimeoutError when it takes longer, EOFError or OSError when the worker is dead."""
        # not end of file alone: a child that the verifier forked may hold the other end open after the worker died
        watched = [self._channel.fileno()] + ([] if self._death_watch is None else [self._death_watch])
        ready = _readable(watched, timeout_s)
        if not ready:
            raise TimeoutError
        if self._channel.fileno() not in ready:
            raise EOFError("the worker is dead")
        self._channel.settimeout(timeout_s)
        fields: Fields = json.loads(receive(self._channel))
        return fields

    def alive(self) -> bool:
        """Whether the process runs."""
        return exit_status(self._process) is None

    def is_crowded(self, spent_s: float) -> bool:
        """Whether verifiers have left many processes running, after work of `spent_s` seconds.

        This check costs about as much as two judgments. After work too short to have started many processes it is
        skipped, unless the last check was `_LOOK_S` seconds ago.
        """
        now = time.monotonic()
        if spent_s < _QUICK_S and now - self._looked < _LOOK_S:
            return False
        self._looked = now
        return len(list_descendants(self.pid)) > _MAX_LEFT_BEHIND

    def hang_up(self) -> None:
        """Closes the channel, from any thread: a thread that waits for an answer gets EOFError."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def death(self) -> str:
        """How the process ended, in words; waits a moment for it to be over."""
        for _ in range(50):
            status = exit_status(self._process)
            if status is not None:
                break
            time.sleep(0.01)
        else:
            return "closed its channel"
        if self._sandbox.level == "namespace" and status > _SIGNAL_BASE:
            status = _SIGNAL_BASE - status
        return f"ended its process (exit status {status})" if status >= 0 else f"died of {signal.Signals(-status).name}"

    def kill(self) -> None:
        """SIGKILL to the worker, its process group, and every descendant that left the group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGSTOP)  # so that it starts nothing while its descendants are listed
        kill_descendants(self.pid)
        # the zombie has not been reaped yet, so the group number cannot have been given to someone else
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._channel.close()
        if self._death_watch is not None:
            os.close(self._death_watch)
            self._death_watch = None
        if self._launch.folder:
            shutil.rmtree(self._launch.folder, ignore_errors=True)


def _readable(descriptors: Sequence[int], timeout_s: float) -> list[int]:
    """The files that can be read, waiting up to `timeout_s`. Uses poll, because select fails for numbers above 1023."""
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poller.poll(timeout_s * 1000)]
