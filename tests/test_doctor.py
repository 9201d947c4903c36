"""`onedial doctor`. Oracles: the system's own answers, the project's file, and conflicts made by hand."""

from __future__ import annotations

import json
import os
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

from onedial.cli import main as cli
from onedial.evidence.doctor import device_facts, machine_facts, package_facts
from onedial.evidence.doctor.fact import MachineFact
from onedial.evidence.doctor.package_facts import Installed, read_package

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def test_the_command_tells_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    facts = {fact["name"]: fact for fact in json.loads(capsys.readouterr().out)}
    assert facts["cores"]["found"].startswith(str(len(os.sched_getaffinity(0))))
    assert f"torch {metadata.version('torch')}" in facts["train"]["found"]
    assert ("device" in facts) != torch.cuda.is_available()
    assert facts["sandbox"]["found"].split(":")[0] in ("namespace", "landlock", "process")


def test_a_package_is_read_as_importlib_reads_it() -> None:
    for name in ("torch", "rich", "numpy"):
        found = read_package(name)
        assert found == (metadata.version(name), tuple(metadata.requires(name) or ()))
    assert read_package("no-such-package") is None


def test_every_extra_has_its_use() -> None:
    assert set(package_facts.USES) == set(EXTRAS)


def test_an_extra_that_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_facts, "packages_of", lambda extra: ["torch", "no-such-package"])
    fact = package_facts.find_extra("train", "training")
    assert (fact.found, fact.follows) == ("without no-such-package", "training: pip install 'onedial[train]'")
    monkeypatch.setattr(package_facts, "packages_of", lambda extra: [])
    assert package_facts.find_extra("train", "training").found == "not known"


def test_conflicts_are_named_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a needs b < 2, 2 is installed; b needs c, which is absent; what an extra or a marker adds is not."""
    installed = {
        "onedial": Installed("0.1", ("a>=1", "d>=1; extra == 'more'", "absent; extra == 'other'")),
        "a": Installed("1.5", ("b<2", "z; extra == 'x'", "w; sys_platform == 'none'")),
        "b": Installed("2.0", ("c",)),
        "d": Installed("1.0", ("a<=1",)),
    }
    monkeypatch.setattr(package_facts, "read_package", installed.get)
    fact = package_facts.find_conflicts()
    assert fact.problem and fact.found.split("; ") == [
        "a needs b<2, installed is 2.0",
        "d needs a<=1, installed is 1.5",
        "b needs c, which is missing",
    ]


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    assert machine_facts.find_disk("runs", Path("/proc"), "").problem
    new = machine_facts.find_disk("runs", tmp_path / "not" / "yet", "kept")
    assert not new.problem and new.follows == "kept" and not (tmp_path / "not").exists()


@pytest.mark.parametrize(("text", "quota"), [("150000 100000\n", 1.5), ("max 100000\n", None)])
def test_the_quota_of_a_container(text: str, quota: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert machine_facts.read_cpu_quota(tmp_path / "cpu.max") == quota
    assert machine_facts.read_cpu_quota(tmp_path / "none") is None


def test_without_torch_nothing_of_training_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_facts, "find_version", lambda name: None)
    (fact,) = device_facts.find_devices()
    assert fact.found == "torch is not installed" and not fact.problem


def test_a_problem_is_shown_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onedial.cli import doctor

    monkeypatch.setattr(
        doctor, "find_facts", lambda: [MachineFact("extras", "conflicts", "a needs b", "install b", True)]
    )
    assert cli.main(["doctor"]) == 1
    assert "problem: install b" in capsys.readouterr().out
