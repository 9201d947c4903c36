"""The shape of the house: imports point one way, and optional packages stay in the one file that needs them.

The oracle is the source itself, read with `ast`; nothing here imports what it judges.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "onedial"
FILES = sorted(SRC.rglob("*.py"))

# A part may import itself and what stands before it. A part is a package or a module directly under onedial.
ORDER = (
    "errors", "types", "batch", "algorithm", "maths", "verify", "tasks", "budget", "lm", "rollout", "algorithms",
    "config", "models", "evaluation", "logs", "train", "findings", "report", "scale", "integrations", "reproduce",
    "bench", "commands", "cli",
)  # fmt: skip
# Packages that come with an extra, or that are slow to load and serve one purpose.
OPTIONAL = (
    "datasets", "gguf", "jiwer", "matplotlib", "ray", "reasoning_gym", "tensorboard", "torch.utils.tensorboard",
    "trackio", "trl", "verl", "verifiers", "vllm", "wandb",
)  # fmt: skip


def part_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from runtime_nodes(node)


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
    part = part_of(path)
    if part == "__init__":
        return  # the public names may come from anywhere
    assert part in ORDER, f"give {part} its place in ORDER"
    allowed = ORDER[: ORDER.index(part) + 1]
    ours = {name.split(".")[1] for name in imported(ast.parse(path.read_text())) if name.startswith("onedial.")}
    assert not {name for name in ours & set(ORDER) if name not in allowed}


@pytest.mark.parametrize("package", OPTIONAL)
def test_an_optional_package_is_imported_in_one_file_and_late(package: str) -> None:
    users = [path for path in FILES if any(matches(name, package) for name in imported(ast.parse(path.read_text())))]
    # the benchmark drives its peers by their own API, whatever the product does with them
    product = [path for path in users if part_of(path) != "bench"]
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
        "import onedial.cli; onedial.cli.main(['--help'])",
        "import onedial.cli; onedial.cli.main(['--version'])",
        "import onedial.train",
    ],
)
def test_what_must_be_quick_loads_no_heavy_package(code: str) -> None:
    assert not any(loads(code, "torch", "transformers", "numpy", "scipy", "polars", "pyarrow").values())


@pytest.mark.parametrize(
    "before",
    ["", "import onedial.train.loop", "from onedial.train import view"],
)
def test_onedial_train_is_the_function_in_any_import_order(before: str) -> None:
    code = f"""
{before}
import onedial, types
from onedial.train import loop
import onedial.train.view
assert isinstance(onedial.train, types.FunctionType), onedial.train
assert onedial.train is loop.train
from onedial import train
assert train is loop.train
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_no_other_is_promised() -> None:
    import onedial

    for name in onedial.__all__:
        assert getattr(onedial, name) is not None
    assert set(onedial.__all__) == set(onedial._HOMES) <= set(dir(onedial))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        onedial.trian  # noqa: B018
