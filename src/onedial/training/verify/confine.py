"""How a worker confines itself: user, Landlock, seccomp, resource limits. Runs before any model text arrives.

Only the kernel's own interface is used, through ctypes, because no maintained package offers Landlock and seccomp to
Python. The numbers are those of `linux/landlock.h`, `linux/seccomp.h`, `linux/filter.h` and the system call tables of
x86-64 and arm64. On other systems only the resource limits are applied; `sandbox.probe` finds this out.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

MAX_FILE_MB = 256  # size of one file, and of the private folder where that is a file system of its own
MAX_OPEN_FILES = 512
MAX_PROCESSES = 64

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_NET_RIGHTS, _NET_ABI = 0b11, 4  # bind and connect of TCP
_SCOPES, SIGNAL_ABI = 0b11, 6  # abstract sockets and signals stay inside

_NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEW*: a new user namespace would give capabilities back
# Calls that reach beyond the sandbox without any capability: (x86-64, arm64).
_DENIED = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "unshare": (272, 97),
    "setns": (308, 268),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "pidfd_getfd": (438, 438),
}
_CLONE, _CLONE3, _PRLIMIT = (56, 220), (435, 435), (302, 261)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*


@dataclass(frozen=True)
class Limits:
    """What a worker may do. readable: files and folders; writable: its private folder; user: uid and gid, or None."""

    readable: Sequence[str] = ()
    writable: str = ""
    user: int | None = None
    landlock: bool = False
    processes: int = 0


def confine(limits: Limits) -> None:
    """Applies the limits to this process, which must have one thread, and to everything that it starts; they cannot be
    removed.

    Raises OSError if Landlock or the change of user was requested and fails.
    """
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_FSIZE, MAX_FILE_MB * 2**20),
        (resource.RLIMIT_NPROC, limits.processes),
    ):
        if most or kind == resource.RLIMIT_CORE:
            _lower(kind, most)
    if limits.user is not None:
        os.chmod(limits.writable, 0o777)
        os.setgroups([])
        os.setresgid(limits.user, limits.user, limits.user)
        os.setresuid(limits.user, limits.user, limits.user)
    if sys.platform != "linux":
        return
    drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)  # what the verifier starts cannot read or change the worker's memory
    if limits.landlock:
        restrict_files(limits.readable, limits.writable)
    filter_calls()


def landlock_abi() -> int:
    """Version of the kernel's Landlock, 0 without it."""
    try:
        return max(0, _syscall(_CREATE_RULESET, None, 0, 1))
    except (OSError, AttributeError):
        return 0


def restrict_files(readable: Sequence[str], writable: str) -> None:
    """Landlock: no other files can be opened. Raises OSError if the kernel has no Landlock."""
    abi = landlock_abi()
    if not abi:
        raise OSError(errno.ENOSYS, "this kernel has no Landlock")
    rights = _RIGHTS_BY_ABI[max(version for version in _RIGHTS_BY_ABI if version <= abi)]
    network, scopes = (_NET_RIGHTS if abi >= _NET_ABI else 0), (_SCOPES if abi >= SIGNAL_ABI else 0)
    attributes = struct.pack("<QQQ", rights, network, scopes)
    ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    read = _EXECUTE | _READ_FILE | _READ_DIR
    allowed = [*((path, read) for path in readable), (writable, rights), ("/dev/null", read | _WRITE_FILE)]
    for path, wanted in allowed:
        with contextlib.suppress(FileNotFoundError):
            _allow(ruleset, path, wanted & rights)
    _syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = rights if os.path.isdir(path) else rights & _FILE_RIGHTS
        _syscall(_ADD_RULE, ruleset, 1, struct.pack("<Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def filter_calls() -> None:
    """seccomp: the calls of `_DENIED`, new namespaces, and changes to limits of other processes fail with EPERM.

    Does nothing on an architecture whose call numbers are not known here.
    """
    if platform.machine() not in _ARCHITECTURES:
        return
    column, audit = _ARCHITECTURES[platform.machine()]
    program = b"".join(_program(column, audit))
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    _prctl(_PR_SET_SECCOMP, 2, header)


def _program(column: int, audit: int) -> list[bytes]:
    """The filter in the kernel's classic BPF: number at offset 0, architecture at 4, arguments from 16."""
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, fail, missing = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS

    def one(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("<HBBI", code, yes, no, value)

    steps = [one(load, 4), one(equal, audit, 1, 0), one(give, fail), one(load, 0)]
    steps += [one(at_least, 0x40000000, 0, 1), one(give, fail)]  # the x32 numbering
    for numbers in _DENIED.values():
        steps += [one(equal, numbers[column], 0, 1), one(give, fail)]
    # clone3 hides its flags behind a pointer; without it the C library falls back to clone
    steps += [one(equal, _CLONE3[column], 0, 1), one(give, missing)]
    steps += [one(equal, _CLONE[column], 0, 4), one(load, 16), one(any_bit, _NAMESPACE_FLAGS, 0, 1)]
    steps += [one(give, fail), one(give, allow)]
    steps += [one(equal, _PRLIMIT[column], 0, 3), one(load, 16), one(equal, 0, 1, 0), one(give, fail)]
    return [*steps, one(give, allow)]


def drop_capabilities() -> None:
    """Drops all capabilities, permanently; a process without any is not changed."""
    for capability in range(64):
        with contextlib.suppress(OSError):
            _prctl(_PR_CAPBSET_DROP, capability)
    header = struct.pack("<Ii", 0x20080522, 0)  # version 3, this thread
    if ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capabilities could not be dropped")


def limit_memory(memory_mb: int, statm: int) -> None:
    """Caps the address space at what is in use now plus `memory_mb`; children inherit the cap.

    statm: /proc/self/statm, opened before Landlock hid it; -1 where the system has none, then there is no cap.
    """
    if memory_mb and statm >= 0:
        used = int(os.pread(statm, 200, 0).split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, used + memory_mb * 2**20)


def allow_cpu_time(seconds: float) -> None:
    """Limits processor time, in seconds from now, after which the worker is killed; its children have the same
    limit."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard < 0 else min(limit, hard), hard))


def _lower(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _prctl(option: int, *values: int | bytes) -> None:
    given = [ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value) for value in values]
    given += [ctypes.c_ulong(0)] * (4 - len(given))
    if ctypes.CDLL(None, use_errno=True).prctl(ctypes.c_int(option), *given) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def _syscall(number: int, *values: int | bytes | None) -> int:
    given = [ctypes.c_char_p(v) if isinstance(v, bytes | None) else ctypes.c_long(v) for v in values]
    result = int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *given))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return result
