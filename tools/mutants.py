"""Changes the source at random places, one place at a time, and counts how many changes the tests notice.

    make mutants                                     200 changes; takes an hour or more
    python tools/mutants.py --sample 10 --only core.maths

cosmic-ray finds and makes the changes, in a copy of the checkout. The tests run once on the unchanged source, followed
by coverage; each change is then judged by the tests that reach the changed statement, the fastest of the nearest files
first, until one fails. Places are drawn first, then one change of each place, so that a `+` with six replacements does
not count six times. The result goes to mutants.md.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from mutants_server import Server

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
# A changed process number may be that of any process: 0 is the group, -1 all of them.
DEADLY = re.compile(r"\bkill(pg)?\(")
# The * before keyword-only parameters is taken for a product.
SEPARATOR = re.compile(r"[*/],")
# What a data class forbids, and what of it repr() shows, is for programmers.
DECLARED = re.compile(r"\b(frozen|repr)=(True|False)")
# Tests of the documents and of the source's shape judge no behaviour; the others here take minutes, or a browser.
APART = re.compile(
    r"test_(bench|documents|examples|explain|house|imports|kill|peers_\w+|reference_pages|tutorials)\.py"
)
GOAL = 0.85


@dataclass(frozen=True)
class Result:
    """One change: where, what, and what the tests said of it: killed, hung or survived."""

    source: str
    line: int
    operator: str
    state: str
    by: str
    seconds: float
    tests: int
    all_run: bool
    diff: str

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}"

    @property
    def told(self) -> str:
        """How many tests judged it."""
        return f"{self.tests} tests" + ("" if self.all_run else ", the slowest left out")

    def __str__(self) -> str:
        return f"{self.state:8}  {self.seconds:4.0f} s  {self.place}  {self.operator}  ({self.told})  {self.by}"


# --- which tests ------------------------------------------------------------------------------------------------


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


def test_files(root: Path) -> list[Path]:
    """The files whose tests judge changes."""
    return [path for path in sorted((root / "tests").glob("test_*.py")) if not APART.fullmatch(path.name)]


def distances(root: Path) -> dict[str, dict[str, int]]:
    """Source file → test file → the steps of imports between them, as paths below the checkout."""
    source = {module_of(path, root / "src"): path for path in sorted((root / "src").rglob("*.py"))}
    graph = {name: imports_of(path, source) for name, path in source.items()}
    steps_to: dict[str, dict[str, int]] = {str(path.relative_to(root)): {} for path in source.values()}
    for test in test_files(root):
        frontier, seen, steps = imports_of(test, source), set[str](), 1
        while frontier:
            for module in frontier:
                steps_to[str(source[module].relative_to(root))][f"tests/{test.name}"] = steps
            seen |= frontier
            frontier = {inner for module in frontier for inner in graph[module]} - seen
            steps += 1
    return steps_to


def lines_of(path: Path, line: int) -> range | None:
    """The lines of the statement around a line, a compound one without its body; None outside every function's body."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = [
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for outer in function.body
        for node in ast.walk(outer)
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    if not inside:
        return None
    nearest = max(inside, key=lambda node: node.lineno)
    body = getattr(nearest, "body", None)
    last = max(body[0].lineno - 1, nearest.lineno, line) if body else nearest.end_lineno or nearest.lineno
    return range(nearest.lineno, last + 1)


class Choice:
    """Which tests judge a change, from a record of the lines that each test reaches (see mutants_plugin.Recorder)."""

    def __init__(self, root: Path, record: dict[str, Any], longest: float) -> None:
        self.root, self.longest = root, longest
        self.seconds: dict[str, float] = {k: v for k, v in record["seconds"].items() if k not in record["failed"]}
        self.fixtures: dict[str, list[str]] = record["fixtures"]
        self.reached: dict[str, dict[str, list[str]]] = record["reached"]
        self.steps = distances(root)

    def stages(self, source: str, line: int) -> tuple[list[list[str]], bool]:
        """Tests in the order of their runs, and whether they are all that can see the change.

        First those of the nearest files that reach the statement, then those of other files; each the fastest first.
        Where none does (a constant, or code that runs in a process of its own): all tests that reach the module, and
        those of the files that import it in the fewest steps.
        """
        span = lines_of(self.root / source, line)
        contexts = self.contexts(source, span)
        steps = self.steps[source]
        least = min(steps.values(), default=0)
        near = {file for file, count in steps.items() if count == least}
        if not contexts:
            contexts = self.contexts(source, None)
            contexts |= {name for name in self.seconds if name.partition("::")[0] in near}
        tests = sorted(contexts & set(self.seconds), key=lambda name: self.seconds[name])
        first = [name for name in tests if name.partition("::")[0] in near]
        kept, spent = [], 0.0
        for name in first + [name for name in tests if name not in set(first)]:
            spent += self.seconds[name]
            if spent <= self.longest or not kept:
                kept.append(name)
        stages = [[name for name in kept if (name.partition("::")[0] in near) == is_near] for is_near in (True, False)]
        return [by_file(stage) for stage in stages if stage], len(kept) == len(tests)

    def contexts(self, source: str, span: range | None) -> set[str]:
        """The tests that reach these lines, or any function of the module; where a shared fixture does, its users."""
        numbers = self.reached.get(source, {})
        lines = numbers if span is None else [str(number) for number in span]
        found = {context for number in lines for context in numbers.get(number, []) if context}
        names = {context.partition("\t")[0] for context in found}
        shared = {fixture for c in found if c.endswith("set-up") for fixture in self.fixtures[c.partition("\t")[0]]}
        return names | {name for name, own in self.fixtures.items() if shared & set(own)}


def by_file(tests: list[str]) -> list[str]:
    """Tests of a file together, so that its fixtures are made once; the file with the first test first."""
    files = list(dict.fromkeys(name.partition("::")[0] for name in tests))
    return sorted(tests, key=lambda name: files.index(name.partition("::")[0]))


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


def draw(copy: Path, targets: Iterable[str], count: int, seed: int) -> list[Any]:
    """`count` changes at different places of the target modules, the same for the same seed and source."""
    from cosmic_ray.commands import init
    from cosmic_ray.work_db import WorkDB, use_db

    source = copy / "src" / "onedial"
    paths = [path for target in targets for path in files_of(source, target)]
    with use_db(str(copy / "mutants.sqlite"), WorkDB.Mode.create) as database:
        init(paths, database, {})
        found = [item.mutations[0] for item in database.work_items]
    skipped = {path: annotated_places(path) for path in paths}
    places: dict[tuple[str, tuple[int, int]], list[Any]] = {}
    for mutation in found:
        inside = any(a <= mutation.start_pos and mutation.end_pos <= b for a, b in skipped[mutation.module_path])
        if not senseless(mutation.operator_name) and not inside:
            places.setdefault((str(mutation.module_path), mutation.start_pos), []).append(mutation)
    rng = random.Random(seed)
    order, chosen = rng.sample(sorted(places), len(places)), []
    for place in order:
        mutation = rng.choice(sorted(places[place], key=lambda m: (m.operator_name, m.occurrence)))
        if runs(mutation):
            chosen.append(mutation)
        if len(chosen) == count:
            break
    return chosen


def runs(mutation: Any) -> bool:
    """Whether a change can be judged: the changed source is Python, and ends no process that is not its own."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = mutation.module_path.read_text(encoding="utf-8")
    line, column = mutation.start_pos
    text = source.splitlines()[line - 1]
    if mutation.module_path.name == "descendants.py" or DEADLY.search(text) or SEPARATOR.match(text, column):
        return False
    if any(place.start(2) == column for place in DECLARED.finditer(text)):
        return False
    try:
        ast.parse(
            mutate_code(source, get_operator(mutation.operator_name)(**mutation.operator_args), mutation.occurrence)
        )
    except (SyntaxError, AttributeError):  # cosmic-ray replaces no exception that is named with a dot
        return False
    return True


def files_of(source: Path, target: str) -> list[Path]:
    """The files of a module or package named without `onedial.`; an error when there is none."""
    place = source.joinpath(*target.split("."))
    paths = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    if not all(path.is_file() for path in paths):
        raise SystemExit(f"mutants: {target}: no such module under src/onedial")
    return [path for path in paths if path.name != "__init__.py"]


# --- the run ---------------------------------------------------------------------------------------------------


def copy_checkout(folder: Path) -> Path:
    """The files that git knows or would add, in a folder of their own, beside the real data of some tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    copy = folder / ROOT.name
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    if (ROOT.parent / "shared").is_dir():
        (folder / "shared").symlink_to(ROOT.parent / "shared")
    return copy


def record_reach(copy: Path, sources: list[Path]) -> dict[str, Any]:
    """Runs the tests once on unchanged source: which test reaches which line of the sources, in how many seconds."""
    out = copy.parent / "record.json"
    files = [str(path.relative_to(copy)) for path in test_files(copy)]
    names = json.dumps([str(path) for path in sources])
    with contextlib.closing(Server(copy)) as server:
        code, output = server.run(files, 7200, MUTANTS_RECORD=str(out), MUTANTS_SOURCES=names)
    if not out.exists():
        raise SystemExit(f"mutants: the tests did not run on the unchanged source (exit code {code})\n{output}")
    record = json.loads(out.read_text(encoding="utf-8"))
    record["reached"] = {str(Path(name).relative_to(copy)): lines for name, lines in record["reached"].items()}
    return record


class Judge:
    """Runs tests against the copy as it is at that moment."""

    def __init__(self, copy: Path, choice: Choice, server: Server) -> None:
        self.copy, self.choice, self.server = copy, choice, server

    def run(self, tests: list[str], patience: float = 1) -> tuple[str, str]:
        """Survived, killed or hung, and the test that failed.

        A test hangs when it runs for more than a minute and ten times what it needs, all of it times `patience`.
        """
        limits = {name: patience * (60 + 10 * self.choice.seconds[name]) for name in tests}
        order = self.copy.parent / "tests.json"
        order.write_text(json.dumps(list(limits.items())), encoding="utf-8")
        files = dict.fromkeys(name.partition("::")[0] for name in tests)
        limit = patience * (300 + 10 * sum(self.choice.seconds[name] for name in tests))
        code, output = self.server.run(["-x", *files], limit, MUTANTS_TESTS=str(order))
        if code == 124 or re.search(r"^Timeout \(", output, re.MULTILINE):
            return "hung", ""
        if code in (0, 5):  # 5: none of the tests exists any more, so none says anything
            return "survived", ""
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
        return "killed", failed.group(1) if failed else f"exit code {code}"

    def all_stages(self, stages: list[list[str]]) -> tuple[str, str]:
        """The same of tests in stages. One that hangs is run again with three times the patience before it counts."""
        for tests in stages:
            state, by = self.run(tests)
            if state == "hung":
                state, by = self.run(tests, patience=3)
            if state != "survived":
                return state, by
        return "survived", ""

    def drop_unsound(self, tests: Iterable[str]) -> set[str]:
        """Runs tests that failed on the unchanged source. Those that fail there too judge nothing from now on."""
        left, unsound = sorted(set(tests) & set(self.choice.seconds)), set()
        while left:
            state, by = self.run(left)
            if state == "survived":
                break
            unsound |= {by} & set(left) or set(left[:1])
            left = [name for name in left if name not in unsound]
        for name in unsound:
            print(f"left out, for it fails on the unchanged source too: {name}", flush=True)
            del self.choice.seconds[name]
        return unsound


def measure(mutations: list[Any], judge: Judge) -> list[Result]:
    """Judges every change, and those again whose failing test fails on the unchanged source too."""
    results: dict[int, Result] = {}
    todo = list(range(len(mutations)))
    while todo:
        for number in todo:
            results[number] = measure_one(mutations[number], judge)
            print(f"{len(results):4}/{len(mutations)}  {results[number]}", flush=True)
        unsound = judge.drop_unsound(result.by for result in results.values())
        todo = [number for number, result in results.items() if result.by in unsound]
    return list(results.values())


def measure_one(mutation: Any, judge: Judge) -> Result:
    """Makes one change, has it judged, and takes it back."""
    from cosmic_ray.mutating import use_mutation
    from cosmic_ray.plugins import get_operator

    source, line = str(mutation.module_path.relative_to(judge.copy)), mutation.start_pos[0]
    compiled = Path(cache_from_source(str(mutation.module_path)))
    stages, all_run = judge.choice.stages(source, line)
    started, operator = time.monotonic(), get_operator(mutation.operator_name)(**mutation.operator_args)
    # changed within a second and of the same size, the source would look like what was compiled
    compiled.unlink(missing_ok=True)
    with use_mutation(mutation.module_path, operator, mutation.occurrence) as (before, after):
        state, by = judge.all_stages(stages)
    compiled.unlink(missing_ok=True)
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    changed = "\n".join(text for text in diff if re.match(r"[-+](?![-+])", text))
    seconds, count = time.monotonic() - started, sum(len(tests) for tests in stages)
    name = mutation.operator_name.removeprefix("core/")
    return Result(source, line, name, state, by, seconds, count, all_run, changed)


def report(results: list[Result], targets: Iterable[str], seed: int, commit: str) -> str:
    """The page: the share, per package, and every survivor."""
    killed, hung = (sum(r.state == state for r in results) for state in ("killed", "hung"))
    share = (killed + hung) / max(len(results), 1)
    lines = [
        "# Mutation testing",
        "",
        f"`make mutants` at {commit}, seed {seed}, {len(results)} changes in {', '.join(f'`{t}`' for t in targets)}:",
        f"**{share:.1%} noticed** ({killed} by a failing test, {hung} by a test that never ended; goal {GOAL:.0%}).",
        "",
        "| package | changes | noticed |",
        "|---|---|---|",
    ]
    packages = sorted({str(Path(result.source).parent) for result in results})
    for package in packages:
        own = [result for result in results if str(Path(result.source).parent) == package]
        lines.append(f"| `{package}` | {len(own)} | {sum(result.state != 'survived' for result in own)} |")
    for title, state in (("Survivors", "survived"), ("Hung", "hung")):
        chosen = [result for result in results if result.state == state]
        lines += ["", f"## {title}", *([] if chosen else ["", "None."])]
        for result in chosen:
            lines += ["", f"{result.place}: {result.operator}; {result.told}", "", "```diff", result.diff, "```"]
    return "\n".join([*lines, ""])


def run_part(args: argparse.Namespace, record: dict[str, Any], part: int) -> list[Result]:
    """Every `args.jobs`-th change from number `part` on, in a copy of the checkout."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = copy_checkout(Path(folder))
        mutations = draw(copy, args.only, args.sample, args.seed)
        with contextlib.closing(Server(copy)) as server:
            return measure(mutations[part :: args.jobs], Judge(copy, Choice(copy, record, args.longest), server))


def record_once(args: argparse.Namespace) -> dict[str, Any]:
    """The record for the targets; read from a file where one is named that exists."""
    if args.record and args.record.exists():
        return json.loads(args.record.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = copy_checkout(Path(folder))
        sources = [path for target in args.only for path in files_of(copy / "src" / "onedial", target)]
        record = record_reach(copy, sources)
    if record["failed"]:
        print("left out, for they fail on the unchanged source:", *record["failed"], sep="\n  ")
    if args.record:
        args.record.write_text(json.dumps(record), encoding="utf-8")
    return record


def main() -> None:
    """Draws, runs, reports; exit code 1 below the goal."""
    parser = argparse.ArgumentParser(description="mutation testing of a random sample")
    parser.add_argument("--sample", type=int, default=200, help="number of changes (200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", default=TARGETS, metavar="MODULE", help="modules or packages, without onedial."
    )
    parser.add_argument("--longest", type=float, default=60, help="seconds of tests for one change (60)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep or reuse what the tests reach")
    parser.add_argument("--write", type=Path, default=REPORT, metavar="FILE")
    parser.add_argument("--jobs", type=int, default=1, help="changes judged at a time (1), each job in its own copy")
    args = parser.parse_args()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    record = record_once(args)
    with ProcessPoolExecutor(args.jobs) as pool:
        parts = [pool.submit(run_part, args, record, part) for part in range(args.jobs)]
        results = sorted((result for part in parts for result in part.result()), key=lambda r: (r.source, r.line))
    args.write.write_text(report(results, args.only, args.seed, commit), encoding="utf-8")
    share = sum(result.state != "survived" for result in results) / max(len(results), 1)
    print(f"{share:.1%} of {len(results)} noticed; survivors are listed in {args.write}")
    sys.exit(share < GOAL)


if __name__ == "__main__":
    main()
