"""The worker process: reads (prompt, completion) items from a socket, judges each, answers with JSON.

It imports neither torch nor `onedial.core.types`, writes nothing to the terminal, and dies with its parent. Before the
verifier is loaded the worker confines itself (`confine`), inside the file tree and process namespace that bubblewrap
gave it, if there is one. Whatever the verifier does (print, fork, exit, allocate, hang) is contained here or ended from
outside by `Process.kill`.

Frames are a 4-byte length and a body. Messages to the worker are pickles (its own parent's data). Messages from the
worker are JSON, so that nothing that a verifier returns is ever unpickled by the trainer.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onedial.training.verify.confine import Limits, allow_cpu_time, confine, limit_memory
from onedial.training.verify.descendants import adopt_orphans, kill_descendants
from onedial.training.verify.rewards import STATE
from onedial.training.verify.verdict import Fields, Verifier, describe_error, read_fields

CPU_SHARE = 4.0  # processor seconds per second of the time limit: a verifier may use a few threads
UNCATCHABLE = (signal.SIGKILL, signal.SIGSTOP)
SANDBOX_HINT = (
    "verifiers run in a sandbox without a network, and see no files but Python's and the task's own; "
    "--unsafe-verifiers lifts it"
)


@dataclass(frozen=True)
class PromptView:
    """A prompt as verifiers see it in a worker: the fields of `onedial.Prompt`, without importing it."""

    text: str = ""
    messages: Sequence[Mapping[str, str]] = ()
    answer: Any = None
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    plain: str = ""


def main(descriptor: int) -> None:
    """Serves the parent at the other end of a socket until it closes."""
    os.set_inheritable(descriptor, False)
    channel = socket.socket(fileno=descriptor)
    setup = pickle.loads(receive(channel))
    if setup["supervise"]:
        run_supervised(channel)
    statm = os.open("/proc/self/statm", os.O_RDONLY) if sys.platform == "linux" else -1
    sys.path[:] = setup["path"]
    limits: Limits | None = setup["limits"]
    try:
        if limits is not None:
            confine(limits)
        verifier: Verifier = pickle.loads(setup["verifier"])
    except BaseException as error:  # an import that exits or fails must be reported, not end in silence
        why = _explain(error, "loading it", sandboxed=limits is not None)["detail"]
        send(channel, json.dumps({"ready": False, "why": why}).encode())
        return
    limit_memory(setup["memory_mb"], statm)
    send(channel, json.dumps({"ready": True}).encode())
    pid = os.getpid()
    while True:
        try:
            step, items = pickle.loads(receive(channel))
        except EOFError:
            return
        STATE.global_step = step
        if limits is not None:
            allow_cpu_time(CPU_SHARE * setup["timeout_s"] * len(items))
        for prompt, completion, token_ids in map(pickle.loads, items):
            try:
                fields = read_fields(verifier.judge(PromptView(**prompt), completion, token_ids), verifier.name)
            except BaseException as error:  # SystemExit too: sys.exit() in a verifier must not look like an answer
                fields = _explain(error, verifier.name, sandboxed=limits is not None)
            if os.getpid() != pid:  # the verifier forked and its child came back here: it must not answer as well
                os._exit(0)
            send(channel, json.dumps(fields).encode())


def _explain(error: BaseException, name: str, *, sandboxed: bool) -> Fields:
    """The fields of `describe_error`, with a hint where the sandbox may be the cause."""
    fields = describe_error(error, name)
    if sandboxed and isinstance(error, OSError) and not isinstance(error, TimeoutError):
        fields["detail"] += f"; {SANDBOX_HINT}"
    return fields


def run_supervised(channel: socket.socket) -> None:
    """Forks. Returns in the child; the parent waits for it, kills everything that it left running, and ends in the same
    way.

    The parent stays outside the sandbox, so nothing inside can stop this. It also ends the child if the trainer ends.
    PR_SET_PDEATHSIG is not used, because it fires when the *thread* that started the worker ends.
    """
    trainer = os.getppid()
    adopt_orphans()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(woken)
        os.close(wake)
        return
    channel.close()
    status = None
    while status is None and os.getppid() == trainer:
        select.select([woken], [], [], 1.0)
        status = _reap(child)
    kill_descendants(os.getpid())
    if status is None:  # the trainer is gone
        os.killpg(0, signal.SIGKILL)
    elif os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL) if os.WTERMSIG(status) not in UNCATCHABLE else None
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status or 0))


def _reap(child: int) -> int | None:
    """Collects every child that has ended; the wait status of `child` if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            status = found[1] if found[0] == child else status
    return status


def send(channel: socket.socket, body: bytes) -> None:
    """Write one frame."""
    channel.sendall(struct.pack("<I", len(body)) + body)


def receive(channel: socket.socket) -> bytes:
    """Read one frame. EOFError when the other end is closed, TimeoutError after the socket's own timeout."""
    (length,) = struct.unpack("<I", _exactly(channel, 4))
    return _exactly(channel, length)


def _exactly(channel: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = channel.recv(min(length, 1 << 20))
        if not part:
            raise EOFError("the other end closed")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
