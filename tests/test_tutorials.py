"""Every command and every block of code in the tutorials and recipes runs as it stands.

Blocks with a title are files, `sh` blocks are commands, `python` blocks without a title are scripts. They run in
order, in one folder that holds a copy of examples/, with a tiny random model in the place of the default one. The
oracle is the exit code; what the commands print is compared by test_reference_pages.py, what they compute by others.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from onedial.cli.main import main

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
# code that tools/outputs.py copies from a file under examples/, which test_examples.py runs
COPIED = re.compile(r"^<!-- code: .+? -->\n+```python\n.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    body: str


def blocks_of(path: Path) -> list[Block]:
    text = COPIED.sub("", path.read_text(encoding="utf-8"))
    found = FENCE.finditer(text)
    return [Block(block["language"], block["title"] or "", block["body"]) for block in found]


def run_block(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    if block.title:
        Path(block.title).write_text(block.body, encoding="utf-8")
    elif block.language == "sh":
        for line in block.body.splitlines():
            command, *words = shlex.split(line, comments=True)
            assert command == "onedial", f"only onedial's own commands are run here: {line}"
            code = main(words)
            assert code == 0, f"{line}\n{capsys.readouterr().err}"
    elif block.language == "python":
        Path("block.py").write_text(block.body, encoding="utf-8")
        runpy.run_path("block.py", run_name="__main__")
    else:
        assert block.language == "text", f"a block in {block.language} is neither a file nor a command"


@pytest.fixture
def reader(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with examples/, as a reader has it; `smollm2` is a tiny model there."""
    cache = tmp_path / "cache"
    shutil.copytree(tiny_model, cache / "SmolLM2-135M-Instruct")
    monkeypatch.setenv("ONEDIAL_CACHE", str(cache))
    folder = tmp_path / "reader"
    shutil.copytree(ROOT / "examples", folder / "examples")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md")) + sorted((ROOT / "docs" / "recipes").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_runs(page: Path, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modules = set(sys.modules)
    for block in blocks_of(page):
        run_block(block, capsys)
    for name in set(sys.modules) - modules:  # my_task and the like, of this page alone
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(reader)):
            del sys.modules[name]


def test_recipes_take_one_page() -> None:
    for page in (ROOT / "docs" / "recipes").glob("*.md"):
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 95, f"{page.name} is longer than a page"
