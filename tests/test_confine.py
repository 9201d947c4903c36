"""The limits that a worker sets itself. Oracles: the kernel's headers, a machine that runs the filter, the kernel."""

from __future__ import annotations

import errno
import os
import platform
import re
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onedial.training.verify import confine
from onedial.training.verify.confine import Limits

ALLOW, FAIL, MISSING = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
DENIED = [
    "socket", "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "unshare", "setns", "add_key",
    "request_key", "keyctl", "perf_event_open", "open_by_handle_at", "bpf", "userfaultfd", "io_uring_setup",
    "io_uring_enter", "io_uring_register", "pidfd_getfd",
]  # fmt: skip
USED = [
    "read", "write", "openat", "clone", "execve", "exit", "kill", "futex", "socketpair", "recvmsg", "sendmsg",
    "getrandom", "prlimit64",
]  # fmt: skip
linux = pytest.mark.skipif(sys.platform != "linux", reason="Landlock, seccomp and prctl are Linux's")


def numbers_of(machine: str) -> dict[str, int]:
    """System calls by name, from the headers of the kernel."""
    if not HEADERS[machine].is_file():
        pytest.skip(f"no {HEADERS[machine]} here")
    text = HEADERS[machine].read_text()
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)\s*$", text, re.MULTILINE)}


def verdict(program: list[bytes], number: int, audit: int, first: int = 0) -> int:
    """Runs a classic BPF program on one system call (struct seccomp_data), as the kernel does."""
    data = struct.pack("<IIQQ", number, audit, 0, first)
    steps = [struct.unpack("<HBBI", step) for step in program]
    at, accumulator = 0, 0
    while True:
        code, yes, no, value = steps[at]
        if code == 0x20:  # load a word
            (accumulator,) = struct.unpack_from("<I", data, value)
            at += 1
        elif code == 0x06:  # return
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += 1 + (yes if holds else no)


# --- seccomp ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", AUDIT)
def test_the_filter_denies_the_named_calls_and_allows_the_others(machine: str) -> None:
    column, audit = confine._ARCHITECTURES[machine]
    program, calls = confine._program(column, audit), numbers_of(machine)
    assert audit == AUDIT[machine]
    for name in DENIED:
        assert verdict(program, calls[name], audit) == FAIL, name
    for name in USED:
        assert verdict(program, calls[name], audit) == ALLOW, name
    denied = {number for number in range(600) if verdict(program, number, audit, first=0) == FAIL}
    assert denied == {calls[name] for name in DENIED}, "these and no others"
    assert verdict(program, calls["clone3"], audit) == MISSING, "the C library then takes clone"


@pytest.mark.parametrize("machine", AUDIT)
def test_the_filter_looks_at_the_arguments_of_clone_and_prlimit(machine: str) -> None:
    column, audit = confine._ARCHITECTURES[machine]
    program, calls = confine._program(column, audit), numbers_of(machine)
    threads = 0x00000100 | 0x00010000  # CLONE_VM, CLONE_THREAD
    assert verdict(program, calls["clone"], audit, threads) == ALLOW
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):  # CLONE_NEW*
        assert verdict(program, calls["clone"], audit, threads | flag) == FAIL, hex(flag)
    assert verdict(program, calls["prlimit64"], audit, 0) == ALLOW, "its own limits"
    assert verdict(program, calls["prlimit64"], audit, 1234) == FAIL, "those of another process"
    assert verdict(program, calls["read"], audit, 1234) == ALLOW


def test_other_numberings_of_calls_are_no_way_round() -> None:
    column, audit = confine._ARCHITECTURES["x86_64"]
    program = confine._program(column, audit)
    i386 = 0x40000003
    assert verdict(program, 0, i386) == FAIL
    assert verdict(program, 0x40000000 | 41, audit) == verdict(program, 0x40000000, audit) == FAIL
    assert verdict(program, 0x3FFFFFFF, audit) == ALLOW


# --- Landlock --------------------------------------------------------------------------------------------------

# in the order of their bits
RIGHTS = [
    "EXECUTE", "WRITE_FILE", "READ_FILE", "READ_DIR", "REMOVE_DIR", "REMOVE_FILE", "MAKE_CHAR", "MAKE_DIR",
    "MAKE_REG", "MAKE_SOCK", "MAKE_FIFO", "MAKE_BLOCK", "MAKE_SYM", "REFER", "TRUNCATE", "IOCTL_DEV",
]  # fmt: skip
KNOWN = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16, 6: 16, 7: 16}  # how many of them each version of the kernel knows


def test_rights_have_the_bits_of_the_kernels_header() -> None:
    header = Path("/usr/include/linux/landlock.h")
    if not header.is_file():
        pytest.skip("no linux/landlock.h here")
    bits = {n: int(b) for n, b in re.findall(r"LANDLOCK_ACCESS_FS_(\w+)\s+\(1ULL << (\d+)\)", header.read_text())}
    assert {name: bit for bit, name in enumerate(RIGHTS) if name in bits} == {
        n: b for n, b in bits.items() if n in RIGHTS
    }
    for name in ("EXECUTE", "WRITE_FILE", "READ_FILE", "READ_DIR", "TRUNCATE", "IOCTL_DEV"):
        assert getattr(confine, f"_{name}") == 1 << RIGHTS.index(name)


@linux
@pytest.mark.parametrize("abi", KNOWN)
def test_a_ruleset_asks_for_what_its_kernel_knows(abi: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be passed to the kernel: all rights it knows are handled, and given back for these paths alone."""
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "own").mkdir()
    given: list[tuple[Any, ...]] = []

    def call(number: int, *values: Any) -> int:
        if number == 445:  # the path behind the descriptor, while it is open
            rights, descriptor = struct.unpack("<Qi", values[2])
            given.append((os.readlink(f"/proc/self/fd/{descriptor}"), rights))
        elif number == 444:
            given.append(struct.unpack("<QQQ", values[0]))
        return os.open(os.devnull, os.O_RDONLY) if number == 444 else 0

    monkeypatch.setattr(confine, "landlock_abi", lambda: abi)
    monkeypatch.setattr(confine, "_syscall", call)
    confine.restrict_files([str(file), str(tmp_path), str(tmp_path / "absent")], str(tmp_path / "own"))
    every = (1 << KNOWN[abi]) - 1
    read = {"EXECUTE": 1, "READ_FILE": 4, "READ_DIR": 8}
    assert given == [
        (every, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0),
        (str(file), read["EXECUTE"] | read["READ_FILE"]),  # a file has no right of a folder
        (str(tmp_path), sum(read.values())),
        (str(tmp_path / "own"), every),
        ("/dev/null", read["EXECUTE"] | read["READ_FILE"] | 2),
    ]


@linux
@pytest.mark.skipif(sys.platform != "linux" or not confine.landlock_abi(), reason="this kernel has no Landlock")
def test_the_kernel_takes_the_rules(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for name in ("shown", "hidden"):
        (tmp_path / name).write_text(name)

    def opened() -> list[str]:
        confine._prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
        confine.restrict_files([str(tmp_path / "shown")], str(tmp_path / "own"))
        found = []
        for name, mode in (("shown", "r"), ("hidden", "r"), ("shown", "a"), ("own/new", "w"), ("new", "w")):
            try:
                open(tmp_path / name, mode).close()
                found.append(f"{name} {mode}")
            except PermissionError:
                pass
        return found

    assert in_a_child(opened) == ["shown r", "own/new w"]


def test_a_kernel_without_landlock_is_an_error_and_version_0(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(number: int, *values: Any) -> int:
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(confine, "_syscall", absent)
    assert confine.landlock_abi() == 0
    with pytest.raises(OSError, match="no Landlock"):
        confine.restrict_files([], "/tmp")


# --- limits of a process ---------------------------------------------------------------------------------------


def in_a_child(action: Callable[[], Any]) -> Any:
    """What `repr(action())` is in a forked process, whose limits end with it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = repr(action())
        except BaseException as error:
            answer = repr(f"{type(error).__name__}: {error}")
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    return eval(answer)  # of our own child


@linux
def test_limits_of_a_confined_process() -> None:
    def limits() -> list[tuple[int, int]]:
        confine.confine(Limits(processes=70))
        kinds = (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC)
        return [resource.getrlimit(kind) for kind in kinds]

    assert in_a_child(limits) == [(0, 0), (512, 512), (256 * 2**20,) * 2, (70, 70)]

    def unlimited() -> bool:
        before = resource.getrlimit(resource.RLIMIT_NPROC)
        confine.confine(Limits())
        return resource.getrlimit(resource.RLIMIT_NPROC) == before

    assert in_a_child(unlimited), "0 sets no limit on processes"


@linux
def test_a_confined_process_has_no_rights_left() -> None:
    def status() -> dict[str, str]:
        confine.confine(Limits())
        lines = Path("/proc/self/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    found = in_a_child(status)
    assert [int(found[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [0] * 5
    assert found["NoNewPrivs"] == "1"
    assert (found["Seccomp"] == "2") is (platform.machine() in AUDIT)


@linux
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_one_in_every_respect(tmp_path: Path) -> None:
    def users() -> tuple[Any, ...]:
        confine.confine(Limits(writable=str(tmp_path), user=61234))
        return os.getresuid(), os.getresgid(), os.getgroups()

    assert in_a_child(users) == ((61234,) * 3, (61234,) * 3, [])
    assert tmp_path.stat().st_mode & 0o777 == 0o777


def test_a_limit_is_lowered_and_never_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    infinity, found = resource.RLIM_INFINITY, []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: found.append(limits))
    for hard in (infinity, 100, 1000):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, hard=hard: (hard, hard))
        confine._lower(resource.RLIMIT_NOFILE, 500)
    assert found == [(500, 500), (100, 100), (500, 500)]


@pytest.mark.parametrize(("hard", "limit"), [(-1, 46), (40, 40), (100, 46)])
def test_processor_time_is_counted_from_what_was_used(hard: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.5 s of one's own and 1.75 s of the system's are spent: 40 more end at 45.25, so in the second after 45."""
    set_: list[Any] = []
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_utime=3.5, ru_stime=1.75))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (hard, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: set_.append((kind, limits)))
    confine.allow_cpu_time(40.0)
    assert set_ == [(resource.RLIMIT_CPU, (limit, hard))]


def test_memory_is_counted_from_what_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statm = tmp_path / "statm"
    statm.write_text("1000 500 3 4 0 6 0\n")  # pages, the first is all of the address space
    set_: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: set_.append((kind, limits)))
    with statm.open() as file:
        confine.limit_memory(0, file.fileno())
        confine.limit_memory(512, -1)
        assert not set_, "no limit was asked for, or the system does not tell what is in use"
        confine.limit_memory(512, file.fileno())
    most = 1000 * resource.getpagesize() + 512 * 2**20
    assert set_ == [(resource.RLIMIT_AS, (most, most))]
