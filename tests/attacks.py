"""A verifier that attacks the machine, for the tests of the sandbox. Imports nothing heavy: workers load it often."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attack(prompt: Any, completion: str) -> dict[str, Any]:
    """Does what the completion says; the answer is what it got, or the error that stopped it."""
    what, *arguments = json.loads(completion)
    try:
        got, stopped = ATTACKS[what](*arguments), False
    except Exception as error:
        got, stopped = f"{type(error).__name__}: {error}", True
    return {"reward": 0.0 if stopped else 1.0, "answer": json.dumps(got)}


def read(path: str) -> str:
    return Path(path).read_text(errors="replace")


def listed(path: str) -> list[str]:
    return os.listdir(path)


def write(path: str) -> str:
    Path(path).write_text("was here")
    return path


def read_through_link(path: str) -> str:
    link = Path(os.environ["TMPDIR"]) / f"link{time.monotonic_ns()}"
    link.symlink_to(path)
    return link.read_text()


def link_hard(path: str) -> str:
    link = Path(os.environ["TMPDIR"]) / f"hard{time.monotonic_ns()}"
    os.link(path, link)
    return link.read_text()


def connect(family: str, address: Any) -> str:
    kind = socket.SOCK_DGRAM if family == "udp" else socket.SOCK_STREAM
    domain = socket.AF_UNIX if family == "unix" else socket.AF_INET
    with socket.socket(domain, kind) as client:
        client.settimeout(3)
        client.connect(tuple(address) if isinstance(address, list) else address.replace("@", "\0"))
        client.send(b"x")
    return "sent"


def environment(name: str) -> str:
    return os.environ[name]


def all_environments(token: str) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if token.encode() in file.read_bytes():
                found.append(str(file))
        except OSError:
            continue
    if not found:
        raise PermissionError("no environment holds it")
    return found


def fork_bomb() -> int:
    started: list[int] = []
    try:
        while len(started) < 2000:
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            started.append(child)
    except OSError:
        pass
    return len(started)


def daemon(seconds: str) -> str:
    """Leaves a process in a session of its own, whose parent has ended; then ends the worker."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", seconds])
        os._exit(0)
    time.sleep(0.5)
    os._exit(5)


def send_signal(pid: int) -> str:
    os.kill(pid, signal.SIGTERM)
    return "sent"


def _libc(call: str, *arguments: Any) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, call)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "done"


def trace(pid: int) -> str:
    return _libc("ptrace", ctypes.c_long(0x4206), ctypes.c_long(pid), None, None)  # PTRACE_SEIZE


def read_memory(pid: int) -> str:
    with open(f"/proc/{pid}/mem", "rb"):
        return "open"


def read_vm(pid: int) -> str:
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    return _libc("process_vm_readv", pid, vector, 1, vector, 1, 0)


def limit_other(pid: int) -> str:
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (16, 16))
    return "limited"


def new_namespace() -> str:
    return _libc("unshare", 0x10000000 | 0x20000)


def mount() -> str:
    return _libc("mount", b"none", os.environ["TMPDIR"].encode(), b"tmpfs", 0, None)


def keys() -> str:
    return _libc("syscall", 250, 0, -4, 1)  # keyctl: the user's session keyring


def fill_disk(limit_mb: int) -> int:
    """Megabytes written to the private folder until it was full, over several files."""
    written = 0
    for number in range(limit_mb // 64):
        try:
            with open(Path(os.environ["TMPDIR"]) / f"fill{number}", "wb") as file:
                for _ in range(64):
                    file.write(bytes(2**20))
                    file.flush()
                    written += 1
        except OSError:
            break
    return written


def one_file(limit_mb: int) -> int:
    """Megabytes in a single file until it was refused."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    written = 0
    try:
        with open(Path(os.environ["TMPDIR"]) / "one", "wb") as file:
            while written < limit_mb:
                file.write(bytes(2**20))
                file.flush()
                written += 1
    except OSError:
        pass
    finally:
        (Path(os.environ["TMPDIR"]) / "one").unlink()
    return written


def memory(gigabytes: int) -> int:
    return len(bytearray(gigabytes * 2**30))


def burn(seconds: str) -> str:
    """Leaves a child that only computes; it is stopped by its processor time."""
    subprocess.Popen([sys.executable, "-c", f"x = {seconds!r}\nwhile True: pass"])
    return "started"


def user() -> list[int]:
    return [os.getuid(), os.geteuid(), os.getgid()]


def private() -> str:
    """What must work: a scratch file, a child process, an import, random bytes from the device (torch reads them)."""
    import decimal

    with open("/dev/urandom", "rb") as device, open("/dev/null", "w") as sink:
        sink.write(str(device.read(1)))

    path = Path(os.environ["TMPDIR"]) / "scratch"
    path.write_text("1")
    done = subprocess.run([sys.executable, "-c", "print(1 + 1)"], capture_output=True, text=True, check=True)
    return done.stdout.strip() + path.read_text() + str(decimal.Decimal(3))


ATTACKS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        read, listed, write, read_through_link, link_hard, connect, environment, all_environments, fork_bomb, daemon,
        send_signal, trace, read_memory, read_vm, limit_other, new_namespace, mount, keys, fill_disk, one_file, memory,
        burn, user, private,
    )
}  # fmt: skip
