"""The source keeps the limits that CONTRIBUTING sets, the pins are complete, the command line is in order.

The oracle of each test is the other side: the files themselves, and what pip installed.
"""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.cells import cell_len

import onedial
from onedial.cli import main as cli
from onedial.core.errors import ConfigError

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "onedial"
FILES = sorted(SRC.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


def name_of(path: Path) -> str:
    return str(path.relative_to(SRC))


# --- names ---------------------------------------------------------------------------------------------------


def test_no_module_basename_is_used_twice() -> None:
    seen: dict[str, Path] = {}
    for path in FILES:
        if not path.name.startswith("__"):
            assert path.stem not in seen, f"{path} and {seen[path.stem]}: one name, two modules"
            seen[path.stem] = path


def test_no_tool_hides_a_package() -> None:
    """A script's folder comes first on the import path: tools/coverage.py once stood before the library."""
    names = {path.stem for path in (ROOT / "tools").glob("*.py")}
    assert len(names) > 3
    assert not names & ({name.replace("-", "_") for name in PINS} | sys.stdlib_module_names)


# Modules of these families share the names of one interface: a command, a reader, one side of a benchmark, a program.
INTERFACES = {"configure": "cli", "run": "cli", "detect": "readers", "read": "readers", "serve": "bench", "main": ""}


def test_no_public_name_is_defined_in_two_modules() -> None:
    seen: dict[str, set[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                own = INTERFACES.get(node.name)
                if own is None or own not in ("", path.parent.name):
                    seen.setdefault(node.name, set()).add(name_of(path))
    twice = {name: sorted(paths) for name, paths in seen.items() if len(paths) > 1}
    assert not twice


def test_public_names_are_sorted() -> None:
    assert onedial.__all__ == sorted(onedial.__all__)


# --- source ----------------------------------------------------------------------------------------------------


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def length_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return _lines(function) - (_lines(first) if documented else 0)


def _lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert not [f.name for f in functions(ast.parse(text)) if length_without_docstring(f) > 60]


def test_most_files_and_nearly_all_functions_are_shorter() -> None:
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in FILES]
    assert statistics.median(count for count in lines if count > 3) <= 150
    bodies = [f for path in FILES for f in functions(ast.parse(path.read_text(encoding="utf-8")))]
    lengths = sorted(length_without_docstring(function) for function in bodies)
    assert lengths[int(0.95 * len(lengths))] <= 30


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_and_public_names_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    # these two families implement an interface that is documented once: onedial.cli, onedial.analysis.logs.formats
    told_elsewhere = {"cli": ("configure", "run"), "readers": ("detect", "read")}.get(path.parent.name, ())
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith(("_", *told_elsewhere)):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


# --- versions --------------------------------------------------------------------------------------------------


def wanted(*extras: str) -> list[Requirement]:
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def closure(requirements: list[Requirement]) -> Iterator[str]:
    """The names of everything installed that these requirements bring, themselves included."""
    seen: set[str] = set()
    queue = [(requirement, "") for requirement in requirements]
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        new = {f"{name}[{extra}]" for extra in ("", *requirement.extras)} - seen
        seen |= new
        if not new or name == "onedial":
            continue
        yield name
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        for inner in ("", *requirement.extras):
            queue += [(Requirement(line), inner) for line in lines]


def test_every_package_that_an_install_brings_is_pinned() -> None:
    # an accelerator build of torch pins its own companions exactly
    brought = {name for name in closure(wanted("train", "test")) if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert brought - set(PINS) == set()


def test_torch_stays_where_the_cpu_build_is() -> None:
    assert PINS["torch"] == "2.13.0"


@pytest.mark.parametrize("requirement", wanted("train", "test", "dev"), ids=lambda requirement: requirement.name)
def test_pins_satisfy_what_the_project_asks_for(requirement: Requirement) -> None:
    if requirement.name != "onedial":
        assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


# --- command line ----------------------------------------------------------------------------------------------


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onedial.cli.main", *words], capture_output=True, text=True, env=os.environ | environment
    )


def test_help_lists_every_command_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert max(cell_len(line) for line in out.splitlines()) <= 80
    modules = {path.stem for path in (SRC / "cli").glob("[a-z]*.py") if "\ndef configure(" in path.read_text()}
    assert modules == set(cli.COMMANDS), "a command that COMMANDS does not list is never shown"
    for name, summary in cli.COMMANDS.items():
        assert summary, f"cli/{name}.py: HELP has no first line"
        assert f"  {name} " in out
        assert summary in " ".join(out.split())


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_help_of_each_command_fits_80_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert max(cell_len(line) for line in capsys.readouterr().out.splitlines()) <= 80


def test_long_help_lines_hang_under_their_second_column() -> None:
    text = "short\n\n  one   two three four five\na paragraph of prose goes on"
    expected = ["short", "", "  one   two three", "        four five", "a paragraph of prose", "goes on"]
    assert cli.wrap_help(text, 20).splitlines() == expected


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"onedial {onedial.__version__}\n"


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err


def test_a_users_mistake_is_one_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(words: list[str]) -> int:
        raise ConfigError("clip_low=1.2: must lie in (0, 1); 0.2 is usual")

    monkeypatch.setattr(cli, "_dispatch", mistaken)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr() == ("", "onedial: clip_low=1.2: must lie in (0, 1); 0.2 is usual\n")
    monkeypatch.setenv("ONEDIAL_TRACEBACK", "1")
    with pytest.raises(ConfigError):
        cli.main(["train"])


def test_an_interrupt_is_one_line_and_exit_code_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "onedial: interrupted\n"


@pytest.mark.parametrize(
    "where",
    [
        "exec('while True: pass')",  # `python -m` would end by the signal, as after any code compiled from text
        "raise KeyboardInterrupt",  # polars: one of its own, and the real one while it is answered
    ],
)
def test_one_ctrl_c_is_one_line_wherever_it_falls(where: str, tmp_path: Path) -> None:
    """Oracle: the exit code that is documented, and the line alone."""
    script = (
        "import os, signal, sys, threading, time; from onedial.cli import main as cli\n"
        "known = signal.getsignal\n"
        "def slow(number): time.sleep(0.3); return known(number)\n"
        "def work(words):\n"
        "    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    signal.getsignal = slow\n"
        f"    {where}\n"
        "cli._dispatch = work\n"
        "sys.exit(cli.main(['train']))"
    )
    (tmp_path / "work.py").write_text(script)
    command = [sys.executable, "-m", "work"]
    environment = {**os.environ, "PYTHONPATH": f"{SRC.parent}:{tmp_path}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (130, "onedial: interrupted\n")


def test_ctrl_c_while_the_command_line_is_imported_is_one_line(tmp_path: Path) -> None:
    """A package of the name of an early import stands in for a slow disk."""
    (tmp_path / "argparse.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)\nwhile True: pass\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{SRC.parent}"}
    command = [sys.executable, "-m", "onedial", "plan"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "onedial: interrupted\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    """`onedial … | head -1`: the pipe is closed before anything is written."""
    script = "import sys, time; time.sleep(0.2); from onedial.cli.main import main; sys.exit(main(['--help']))"
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None and writer.stderr is not None
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    assert writer.wait() == 141


def test_the_module_runs_as_the_script_does() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"onedial {onedial.__version__}\n")
