"""The shape of the house: imports point one way, and optional packages stay in the one file that needs them.

The oracle is the source itself, read with `ast`; nothing here imports what it judges.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "onedial"
FILES = sorted(SRC.rglob("*.py"))

# A part may import itself and what stands before it. A part is a module or package one level inside a wing; bench and
# the command line are one part each. The two wings share the core and never import each other.
ORDER = (
    "core.errors", "core.text_safety", "core.safe_console", "core.tables", "core.user_code", "core.system",
    "core.time_limit", "core.palette", "core.types",
    "core.batch", "core.field_rules", "core.paths", "core.algorithm_rules", "core.algorithm", "core.maths",
    "core.algorithm_table", "core.allocator_table", "core.allocator_rules", "core.settings", "core.manifest",
    "core.settings_file", "core.plan_file", "core.run_dir", "core.run_log",
    "analysis.logs", "analysis.planning", "analysis.findings", "analysis.result", "analysis.follower",
    "analysis.page",
    "training.cores", "training.verify", "training.tasks", "training.budget", "training.lm", "training.hub",
    "training.models", "training.rollout", "training.evaluation", "training.trainer",
    "evidence", "integrations", "cli", "__main__",
)  # fmt: skip
WINGS = {"analysis", "training"}
# Packages that come with an extra, or that are slow to load and serve one purpose.
OPTIONAL = (
    "datasets", "gguf", "jiwer", "rapidfuzz", "ray", "reasoning_gym", "tensorboard",
    "torch.utils.tensorboard", "trackio", "trl", "verl", "verifiers", "vllm", "wandb",
)  # fmt: skip


def part_of(name: str) -> str:
    """'analysis.logs.readers.trl' → 'analysis.logs', 'evidence.bench.figure' → 'evidence'."""
    words = name.split(".")
    return ".".join(words[:2] if words[0] in ("core", *WINGS) else words[:1])


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts)


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from runtime_nodes(node)


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Every name a file imports; files are read once for all tests."""
    return tuple(imported(ast.parse(path.read_text(encoding="utf-8"))))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def matches(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(module_of(path))
    if path.name == "__init__.py" and path.parent in (SRC, *(SRC / wing for wing in ("core", *WINGS))):
        return  # the public names may come from anywhere; the wings' own are docstrings
    assert part in ORDER, f"give {part} its place in ORDER"
    allowed = ORDER[: ORDER.index(part) + 1]
    ours = {part_of(name.removeprefix("onedial.")) for name in imports_of(path) if name.startswith("onedial.")}
    wing = part.split(".")[0]
    other = WINGS - {wing} if wing in WINGS else set()
    assert not {name for name in ours & set(ORDER) if name not in allowed or name.split(".")[0] in other}


def test_the_top_level_is_a_handful_of_rooms() -> None:
    entries = {path.name for path in SRC.iterdir()} - {"__init__.py", "__pycache__"}
    assert len(entries) <= 8, sorted(entries)


@pytest.mark.parametrize("package", OPTIONAL)
def test_an_optional_package_is_imported_in_one_file_and_late(package: str) -> None:
    users = [path for path in FILES if any(matches(name, package) for name in imports_of(path))]
    # the benchmark drives its peers by their own API, whatever the product does with them
    product = [path for path in users if not module_of(path).startswith("evidence.bench.")]
    assert len(product) <= 1, f"{package} is imported by {[str(path.relative_to(SRC)) for path in product]}"
    for path in users:
        at_top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [name for node in at_top for name in imported(ast.Module([node], []))]
        assert not any(matches(name, package) for name in names), f"{path}: a missing extra must be a clear message"


def loads(code: str, *modules: str) -> dict[str, bool]:
    """Run code in a fresh interpreter and say which of the modules it loaded."""
    tail = f"\nimport sys, json; print(json.dumps([name in sys.modules for name in {list(modules)!r}]))"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=True)
    words = done.stdout.strip().splitlines()[-1].strip("[]").split(", ")
    return {name: word == "true" for name, word in zip(modules, words, strict=True)}


@pytest.mark.parametrize(
    "code",
    [
        "import onedial",
        "import onedial.cli.main; onedial.cli.main.main(['--help'])",
        "import onedial.cli.main; onedial.cli.main.main(['--version'])",
        "import onedial.analysis",
        "import onedial.training",
        "from onedial.evidence.doctor.machine_facts import *; [*find_machine(), *find_screen()]",
        "from onedial.evidence.doctor.package_facts import *; [*find_packages()]",
    ],
)
def test_what_must_be_quick_loads_no_heavy_package(code: str) -> None:
    assert not any(loads(code, "torch", "transformers", "numpy", "scipy", "polars", "pyarrow").values())


@pytest.mark.parametrize("module", ["analysis.result", "analysis.planning.planner", "cli.inspect"])
def test_statistics_load_where_they_are_computed(module: str) -> None:
    """Half the start of `onedial inspect` would be scipy.stats."""
    assert not any(loads(f"import onedial.{module}", "scipy.stats", "torch").values())


def test_a_wrong_word_of_a_comparison_is_told_before_torch_is_loaded() -> None:
    words = ["compare", "grpo", "dapo", "--max-generated-tokens", "9", "--model", "no/such/folder"]
    for wrong in (["compare", "grpo", "rlo"], [*words[:-2], "--vary", "lr=1e-5,x"], words):
        assert not loads(f"from onedial.cli.main import main; assert main({wrong}) == 2", "torch")["torch"]


def test_every_public_name_is_there_and_no_other_is_promised() -> None:
    import onedial

    for name in onedial.__all__:
        assert getattr(onedial, name) is not None
    assert set(onedial.__all__) == set(onedial._HOMES) <= set(dir(onedial))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        onedial.trian  # noqa: B018
