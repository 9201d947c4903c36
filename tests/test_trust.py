"""Objects that a settings file names are not imported unasked. Each attack would leave a file behind if it worked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onedial.core.errors import ConfigError
from onedial.core.user_code import Trust, check_trust, list_named_objects, load_object
from onedial.training.tasks import open_task

EVIL = (
    "from pathlib import Path\nPath({mark!r}).touch()\nclass Task: pass\ndef reward(prompt, completion): return 1.0\n"
)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that is not under the current directory, with a module that leaves a mark when it is imported."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "evil.py").write_text(EVIL.format(mark=str(tmp_path / "mark")))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "mine.py").write_text(EVIL.format(mark=str(tmp_path / "mark")))
    return folder


@pytest.mark.parametrize(
    ("settings", "objects"),
    [
        ({"task": "a.py:T"}, ["a.py:T"]),
        ({"task": {"name": "subprocess:Popen", "args": "touch x"}}, ["subprocess:Popen"]),
        ({"task": {"name": "d.jsonl", "reward": "a.py:f, wgpo(tau=0.5),os:system"}}, ["a.py:f", "os:system"]),
        ({"task": {"name": "d.jsonl", "reward": ["a.py:f", "b.py:g"]}}, ["a.py:f", "b.py:g"]),
        ({"task": {"name": "d.jsonl", "reward": "wgpo(name='a:b')"}}, []),
        ({"algorithm": {"row": "grpo", "baseline": "a.py:f"}}, ["a.py:f"]),
        ({"allocator": "a.py:f"}, ["a.py:f"]),
        ({"allocator": {"name": "os:system"}}, ["os:system"]),
        ({"allocator": {"name": "adaptive", "prior": "C:x"}}, []),
        ({"task": "arithmetic", "algorithm": "grpo", "model": "a:b"}, []),
    ],
)
def test_every_place_of_an_object_is_known(settings: dict[str, Any], objects: list[str]) -> None:
    assert list_named_objects(settings) == objects


@pytest.mark.parametrize("table", ["task", "reward", "baseline", "allocator"])
def test_a_file_may_not_name_code_of_elsewhere(elsewhere: Path, here: Path, table: str) -> None:
    spec = f"{elsewhere / 'evil.py'}:Task"
    settings: dict[str, Any] = {
        "task": {"task": {"name": spec}},
        "reward": {"task": {"name": "arithmetic", "reward": spec}},
        "baseline": {"algorithm": {"row": "grpo", "baseline": spec}},
        "allocator": {"allocator": spec},
    }[table]
    with pytest.raises(ConfigError, match="x.toml: names the Python object .*evil.py:Task.*--trust-config"):
        check_trust(settings, Path("x.toml"), Trust())
    check_trust(settings, Path("x.toml"), Trust(everything=True))
    check_trust(settings, Path("x.toml"), Trust(named={"task": spec}))
    with pytest.raises(ConfigError, match="--trust-config"):
        check_trust(settings, Path("x.toml"), Trust(named={"task": "other.py:Task"}))


def test_code_of_the_own_project_may_be_named_and_is_announced(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_trust({"task": "mine.py:Task\x1b[2J"[:12]}, Path("x\x1b[2J.toml"), Trust())
    assert capsys.readouterr().err == "onedial: loading mine.py:Task, named in x\\x1b[2J.toml\n"
    assert not (here.parent / "mark").exists(), "announced before it is imported"


@pytest.mark.parametrize("place", ["runs/other/evil.py", "runs/other/deep/evil.py", "../elsewhere/evil.py", "link.py"])
def test_what_lies_in_a_run_directory_or_outside_is_not_the_project(here: Path, elsewhere: Path, place: str) -> None:
    (here / "runs" / "other" / "deep").mkdir(parents=True)
    (here / "runs" / "other" / "run.toml").touch()
    (here / "link.py").symlink_to(elsewhere / "evil.py")
    with pytest.raises(ConfigError, match="--trust-config"):
        check_trust({"task": f"{place}:Task"}, Path("x.toml"), Trust())


@pytest.mark.parametrize(
    "spec", ["subprocess:Popen", "os:system", "mine:Task", "json:loads", "\x00.py:f", "~nobody/a.py:f"]
)
def test_modules_and_odd_paths_are_not_the_project(here: Path, spec: str) -> None:
    with pytest.raises(ConfigError, match="--trust-config"):
        check_trust({"task": spec}, Path("x.toml"), Trust())


def test_the_home_directory_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / "downloads").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for place in (tmp_path / "home", tmp_path):
        monkeypatch.chdir(place)
        with pytest.raises(ConfigError, match="--trust-config"):
            check_trust({"task": f"{tmp_path}/home/downloads/evil.py:Task"}, Path("x.toml"), Trust())


def test_a_trusted_object_of_the_wrong_kind_is_not_called(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task subprocess:Popen: has no method prompt\(\)"):
        open_task("subprocess:Popen", args=f"touch {tmp_path}/mark", shell="true")
    with pytest.raises(ConfigError, match=r"system\(command\): must take \(prompt, completion\)"):
        open_task("arithmetic", reward="os:system")
    assert not (tmp_path / "mark").exists()


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "task.py").write_text(f"def f(): return {name!r}\n")
    f, g = (load_object(f"{tmp_path / name / 'task.py'}:f") for name in ("a", "b"))
    assert (f(), g(), f.__module__ == g.__module__) == ("a", "b", False)


def test_a_file_that_exits_while_it_is_loaded_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(ConfigError, match="leaves.py could not be loaded: SystemExit"):
        load_object(f"{tmp_path / 'leaves.py'}:f")
