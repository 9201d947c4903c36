"""One worker process from the trainer's side: start, ask, kill with everything it started."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from onedial.core.errors import VerifierError
from onedial.core.system import exit_status
from onedial.training.verify.verdict import Fields
from onedial.training.verify.worker import receive, send

_KILL_ROUNDS = 10
_SOURCE = str(Path(__file__).parents[3])  # the folder that holds the package


class Process:
    """A started worker. Not forked (the trainer has threads): a fresh interpreter in its own session and group."""

    def __init__(self, verifier: bytes, *, memory_mb: int, start_timeout_s: float, show_output: bool = False) -> None:
        """verifier: the pickled verifier. Raises VerifierError when it cannot be loaded in time."""
        self._channel, theirs = socket.socketpair()
        serve = f"from onedial.training.verify.worker import main; main({theirs.fileno()})"
        code = f"import sys; sys.path.insert(0, {_SOURCE!r}); {serve}"
        output = None if show_output else subprocess.DEVNULL
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
        self.pid = self._process.pid
        self._death_watch = os.pidfd_open(self.pid) if sys.platform == "linux" else None
        try:
            self._channel.settimeout(start_timeout_s)
            send(self._channel, pickle.dumps({"path": sys.path, "verifier": verifier, "memory_mb": memory_mb}))
            answer = json.loads(receive(self._channel))
        except (OSError, EOFError) as error:
            why = f"did not start within {start_timeout_s:g} s" if isinstance(error, TimeoutError) else self.death()
            self.kill()
            raise VerifierError(f"the verifier's worker {why}") from error
        if not answer["ready"]:
            self.kill()
            raise VerifierError(f"the verifier could not be loaded in a worker: {answer['why']}")

    def ask(self, step: int, items: Sequence[bytes]) -> None:
        """Send pickled items to judge; each is answered by one `answer`, in order."""
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

    def hang_up(self) -> None:
        """Shut the channel, from any thread: whoever waits for an answer gets EOFError."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def death(self) -> str:
        """How the process ended, in words; waits a moment for it to be over. Does not reap it."""
        for _ in range(50):
            status = exit_status(self._process)
            if status is not None:
                break
            time.sleep(0.01)
        else:
            return "closed its channel"
        return f"ended its process (exit status {status})" if status >= 0 else f"died of {signal.Signals(-status).name}"

    def kill(self) -> None:
        """SIGKILL to the worker, its process group, and every descendant that left the group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGSTOP)  # so that it starts nothing while its descendants are listed
        for _ in range(_KILL_ROUNDS):  # orphans of what was killed come back to the worker, and are listed again
            living = descendants(self.pid)
            for pid in living:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not living:
                break
        # the zombie has not been reaped yet, so the group number cannot have been given to someone else
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._channel.close()
        if self._death_watch is not None:
            os.close(self._death_watch)
            self._death_watch = None


def descendants(pid: int) -> list[int]:
    """Living processes below `pid`, from /proc; empty where that is missing (then the process group has to do)."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                waiting += [int(child) for child in children.read_text().split()]
        if parent != pid and not _is_zombie(parent):
            found.append(parent)
    return found


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def _readable(descriptors: Sequence[int], timeout_s: float) -> list[int]:
    """Those with something to read, waiting up to `timeout_s`. poll, not select: numbers above 1023 are common."""
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poller.poll(timeout_s * 1000)]
