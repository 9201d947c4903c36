"""`pip install onedial` is the analysis wing: it runs where no package of `onedial[train]` can be imported."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from onedial.core.errors import EXTRAS

ROOT = Path(__file__).parents[1]
EXTRA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    blocked = BLOCK.format(blocked=sorted(EXTRAS["train"]))
    return subprocess.run(
        [sys.executable, "-c", blocked + code], capture_output=True, text=True, cwd=cwd, env=os.environ, timeout=120
    )


def onedial(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run(f"from onedial.cli.main import main; sys.exit(main({list(words)!r}))", cwd)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    records = [
        {"prompt_id": f"p{p}", "step": 1, "prompt": f"q{p}", "completion": "a", "reward": float((p + r) % 3 == 0)}
        for p in range(12)
        for r in range(4)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["eval", "--help"],
        ["inspect", "log.jsonl"],
        ["inspect", "log.jsonl", "--json"],
        ["report", "log.jsonl"],
        ["plan", "log.jsonl", "--budget", "100"],
        ["algorithms"],
        ["algorithms", "dapo"],
        ["algorithms", "--coefficients"],
        ["explain", "-o", "explain.html"],
    ],
    ids=" ".join,
)
def test_the_analysis_wing_runs_without_the_packages_of_training(words: list[str], folder: Path) -> None:
    done = onedial(folder, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    "words", [["train"], ["train", "dapo"], ["eval", "smollm2"], ["bench", "generate"]], ids=" ".join
)
def test_training_without_its_packages_says_how_to_install_them(words: list[str], tmp_path: Path) -> None:
    done = onedial(tmp_path, *words)
    assert done.returncode == 2, done.stderr
    assert "pip install 'onedial[train]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "no run directory is left behind"


@pytest.mark.parametrize("name", ["train", "evaluate", "policy_loss"])
def test_a_public_name_of_training_says_how_to_install_it(name: str, tmp_path: Path) -> None:
    done = run(f"import onedial\ntry:\n    onedial.{name}\nexcept ImportError as error:\n    print(error)", tmp_path)
    assert "pip install 'onedial[train]'" in done.stdout, done.stderr


def test_every_package_of_the_extra_is_known_to_the_message() -> None:
    """Oracle: the extra in pyproject.toml."""
    listed = {line.partition(">")[0].replace("-", "_") for line in EXTRA["train"]}
    assert listed == set(EXTRAS["train"])


def test_the_core_loads_torch_for_its_formulas_alone() -> None:
    for path in sorted((ROOT / "src" / "onedial" / "core").glob("*.py")):
        at_top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [ast.unparse(node) for node in at_top]
        assert not [name for name in names if "transformers" in name or "peft" in name], path
