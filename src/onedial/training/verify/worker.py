"""The worker process: reads (prompt, completion) items from a socket, judges each, answers with JSON.

It imports neither torch nor `onedial.core.types`, writes nothing to the terminal, and dies with its parent. What the
verifier does to it (print, fork, exit, allocate, hang) is contained here or ended from outside by `Process.kill`.

Frames are a 4-byte length and a body. To the worker: pickle (its own parent's data). From the worker: JSON, so that
nothing a verifier can be talked into returning is ever unpickled by the trainer.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onedial.training.verify.rewards import STATE
from onedial.training.verify.verdict import Fields, Verifier, error_of, fields_of

_PR_SET_CHILD_SUBREAPER = 36


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
    """Serve the parent at the other end of a socket until it closes."""
    os.set_inheritable(descriptor, False)
    channel = socket.socket(fileno=descriptor)
    _die_with_parent()
    _adopt_orphans()
    setup = pickle.loads(receive(channel))
    sys.path[:] = setup["path"]
    try:
        verifier: Verifier = pickle.loads(setup["verifier"])
    except BaseException as error:  # an import that exits or fails must be reported, not end in silence
        send(channel, json.dumps({"ready": False, "why": error_of(error, "loading it")["detail"]}).encode())
        return
    _limit_memory(setup["memory_mb"])
    send(channel, json.dumps({"ready": True}).encode())
    pid = os.getpid()
    while True:
        try:
            step, items = pickle.loads(receive(channel))
        except EOFError:
            return
        STATE.global_step = step
        for prompt, completion, token_ids in map(pickle.loads, items):
            fields = _judge(verifier, PromptView(**prompt), completion, token_ids)
            if os.getpid() != pid:  # the verifier forked and its child came back here: it must not answer as well
                os._exit(0)
            send(channel, json.dumps(fields).encode())


def _judge(verifier: Verifier, prompt: PromptView, completion: str, token_ids: Sequence[int]) -> Fields:
    try:
        return fields_of(verifier.judge(prompt, completion, token_ids), verifier.name)
    except BaseException as error:  # SystemExit too: sys.exit() in a verifier must not look like an answer
        return error_of(error, verifier.name)


def _limit_memory(memory_mb: int) -> None:
    """Cap the address space at what loading took plus `memory_mb`; children inherit the cap."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_mb and sys.platform == "linux":
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        limit = held + memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _die_with_parent() -> None:
    """Kill the own process group when the parent is gone; an idle worker ends by itself at end of file.

    Not PR_SET_PDEATHSIG: that fires when the *thread* that started the worker ends.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _adopt_orphans() -> None:
    """Make daemonised grandchildren stay below this process, where `Process.kill` finds them (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


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
