"""Changes the source at random places, one place at a time, and counts how many changes the tests notice.

    make mutants                                     200 changes; takes hours
    python tools/mutants.py --sample 10 --only core.maths

cosmic-ray finds and makes the changes, in a copy of the checkout. Each is judged by the tests nearest to the changed
module: those whose imports reach it in the fewest steps. Places are drawn first, then one change of each place, so that
a `+` with six replacements does not count six times. The result goes to mutants.md.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "mutants.md"  # not part of the repository
TARGETS = (
    "core.maths", "training.trainer", "training.rollout", "training.budget", "training.verify", "analysis.planning",
    "analysis.logs.readers",
)  # fmt: skip
# Replacements that fail on every number, or that mean nothing where they stand, would only flatter the tests.
SENSELESS = re.compile(r"_(BitXor|LShift|RShift|IsNot|Is)(_|$)|Operator_Bit|_Bit(And|Or)$")
# Comparisons are negated or moved by one step: == into <= is the same wherever nothing is smaller.
FAR = re.compile(r"Comparison.*_(Eq_[LG]tE?|NotEq_[LG]tE?|[LG]tE?_(Not)?Eq|Lt_GtE?|Gt_LtE?|LtE_GtE|GtE_LtE)$")
NEGATED = re.compile(r"_(Lt_GtE|GtE_Lt|Gt_LtE|LtE_Gt)$")
SENSIBLE = re.compile(r"_BitAnd_BitOr$|_BitOr_BitAnd$|_Is_IsNot$|_IsNot_Is$")
MOST_FILES = 4
# Tests of the documents and of the source's shape judge no behaviour; the others here take minutes, or a browser.
APART = re.compile(
    r"test_(bench|documents|examples|explain|house|imports|kill|peers_\w+|reference_pages|tutorials)\.py"
)
GOAL = 0.85


@dataclass(frozen=True)
class Result:
    """One change: where, what, and whether a test noticed it."""

    module: str
    line: int
    operator: str
    killed: bool
    seconds: float
    tests: tuple[str, ...]
    diff: str


# --- the nearest tests -----------------------------------------------------------------------------------------


def module_of(path: Path, root: Path) -> str:
    """src/onedial/core/errors.py → onedial.core.errors; packages without their `__init__`."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path, modules: Iterable[str]) -> set[str]:
    """Our modules that a file imports anywhere, `from package import name` resolved to the module where it is one."""
    known, found = set(modules), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & known


def nearest_tests(root: Path) -> dict[str, tuple[str, ...]]:
    """Module → the test files whose imports reach it in the fewest steps, at most MOST_FILES of them."""
    source = {module_of(path, root / "src"): path for path in sorted((root / "src").rglob("*.py"))}
    graph = {name: imports_of(path, source) for name, path in source.items()}
    distances: dict[str, dict[str, int]] = {name: {} for name in source}
    tests = [path for path in sorted((root / "tests").glob("test_*.py")) if not APART.fullmatch(path.name)]
    for test in tests:
        frontier, seen, steps = imports_of(test, source), set[str](), 1
        while frontier:
            for module in frontier:
                distances[module][test.name] = steps
            seen |= frontier
            frontier = {inner for module in frontier for inner in graph[module]} - seen
            steps += 1
    nearest = {}
    for module, steps in distances.items():
        least, stem = min(steps.values(), default=0), module.rpartition(".")[2]
        near = [name for name, count in steps.items() if count == least]
        nearest[module] = tuple(sorted(near, key=lambda name: (stem not in name, name))[:MOST_FILES])
    return nearest


# --- the changes -----------------------------------------------------------------------------------------------


def senseless(operator: str) -> bool:
    """Whether an operator only makes code that fails at once, or that is the same."""
    if FAR.search(operator) and not NEGATED.search(operator):
        return True
    return bool(SENSELESS.search(operator)) and not SENSIBLE.search(operator)


def annotated_places(path: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations stand: `int | None` there is no operator that runs."""
    notes = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        notes += [getattr(node, name, None) for name in ("annotation", "returns")]
    return [((n.lineno, n.col_offset), (n.end_lineno or 0, n.end_col_offset or 0)) for n in notes if n is not None]


def draw(copy: Path, targets: Iterable[str], count: int, seed: int) -> list[object]:
    """`count` changes at different places of the target modules, the same for the same seed and source."""
    from cosmic_ray.commands import init
    from cosmic_ray.work_db import WorkDB, use_db

    source = copy / "src" / "onedial"
    paths = [path for target in targets for path in files_of(source, target)]
    with use_db(str(copy / "mutants.sqlite"), WorkDB.Mode.create) as database:
        init(paths, database, {})
        found = [item.mutations[0] for item in database.work_items]
    skipped = {path: annotated_places(path) for path in paths}
    places: dict[tuple[str, tuple[int, int]], list[object]] = {}
    for mutation in found:
        inside = any(a <= mutation.start_pos and mutation.end_pos <= b for a, b in skipped[mutation.module_path])
        if not senseless(mutation.operator_name) and not inside:
            places.setdefault((str(mutation.module_path), mutation.start_pos), []).append(mutation)
    rng = random.Random(seed)
    chosen = rng.sample(sorted(places), min(count, len(places)))
    return [rng.choice(sorted(places[place], key=lambda m: (m.operator_name, m.occurrence))) for place in chosen]


def files_of(source: Path, target: str) -> list[Path]:
    """The files of a module or package named without `onedial.`; an error when there is none."""
    place = source.joinpath(*target.split("."))
    paths = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    if not all(path.is_file() for path in paths):
        raise SystemExit(f"mutants: {target}: no such module under src/onedial")
    return [path for path in paths if path.name != "__init__.py"]


# --- the run ---------------------------------------------------------------------------------------------------


def copy_checkout(folder: Path) -> Path:
    """The files that git knows or would add, in a folder of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def command_of(tests: Iterable[str]) -> str:
    """The tests as one command, in the copy."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in tests)]
    return shlex.join(words)


def measure(mutations: list[object], copy: Path, longest: float) -> list[Result]:
    """Runs every change against the nearest tests. A set of tests that fails on unchanged source is an error."""
    from cosmic_ray.mutating import mutate_and_test
    from cosmic_ray.testing import run_tests
    from cosmic_ray.work_item import TestOutcome

    nearest, limits, results = nearest_tests(copy), dict[tuple[str, ...], float](), []
    for number, mutation in enumerate(mutations, start=1):
        module = module_of(mutation.module_path, copy / "src")
        tests = nearest[module]
        if tests not in limits:
            started = time.monotonic()
            outcome, output = run_tests(command_of(tests), longest)
            if outcome != TestOutcome.SURVIVED:
                raise SystemExit(f"mutants: the tests fail before anything is changed: {' '.join(tests)}\n{output}")
            limits[tests] = min(longest, 30 + 3 * (time.monotonic() - started))
        started = time.monotonic()
        result = mutate_and_test([mutation], command_of(tests), limits[tests])
        killed, seconds = result.is_killed, time.monotonic() - started
        operator = mutation.operator_name.removeprefix("core/")
        diff = "\n".join(line for line in (result.diff or "").splitlines() if re.match(r"[-+](?![-+])", line))
        results.append(Result(module, mutation.start_pos[0], operator, killed, seconds, tests, diff))
        state = "killed" if killed else "SURVIVED"
        print(
            f"{number:4}/{len(mutations)}  {state:8}  {seconds:5.0f} s  {module}:{mutation.start_pos[0]}  {operator}",
            flush=True,
        )
    return results


def report(results: list[Result], targets: Iterable[str], seed: int) -> str:
    """The page: the share, per package, and every survivor."""
    killed = sum(result.killed for result in results)
    lines = [
        "# Mutation testing",
        "",
        "<!-- Written by `make mutants`. -->",
        "",
        "`make mutants` changes the source at random places, one at a time, and counts how many changes the tests "
        "nearest to the changed module notice. [cosmic-ray](https://cosmic-ray.readthedocs.io) makes the changes. "
        f"The goal is {GOAL:.0%} of a sample of 200, which takes hours; "
        "`python tools/mutants.py --sample 10 --only core.maths` is a small one.",
        "",
        f"The last run: **{killed} of {len(results)} killed ({killed / max(len(results), 1):.0%})**, seed {seed}, in "
        f"{', '.join(f'`{target}`' for target in targets)}.",
        "",
        "| package | changes | killed |",
        "|---|---|---|",
    ]
    packages = sorted({result.module.rpartition(".")[0] for result in results})
    for package in packages:
        own = [result for result in results if result.module.rpartition(".")[0] == package]
        lines.append(f"| `{package}` | {len(own)} | {sum(result.killed for result in own)} |")
    lines += ["", "## Survivors", ""]
    survivors = [result for result in results if not result.killed]
    for result in survivors:
        lines += [f"`{result.module}`, line {result.line}, {result.operator}; tests: {', '.join(result.tests)}", ""]
        lines += ["```diff", result.diff, "```", ""]
    if not survivors:
        lines += ["None.", ""]
    return "\n".join(lines)


def run_part(args: argparse.Namespace, part: int) -> list[Result]:
    """Every `args.jobs`-th change from number `part` on, in a copy of the checkout."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = copy_checkout(Path(folder))
        os.environ["PYTHONPATH"] = str(copy / "src")
        os.chdir(copy)
        mutations = draw(copy, args.only, args.sample, args.seed)[part :: args.jobs]
        results = measure(mutations, copy, args.longest)
        os.chdir(ROOT)
    return results


def main() -> None:
    """Draws, runs, reports; exit code 1 below the goal."""
    parser = argparse.ArgumentParser(description="mutation testing of a random sample")
    parser.add_argument("--sample", type=int, default=200, help="number of changes (200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", default=TARGETS, metavar="MODULE", help="modules or packages, without onedial."
    )
    parser.add_argument("--longest", type=float, default=600, help="seconds for one set of tests (600)")
    parser.add_argument("--write", type=Path, default=REPORT, metavar="FILE")
    parser.add_argument("--jobs", type=int, default=1, help="changes judged at a time (1), each job in its own copy")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs) as pool:
        parts = [pool.submit(run_part, args, part) for part in range(args.jobs)]
        results = sorted((result for part in parts for result in part.result()), key=lambda r: (r.module, r.line))
    args.write.write_text(report(results, args.only, args.seed), encoding="utf-8")
    share = sum(result.killed for result in results) / max(len(results), 1)
    print(f"{share:.0%} of {len(results)} killed; survivors are listed in {args.write}")
    sys.exit(share < GOAL)


if __name__ == "__main__":
    main()
