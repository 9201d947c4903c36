"""The sandbox in which verifiers run: its levels, what each consists of, and which one works on this machine.

    namespace  bubblewrap: own processes, own file tree, no network, another user if the trainer is root
    landlock   the kernel's Landlock and seccomp: no other files, no network; the processes of the machine stay visible
    process    reduced environment, seccomp if there is one, and resource limits; files can be read
    none       no protection; only if it was requested (`unsafe_verifiers`)

Levels are found by trying: a probe runs in the sandbox and attempts what must be impossible there.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from onedial.training.verify.confine import MAX_FILE_MB, MAX_PROCESSES, SIGNAL_ABI, Limits, confine, landlock_abi

LEVELS = ("namespace", "landlock", "process", "none")
SUFFICIENT = ("namespace", "landlock")  # for a verifier that executes what a model writes
TEXTS = {
    "namespace": "own file tree and processes, no network (bubblewrap)",
    "landlock": "no other files, no network (Landlock, seccomp)",
    "process": "reduced environment and resource limits only; files are readable",
    "none": "no sandbox, as asked for with unsafe_verifiers",
}
SOURCE = Path(__file__).parents[3]  # the folder that holds the package
SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf",
    "/sys/devices/system/cpu",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
VARIABLES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "PYTHONHASHSEED", "PYTHONUTF8")
REMEDY = "install bubblewrap (the command bwrap), or use Linux 5.13 or newer with Landlock"
_PRIVATE = "/tmp"  # of the namespace: a small file system in memory
_FIRST_USER, _USERS = 61184, 4096  # numbers that no account has; one per worker
_launches = itertools.count()
_PROBE_S = 20.0


@dataclass(frozen=True)
class Sandbox:
    """A level, and whether workers change to a user of their own. skipped: why no stronger level was chosen."""

    level: str
    change_user: bool = False
    skipped: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for the screen."""
        user = ", another user" if self.change_user else ""
        why = f"; no stronger one because {'; '.join(self.skipped)}" if self.skipped else ""
        return f"verifiers run in sandbox {self.level!r}: {TEXTS[self.level]}{user}{why}"

    def to_json(self) -> dict[str, object]:
        """What the run's record holds."""
        return {"level": self.level, "another_user": self.change_user, "no_stronger_because": list(self.skipped)}


def write_sandbox(directory: Path, sandbox: Sandbox | None) -> None:
    """Writes sandbox.json into a run directory: the level reached, or "in_process" where no worker runs."""
    record = sandbox.to_json() if sandbox else {"level": "in_process"}
    (directory / "sandbox.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Launch:
    """How one worker is started: the command before the interpreter's, the environment, the limits it sets itself.

    folder: a private folder to delete afterwards, or "" where the sandbox has one of its own.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    limits: Limits | None
    folder: str = ""


def prepare_launch(sandbox: Sandbox, readable: Sequence[str]) -> Launch:
    """Everything that a worker in this sandbox needs; creates its private folder if the level has none of its own."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if sandbox.level == "none":
        return Launch((), {**os.environ, **threads}, None)
    user = _FIRST_USER + (os.getpid() * MAX_PROCESSES + next(_launches)) % _USERS if sandbox.change_user else None
    inside = sandbox.level == "namespace"
    folder = "" if inside else tempfile.mkdtemp(prefix="onedial-verifier-")
    private = _PRIVATE if inside else folder
    kept = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    places = {name: private for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    environment = {"PATH": os.defpath, **kept, **threads, **places, "PYTHONDONTWRITEBYTECODE": "1"}
    processes = MAX_PROCESSES + (0 if user is not None else _count_own_threads())
    limits = Limits((*readable, *DEVICES), private, user, sandbox.level == "landlock", processes)
    return Launch(_bubblewrap(readable, sandbox.change_user) if inside else (), environment, limits, folder)


def _bubblewrap(readable: Sequence[str], change_user: bool) -> tuple[str, ...]:
    """The bwrap command: a new tree with these paths read-only, and nothing else but a private /tmp."""
    size = ("--size", str(MAX_FILE_MB * 2**20)) if _bubblewrap_version() >= (0, 7) else ()
    words = ["bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--die-with-parent", "--cap-drop", "ALL"]
    if change_user:
        words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        words += ["--unshare-user"]
    words += [*size, "--tmpfs", _PRIVATE, "--proc", "/proc", "--dir", "/dev"]
    for device in DEVICES:
        words += ["--dev-bind-try", device, device]
    here = Path.cwd()
    folders = {parent for path in readable for parent in Path(path).parents} | {here, *here.parents}
    for folder in sorted(map(str, folders - {Path("/"), Path(_PRIVATE)})):
        words += ["--dir", folder]  # those that bwrap makes by itself would be closed to another user
    for path in sorted(readable):
        link = os.path.islink(path) and path in SYSTEM
        words += ["--symlink", os.readlink(path), path] if link else ["--ro-bind-try", path, path]
    return (*words, *size, "--tmpfs", "/dev/shm", "--remount-ro", "/", "--chdir", str(here))


@lru_cache(maxsize=1)
def _bubblewrap_version() -> tuple[int, ...]:
    try:
        done = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, timeout=10, check=False)
        return tuple(int(part) for part in done.stdout.split()[-1].split(".")[:2])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return (0, 0)


def choose_sandbox(readable: Sequence[str], *, unsafe: bool = False) -> Sandbox:
    """The strongest level that works on this machine, found by trying each; "none" if it was requested."""
    if unsafe:
        return Sandbox("none")
    if sys.platform != "linux":
        return Sandbox("process", skipped=(f"the stronger ones need Linux, this is {sys.platform}",))
    skipped: list[str] = []
    for sandbox in _candidates(readable):
        why = probe(sandbox)
        if why is None:
            return replace(sandbox, skipped=tuple(dict.fromkeys(skipped)))
        if not sandbox.change_user:
            skipped.append(f"{sandbox.level}: {why}")
    return Sandbox("process", skipped=tuple(skipped))


def _candidates(readable: Sequence[str]) -> list[Sandbox]:
    """Levels in the order to try. Another user must be able to read everything, in a tree of its own or below /."""
    levels: list[Sandbox] = []
    root = os.geteuid() == 0
    for level in SUFFICIENT:
        whole = level != "namespace"
        if root and all(_others_can_read(path, whole) for path in readable):
            levels.append(Sandbox(level, change_user=True))
        levels.append(Sandbox(level))
    return levels


def _others_can_read(path: str, whole: bool) -> bool:
    """Whether any user may read a path, and, with `whole`, pass through all folders above it."""
    try:
        mode = os.stat(path).st_mode
        needed = 0o005 if stat.S_ISDIR(mode) else 0o004
        above = Path(path).resolve().parents if whole else ()
        return mode & needed == needed and all(folder.stat().st_mode & 0o001 for folder in above)
    except OSError:
        return True  # what is not there need not be readable


@lru_cache(maxsize=8)
def probe(sandbox: Sandbox) -> str | None:
    """Runs the attempts of `_ATTEMPTS` in the sandbox; None when none succeeds, else what went wrong, in words."""
    if sandbox.level == "namespace" and shutil.which("bwrap") is None:
        return "bwrap is not installed"
    with tempfile.TemporaryDirectory(prefix="onedial-probe-") as folder, contextlib.closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        secret = Path(folder) / "secret"
        secret.write_text("secret")
        os.chmod(folder, 0o777)  # so that what stops the probe is the sandbox
        secret.chmod(0o666)
        readable = list_libraries()
        launch = prepare_launch(sandbox, readable)
        victim = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
        arguments = [json.dumps(vars(launch.limits)), str(secret), str(server.getsockname()[1]), str(victim.pid)]
        code = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from onedial.training.verify.sandbox import attempt"
        command = [*launch.command, sys.executable, "-c", f"{code}; attempt(sys.argv[1:])", *arguments]
        try:
            done = subprocess.run(
                command,
                env=launch.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PROBE_S,
                check=False,
            )
            killed = victim.poll() is not None
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"it did not start ({type(error).__name__})"
        finally:
            victim.kill()
            victim.wait()
            shutil.rmtree(launch.folder or "/nonexistent", ignore_errors=True)
    try:
        succeeded = json.loads(done.stdout.splitlines()[-1]) + ["signal other processes"] * killed
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return f"it did not start ({last[:120]})"
    if sandbox.level == "landlock" and landlock_abi() < SIGNAL_ABI and "signal other processes" in succeeded:
        succeeded.remove("signal other processes")  # a documented weakness of older kernels
    return f"the probe could still {', '.join(succeeded)}" if succeeded else None


def attempt(arguments: Sequence[str]) -> None:
    """The probe: confines itself, tries what must fail, and prints what succeeded as a JSON list.

    The trainer checks whether the signal arrived, because in a process namespace the same number means another process.
    """
    secret, port, victim = arguments[1], int(arguments[2]), int(arguments[3])
    confine(Limits(**json.loads(arguments[0])))
    with contextlib.suppress(OSError):
        os.kill(victim, signal.SIGKILL)
    attempts: dict[str, Callable[[], None]] = {
        "read a file": lambda: open(secret).close(),
        "write a file": lambda: open(secret + "2", "w").close(),
        "connect to the network": lambda: socket.create_connection(("127.0.0.1", port), 2).close(),
        "read the environment of another process": lambda: open(f"/proc/{victim}/environ").close(),
    }
    succeeded = []
    for name, action in attempts.items():
        with contextlib.suppress(OSError):
            action()
            succeeded.append(name)
    with tempfile.TemporaryFile() as scratch:  # what must work
        scratch.write(b"x")
    print(json.dumps(succeeded))


@lru_cache(maxsize=1)
def list_libraries() -> tuple[str, ...]:
    """What every worker may read: the system, the interpreter, installed packages, and this package."""
    prefixes = {Path(prefix) for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    prefixes.add(Path(sys.executable).resolve().parents[1])
    # not the prefix itself: an environment may be made in the folder of a project
    inner = [prefix / name for prefix in prefixes for name in ("bin", "lib", "lib64", "pyvenv.cfg")]
    installed = [Path(entry) for entry in sys.path if is_library(entry)]
    return _without_nested([*map(Path, SYSTEM), *inner, *installed, SOURCE / "onedial"])


def is_library(entry: str) -> bool:
    """Whether an entry of sys.path holds installed packages."""
    return Path(entry).name in ("site-packages", "dist-packages", "lib-dynload")


def list_readable(verifier: object, hidden: Sequence[Path] = ()) -> tuple[str, ...]:
    """What workers with this verifier may read: `list_libraries`, and the user's code if the verifier contains some.

    A verifier of this package names the objects it loads in `user_code` (specs), or has no such attribute.
    """
    own = type(verifier).__module__.partition(".")[0] == "onedial"
    specs: Sequence[str] | None = getattr(verifier, "user_code", None if own else ())
    if specs is None:
        return list_libraries()
    places = [spec.rpartition(":")[0] for spec in specs]
    files = [Path(place).expanduser().resolve() for place in places if place.endswith(".py")]
    return _without_nested([*map(Path, list_libraries()), *map(Path, list_user_paths(files, hidden))])


def list_user_paths(files: Sequence[Path], hidden: Sequence[Path]) -> tuple[str, ...]:
    """The user's own Python files and packages, which a worker must import, but nothing of `hidden` (the run).

    They are searched beside the files named and along sys.path. Data files, and everything whose name begins with a
    dot, are not included.
    """
    libraries = list_libraries()
    roots = [file.parent for file in files]
    roots += [Path(entry or os.getcwd()) for entry in sys.path if not is_library(entry)]
    found = [file for file in files if file.is_file()]
    for root in dict.fromkeys(map(Path.resolve, roots)):
        if root.is_dir() and not any(root.is_relative_to(path) for path in libraries):
            found += [entry for entry in root.iterdir() if _is_importable(entry)]
    found += _loaded_packages()
    return _without_nested([part for path in found for part in _avoid(path, hidden)])


def _loaded_packages() -> list[Path]:
    """Top-level packages that were imported from elsewhere (installed in editable form through a finder)."""
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." not in name and name != "__main__" and isinstance(file, str) and Path(file).exists():
            found.append(Path(file).parent if Path(file).name == "__init__.py" else Path(file))
    return found


def _is_importable(entry: Path) -> bool:
    if entry.name.startswith("."):
        return False
    try:
        if entry.is_dir():
            return entry.name.isidentifier() and any(entry.glob("*.py"))
        return entry.suffix in (".py", ".so", ".pyd")
    except OSError:
        return False


def _avoid(path: Path, hidden: Sequence[Path]) -> list[Path]:
    """The path; its importable entries if something hidden lies in it; nothing if it is hidden itself."""
    path = path.resolve()
    if any(path.is_relative_to(place) for place in hidden):
        return []
    if not any(place.is_relative_to(path) for place in hidden):
        return [path]
    return [part for entry in path.iterdir() if _is_importable(entry) for part in _avoid(entry, hidden)]


def _without_nested(paths: Sequence[Path]) -> tuple[str, ...]:
    """Existing paths as text, in order, without those that lie inside another one."""
    existing = dict.fromkeys(Path(os.path.abspath(path)) for path in paths if path.exists())
    return tuple(sorted(str(path) for path in existing if not any(parent in existing for parent in path.parents)))


def _count_own_threads() -> int:
    """Threads that this user has now: the kernel's limit on processes counts them all."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == os.getuid():
                total += sum(1 for _ in (process / "task").iterdir())
    return total
