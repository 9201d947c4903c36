"""The sandbox of verifiers, attacked from inside at every level that this machine gives.

Oracles: what the attack got, and the machine as seen from outside (files, sockets, processes).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import onedial
from onedial.core.errors import ConfigError
from onedial.core.types import Prompt, Verdict
from onedial.training.verify.confine import MAX_FILE_MB, MAX_PROCESSES, landlock_abi
from onedial.training.verify.descendants import list_descendants
from onedial.training.verify.pool import VerifierPool
from onedial.training.verify.rewards import Reward
from onedial.training.verify.sandbox import (
    SOURCE,
    Sandbox,
    _candidates,
    choose_sandbox,
    list_libraries,
    list_readable,
    probe,
    write_sandbox,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
FOLDER = Path(__file__).parent
TOKEN = "hf_secret_of_the_test"


@dataclass
class Attacked:
    """A worker that attacks, what it must not reach, and its level."""

    pool: VerifierPool
    level: str
    home: Path
    run: Path
    victim: subprocess.Popen[bytes]

    def attack(self, *words: Any) -> Verdict:
        self.pool.submit(0, Prompt("q"), json.dumps(words))
        ((_, verdict),) = self.pool.drain(60)
        return verdict

    def stopped(self, *words: Any) -> bool:
        """Whether the attack ended in an error inside; what it got is shown where it did not."""
        verdict = self.attack(*words)
        assert verdict.outcome in ("wrong", "correct"), verdict.detail
        assert verdict.reward == 0.0, f"{words} got {verdict.answer}"
        return True


def levels() -> list[Sandbox]:
    found = [Sandbox("namespace"), Sandbox("landlock")]
    return [Sandbox("namespace", change_user=True), *found] if os.geteuid() == 0 else found


@pytest.fixture(scope="module", params=levels(), ids=lambda box: box.level + ("-other-user" if box.change_user else ""))
def attacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    sandbox: Sandbox = request.param
    why = probe(sandbox)
    if why is not None:
        pytest.skip(f"level {sandbox.level} is not available here: {why}")
    project = tmp_path_factory.mktemp("project")
    shutil.copy(FOLDER / "attacks.py", project)
    (project / ".env").write_text(TOKEN)
    (project / "data.txt").write_text(TOKEN)
    run = project / "runs" / "one"
    run.mkdir(parents=True)
    (run / "run.toml").write_text(TOKEN)
    (run / "code.py").write_text(TOKEN)
    home = Path.home() / f".onedial-test-{os.getpid()}"
    home.write_text(TOKEN)
    victim = subprocess.Popen(["sleep", "600"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setattr("onedial.training.verify.pool.choose_sandbox", lambda readable, unsafe: sandbox)
        pool = VerifierPool(Reward((f"{project}/attacks.py:attack",)), workers=1, timeout_s=20, hidden=(run,))
    try:
        yield Attacked(pool, sandbox.level, home, run, victim)
    finally:
        pool.close()
        home.unlink()
        victim.kill()
        victim.wait()


def test_the_package_is_shown_from_where_it_is_imported() -> None:
    assert (SOURCE / "onedial").samefile(Path(onedial.__file__).parent)


def test_what_verifiers_need_works(attacked: Attacked) -> None:
    assert attacked.attack("private").answer == json.dumps("213")


def test_files_cannot_be_read(attacked: Attacked) -> None:
    project = attacked.run.parents[1]
    for path in (attacked.home, attacked.run / "run.toml", attacked.run / "code.py", project / ".env"):
        assert attacked.stopped("read", str(path))
        assert attacked.stopped("read_through_link", str(path))
        assert attacked.stopped("link_hard", str(path))
        assert attacked.stopped("read", f"/proc/{os.getpid()}/root{path}")
        assert attacked.stopped("read", f"/proc/self/root{path}")
    assert attacked.stopped("read", str(project / "data.txt"))
    assert attacked.stopped("read", "/etc/shadow")
    assert attacked.home.name not in str(attacked.attack("listed", str(Path.home())).answer)


def test_files_cannot_be_written(attacked: Attacked) -> None:
    installed = Path(pytest.__file__).parents[1]
    for folder in (attacked.run, attacked.run.parents[1], Path.home(), installed, Path("/usr/lib"), Path("/"), FOLDER):
        file = folder / f"planted-{os.getpid()}.pth"
        verdict = attacked.attack("write", str(file))  # a /tmp of its own can be written, and nobody sees it
        assert verdict.reward == 0.0 or (attacked.level == "namespace" and folder.is_relative_to("/tmp"))
        assert not file.exists()


def test_no_network(attacked: Attacked, tmp_path: Path) -> None:
    """Oracle: the servers, which nobody reaches: TCP, UDP, a socket in a file, and one in the abstract namespace."""
    name = f"@onedial-test-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(contextlib.closing(socket.socket())) for _ in range(1)]
        servers[0].bind(("127.0.0.1", 0))
        servers[0].listen()
        datagrams = stack.enter_context(contextlib.closing(socket.socket(type=socket.SOCK_DGRAM)))
        datagrams.bind(("127.0.0.1", 0))
        for address in (str(tmp_path / "s"), name.replace("@", "\0")):
            server = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
            server.bind(address)
            server.listen()
            servers.append(server)
        assert attacked.stopped("connect", "tcp", servers[0].getsockname())
        assert attacked.stopped("connect", "udp", datagrams.getsockname())
        assert attacked.stopped("connect", "unix", str(tmp_path / "s"))
        assert attacked.stopped("connect", "unix", name)
        for waiting in (*servers, datagrams):
            waiting.settimeout(0.05)
            with pytest.raises(TimeoutError):
                waiting.recv(1) if waiting is datagrams else waiting.accept()


def test_the_environment_holds_no_tokens(attacked: Attacked) -> None:
    assert attacked.stopped("environment", "HF_TOKEN")
    assert attacked.stopped("all_environments", TOKEN)


def test_other_processes_are_out_of_reach(attacked: Attacked) -> None:
    """Signals, ptrace, memory and limits of the trainer and of a process beside it."""
    for pid in (os.getpid(), attacked.victim.pid):
        for what in ("trace", "read_memory", "read_vm", "limit_other"):
            assert attacked.stopped(what, pid)
        assert attacked.stopped("read", f"/proc/{pid}/environ")
    if attacked.level == "landlock" and landlock_abi() < 6:
        pytest.skip("signals are kept inside from Linux 6.12 on")
    attacked.attack("send_signal", attacked.victim.pid)
    assert attacked.victim.poll() is None


def test_no_way_back_to_more_rights(attacked: Attacked) -> None:
    for what in ("new_namespace", "mount", "keys"):
        assert attacked.stopped(what)
    if attacked.pool.sandbox is not None and attacked.pool.sandbox.change_user:
        assert 0 not in json.loads(str(attacked.attack("user").answer))


def test_a_fork_bomb_is_small_and_leaves_nothing(attacked: Attacked) -> None:
    """At most the limit; gone when the pool lets the worker go. As root the limit needs another user."""
    if os.geteuid() == 0 and attacked.pool.sandbox is not None and not attacked.pool.sandbox.change_user:
        pytest.skip("the kernel does not limit the number of root's processes")
    count = json.loads(str(attacked.attack("fork_bomb").answer))
    own = 0 if os.geteuid() == 0 else 2000
    assert 0 < count <= MAX_PROCESSES + own
    assert attacked.attack("private").reward == 1.0, "the crowded worker was not replaced"


def test_a_daemon_does_not_outlive_its_worker(attacked: Attacked) -> None:
    seconds = f"62.{os.getpid()}"
    assert "exit status 5" in attacked.attack("daemon", seconds).detail
    assert attacked.attack("private").reward == 1.0  # a new worker is there, so the old one is buried
    assert not running(f"sleep\0{seconds}\0")


def test_the_private_folder_cannot_fill_the_disk(attacked: Attacked) -> None:
    most = 2 * MAX_FILE_MB
    assert 0 < json.loads(str(attacked.attack("one_file", most).answer)) <= MAX_FILE_MB
    if attacked.level == "landlock":
        pytest.skip("Landlock limits each file, not their sum")
    assert 0 < json.loads(str(attacked.attack("fill_disk", most).answer)) <= MAX_FILE_MB


def test_memory_is_limited(attacked: Attacked) -> None:
    assert attacked.stopped("memory", 4)
    assert attacked.attack("private").reward == 1.0


def running(command: str) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if command.encode() in file.read_bytes():
                found.append(file.parent.name)
    return found


@pytest.mark.parametrize("how", ["close", "SIGINT", "SIGKILL"])
@pytest.mark.parametrize("level", ["namespace", "landlock", "process"])
def test_nothing_is_left_behind(tmp_path: Path, how: str, level: str) -> None:
    """A burning child, a daemon and a hanging judgment; then the pool closes, or Ctrl-C, or kill -9 of the trainer."""
    if level != "process" and probe(Sandbox(level)) is not None:
        pytest.skip(f"level {level} is not available here")
    seconds = f"63.{os.getpid()}{hash((how, level)) % 1000}"
    script = tmp_path / "trainer.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "from onedial.core.types import Prompt\n"
        "from onedial.training.verify import pool as pools\n"
        "from onedial.training.verify.rewards import Reward\n"
        "from onedial.training.verify.sandbox import Sandbox\n"
        "def reward(prompt, completion):\n"
        "    subprocess.Popen(['setsid', '-f', 'sleep', completion])\n"
        "    subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
        "    time.sleep(60)\n"
        f"pools.choose_sandbox = lambda readable, unsafe: Sandbox({level!r})\n"
        "with pools.VerifierPool(Reward((reward,)), workers=2, timeout_s=60) as pool:\n"
        f"    pool.submit(0, Prompt('q'), {seconds!r})\n"
        f"    sys.stdin.readline() if {how!r} == 'close' else time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent / "src")}
    trainer = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not running(f"sleep\0{seconds}\0"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        below = list_descendants(trainer.pid)
        if how != "close":
            trainer.send_signal(getattr(signal, how))
        trainer.communicate(b"\n", timeout=30)
    finally:
        trainer.kill()
        trainer.communicate()
    deadline = time.monotonic() + 10
    while left := [pid for pid in below if _lives(pid)]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)
    assert not running(f"sleep\0{seconds}\0")


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


class _Executes:
    name, in_process, executes_text = "executes", False, True

    def judge(self, prompt: Any, completion: str, token_ids: Any = ()) -> float:
        return float(eval(completion))


def test_text_is_not_executed_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither level works, the pool refuses and names both reasons; with `unsafe` it runs."""
    monkeypatch.setattr("onedial.training.verify.sandbox.probe", lambda sandbox: f"no {sandbox.level} here")
    with pytest.raises(ConfigError, match="no namespace here.*no landlock here.*--unsafe-verifiers"):
        VerifierPool(_Executes(), workers=1)
    with VerifierPool(Reward((lambda prompt, completion: 1.0,)), workers=1) as pool:
        assert pool.sandbox is not None and pool.sandbox.level == "process" and "no landlock here" in pool.note
        pool.submit(0, Prompt("q"), "x")
        assert dict(pool.drain(60))[0].outcome == "correct"
    with VerifierPool(_Executes(), workers=1, unsafe=True) as pool:
        assert "no sandbox" in pool.note


def test_text_is_not_executed_in_the_trainer() -> None:
    class InProcess(_Executes):
        in_process = True

    with pytest.raises(ConfigError, match="in_process runs it in the trainer"):
        VerifierPool(InProcess(), workers=1)
    with VerifierPool(InProcess(), workers=1, unsafe=True) as pool:
        pool.submit(0, Prompt("q"), "1 + 0")
        assert dict(pool.poll())[0].reward == 1.0


def test_a_task_says_that_it_executes_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`executes_text` of a task's class and of a reward function reach the pool, by file as well as live."""
    from onedial.training.tasks import open_task

    file = tmp_path / "mine.py"
    file.write_text(
        "import onedial\n"
        "class Mine:\n    name = 'mine'\n    executes_text = True\n"
        "    def prompt(self, rng):\n        return onedial.Prompt(str(rng.random()), answer='1')\n"
        "    def verify(self, prompt, completion):\n        return float(eval(completion))\n"
        "def run(prompt, completion):\n    return float(eval(completion))\n"
        "run.executes_text = True\n"
    )
    monkeypatch.setattr("onedial.training.verify.sandbox.probe", lambda sandbox: "not here")
    for verifier in (
        open_task(f"{file}:Mine").verifier,
        open_task("arithmetic", reward=f"{file}:run").verifier,
        open_task("reasoning_gym", dataset="chain_sum").verifier,
    ):
        with pytest.raises(ConfigError, match="executes what the model writes"):
            VerifierPool(verifier, workers=1)


@pytest.mark.parametrize("place", ["link", "~", "relative"])
def test_user_code_is_found_through_links_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """A home behind a symbolic link, as clusters have it; a helper beside the file, through sys.path."""
    from onedial.training.tasks import open_task

    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    name = f"helper_{place.replace('~', 'home')}"
    (tmp_path / "real" / f"{name}.py").write_text("value = 1.0\n")
    (tmp_path / "real" / "mine.py").write_text(
        f"import onedial\nfrom {name} import value\n"
        "class Mine:\n    name = 'mine'\n"
        "    def prompt(self, rng):\n        return onedial.Prompt(str(rng.random()), answer='1')\n"
        "    def verify(self, prompt, completion):\n        return value\n"
        "def f(prompt, completion):\n    return value\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path / "link"))
    monkeypatch.chdir(tmp_path / "link")
    monkeypatch.syspath_prepend(str(tmp_path / "link"))
    folder = {"link": f"{tmp_path}/link/", "~": "~/", "relative": ""}[place]
    for verifier in (open_task(f"{folder}mine.py:Mine").verifier, Reward((f"{folder}mine.py:f",))):
        with VerifierPool(verifier, workers=1) as pool:
            pool.submit(0, Prompt("q", answer="1"), "x")
            ((_, verdict),) = pool.drain(60)
        assert verdict.reward == 1.0, verdict.detail


def test_the_level_is_found_by_trying(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A bwrap that pretends: it starts the command and isolates nothing. The probe reads the file, and says so."""
    fake = tmp_path / "bwrap"
    fake.write_text(
        f'#!{sys.executable}\nimport os, sys\nif "--version" in sys.argv: print("bubblewrap 9.9"); sys.exit()\n'
        "words = sys.argv[sys.argv.index('--chdir') + 2:]\nos.execv(words[0], words)\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    probe.cache_clear()
    try:
        assert "could still read a file" in str(probe(Sandbox("namespace")))
        chosen = choose_sandbox(list_libraries())
        assert chosen.level in ("landlock", "process") and "namespace: the probe could still" in chosen.skipped[0]
        monkeypatch.setenv("PATH", str(tmp_path / "empty"))
        probe.cache_clear()
        assert "bwrap is not installed" in choose_sandbox(list_libraries()).text
    finally:
        probe.cache_clear()


def test_another_user_must_be_able_to_read_what_verifiers_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tree of its own shows a file without the folders above it; below / all of them must let others through."""
    inner = tmp_path / "closed"
    inner.mkdir(mode=0o700)
    file = inner / "reward.py"
    file.write_text("x = 1")
    changes = {}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name, mode in (("open", 0o644), ("private", 0o600)):
        file.chmod(mode)
        changes[name] = [sandbox.level for sandbox in _candidates(["/usr", str(file)]) if sandbox.change_user]
    assert changes == {"open": ["namespace"], "private": []}
    assert [sandbox.level for sandbox in _candidates(["/usr"]) if sandbox.change_user] == ["namespace", "landlock"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert [(sandbox.level, sandbox.change_user) for sandbox in _candidates(["/usr"])] == [
        ("namespace", False),
        ("landlock", False),
    ]


def test_the_record_says_what_was_reached(tmp_path: Path) -> None:
    write_sandbox(tmp_path, Sandbox("landlock", skipped=("namespace: bwrap is not installed",)))
    record = json.loads((tmp_path / "sandbox.json").read_text())
    assert record == {
        "level": "landlock",
        "another_user": False,
        "no_stronger_because": ["namespace: bwrap is not installed"],
    }


def test_only_verifiers_made_of_user_code_see_it(tmp_path: Path) -> None:
    """A built-in verifier sees libraries alone; a user's sees Python files, not data, dot files or the run."""
    from onedial.training.tasks.gym import GymVerifier
    from onedial.training.verify.math_equal import Math

    assert list_readable(Math()) == list_readable(GymVerifier()) == list_readable(Reward(("wer",))) == list_libraries()
    for name in ("mine.py", "helper.py", "data.csv", ".env"):
        (tmp_path / name).write_text("x = 1")
    for name in ("package", "runs", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside.py").write_text("x = 1")
    seen = list_readable(Reward((f"{tmp_path}/mine.py:f",)), [tmp_path / "runs"])
    own = {Path(path).name for path in seen if Path(path).is_relative_to(tmp_path)}
    assert own == {"mine.py", "helper.py", "package"}
