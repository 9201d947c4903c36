"""Writes the reference pages under docs/reference from the tables in the code: `python tools/reference.py`.

Each page is the text that one function below returns, so a page cannot say what the code does not hold.
`tests/test_reference_pages.py` compares the files with these functions.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
VERDICTS = FOLDER.parents[1] / "benchmarks" / "conformance"
COMMAND = "make docs"


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; vertical bars inside cells are escaped."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for row in rows:
        cells = (" ".join(str(cell).split()).replace("|", "\\|") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(title: str, *parts: str) -> str:
    """A page with its heading; says at the top that it is generated."""
    note = f"<!-- Generated from the code by `{COMMAND}`; changes made here are overwritten. -->"
    return "\n\n".join([note, f"# {title}", *parts]) + "\n"


def code(value: object) -> str:
    """A value as inline code; a dash for nothing."""
    return "–" if value in (None, "") else f"`{value}`"


def settings_page() -> str:
    """Every field of `Run`."""
    from onedial.core.field_rules import get_default
    from onedial.core.settings import RUN_RULES, Run

    rows = [(code(name), code(get_default(Run, name)), rule.help) for name, rule in RUN_RULES.items()]
    return page(
        "Settings of a run",
        "A setting is a line of a TOML file, a flag of `onedial train`, or an argument of `onedial.Run`. "
        "Later ones win: defaults, then the file, then the command line.",
        "Two tables of the file hold more: `[task]` has the task's `name` and [its options](tasks.md), `[algorithm]` "
        "has the `row` and [any cell](cells.md) that differs from it. On the command line these are `--task.OPTION` "
        "and `--algorithm.CELL`.",
        table(("setting", "default", "meaning"), rows),
    )


def cells_page() -> str:
    """Every cell of `Algorithm`."""
    from onedial.core.algorithm import Algorithm
    from onedial.core.field_rules import get_default, get_rules

    rows = [
        (code(name), code(get_default(Algorithm, name)), ", ".join(map(code, rule.choices)), rule.help)
        for name, rule in get_rules(Algorithm).items()
        if name not in ("name", "paper")
    ]
    return page(
        "Cells of an algorithm",
        "An algorithm is one row of independent choices. A cell is changed for one run by `--algorithm.CELL VALUE`, "
        "in Python by `dataclasses.replace`. Rows that contradict themselves are refused with the reason.",
        table(("cell", "default", "allowed", "meaning"), rows),
    )


def rows_page() -> str:
    """Every row of the algorithm table, its paper and its gradient coefficient."""
    from onedial.cli.algorithms import COEFFICIENTS, LEGEND, select_main_cells
    from onedial.core.algorithm_table import ALGORITHMS
    from onedial.core.maths.coefficient import describe_coefficient

    main = [{"row": code(name), **select_main_cells(row)} for name, row in ALGORITHMS.items()]
    unified = [asdict(describe_coefficient(row)) for row in ALGORITHMS.values()]
    return page(
        "The algorithm table",
        "`onedial algorithms` prints this table, `onedial algorithms ROW` every cell of one row.",
        table(list(main[0]), [list(row.values()) for row in main]),
        LEGEND,
        _smaller_rows(),
        "## Papers",
        table(("row", "paper"), [(code(name), row.paper) for name, row in ALGORITHMS.items()]),
        "## Gradient coefficients",
        "Who writes the completions, what judges them, and what multiplies ∇log π: Table 10 of DeepSeekMath, made "
        "from the cells. `onedial algorithms --coefficients` prints it.",
        table(list(unified[0]), [list(row.values()) for row in unified]),
        COEFFICIENTS,
    )


def _smaller_rows() -> str:
    """Says how many rollouts the rows with a group size of their own sample, beside the others."""
    from onedial.core.algorithm_table import ALGORITHMS
    from onedial.core.settings import Run

    usual = Run.prompts_per_iteration * Run.group_size
    own = {row.name: row.group_size for row in ALGORITHMS.values() if row.generates and row.group_size}
    said = [f"{code(name)} {Run.prompts_per_iteration * size}" for name, size in own.items()]
    return (
        "A row that fixes its group size G samples `prompts_per_iteration` × G completions. With the default settings "
        f"that is, in each iteration, {', '.join(said)}, where the others sample {usual}. For a comparison at equal "
        "cost raise `prompts_per_iteration`."
    )


def allocators_page() -> str:
    """Every row of the table of allocators, and every option."""
    from onedial.core.allocator_table import ALLOCATORS, AllocatorRow
    from onedial.core.field_rules import get_rules

    rows = [(code(name), row.rule, row.paper) for name, row in ALLOCATORS.items()]
    options = []
    for name, rule in get_rules(AllocatorRow).items():
        users = {each.name: getattr(each, name) for each in ALLOCATORS.values() if name in each.uses}
        values = set(users.values())
        shown = code(values.pop()) if len(values) == 1 else ", ".join(f"{code(v)} ({n})" for n, v in users.items())
        options.append((code(name), shown, ", ".join(users), rule.help))
    return page(
        "Allocators",
        "`--allocator NAME`, or `name` in the table `[allocator]` of a TOML file. `onedial allocators` prints this "
        "table. [What they do, and how to choose](../allocators.md).",
        table(("allocator", "rule", "from"), rows),
        "## Options",
        "`--allocator.OPTION VALUE`. An option that the allocator does not use is refused.",
        table(("option", "default", "used by", "meaning"), options),
    )


def metrics_page() -> str:
    """Every metric of `metrics.jsonl`."""
    from onedial.training.trainer.metrics import METRICS

    return page(
        "Metrics",
        "A run appends one JSON object per iteration to `metrics.jsonl`, with every key below. The value is `null` "
        "where nothing was measured. The live view, the trackers and the curves of the page show the same numbers.",
        table(("key", "meaning"), [(code(name), meaning) for name, meaning in METRICS.items()]),
    )


def formats_page() -> str:
    """Every log format that `inspect`, `report` and `plan` read."""
    from onedial.analysis.logs.detect import ALIASES, FORMATS

    parts = []
    for name, form in FORMATS.items():
        also = [alias for alias, of in ALIASES.items() if of == name]
        words = f"Name: {code(name)}" + (f"; also {', '.join(map(code, also))}" if also else "")
        shown = table(("", ""), [("where", form.where), ("shows", form.shows), ("cannot show", form.cannot)])
        parts.append(f"## {form.title}\n\n{words}\n\n{shown}")
    return page(
        "Log formats",
        "The format is recognized by the content of the files. `--format NAME` chooses one by hand.",
        *parts,
    )


def findings_page() -> str:
    """Every finding: what it measures, its definition, and why it matters."""
    import pkgutil

    from onedial.analysis import findings

    specs = {}
    for module in pkgutil.iter_modules(findings.__path__):
        members = vars(importlib.import_module(f"{findings.__name__}.{module.name}")).values()
        specs.update({spec.name: spec for spec in members if isinstance(spec, findings.Spec)})
    parts = [
        f"## {spec.title}\n\nName in JSON: {code(name)}; unit: {spec.unit}.\n\n{spec.definition}\n\n{spec.why}"
        for name, spec in sorted(specs.items())
    ]
    return page(
        "Findings",
        "`onedial inspect` computes these from any log that supports them, each with a 95 % interval where one can be "
        "given. One that the log does not support is withheld, with the reason.",
        *parts,
    )


def tasks_page() -> str:
    """Every built-in task with its options."""
    from onedial.training.tasks.registry import TASKS, open_task

    parts = []
    for name, factory in TASKS.items():
        options = [
            (code(option), code(parameter.annotation), _option_default(parameter))
            for option, parameter in inspect.signature(factory).parameters.items()
        ]
        said = f"## {name}\n\n{_prose(factory)}"
        parts.append(said + ("\n\n" + table(("option", "type", "default"), options) if options else ""))
    return page(
        "Tasks",
        "`--task NAME` chooses one of these, `--task.OPTION VALUE` sets an option.",
        *parts,
        "## Any other task",
        _prose(open_task),
    )


def _option_default(parameter: inspect.Parameter) -> str:
    return "required" if parameter.default is parameter.empty else code(parameter.default)


def _prose(thing: object) -> str:
    return inspect.getdoc(thing) or ""


def commands_page() -> str:
    """Every command with its options."""
    from onedial.cli.main import COMMANDS

    parts = []
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"onedial.cli.{name}")
        parser = argparse.ArgumentParser(prog=f"onedial {name}", add_help=False)
        module.configure(parser)
        rows = [_option(action) for action in parser._actions if not _is_setting(name, action)]
        text = f"{summary}\n\n{module.HELP.strip(chr(10))}"
        more = "\n\nEvery [setting](settings.md) is an option too." if name == "train" else ""
        parts.append(
            f"## onedial {name}\n\n```text\n{text}\n```\n\n{table(('option', 'default', 'meaning'), rows)}{more}"
        )
    return page("Commands", "`onedial COMMAND --help` prints the same.", *parts)


def _is_setting(command: str, action: argparse.Action) -> bool:
    from onedial.core.settings import PLAIN_FIELDS

    return command == "train" and action.dest in PLAIN_FIELDS


def _option(action: argparse.Action) -> tuple[str, str, str]:
    shown = action.metavar if isinstance(action.metavar, str) else None
    name = ", ".join(action.option_strings) or shown or action.dest
    value = f" {shown or action.dest.upper()}" if action.option_strings and action.nargs != 0 else ""
    default = action.default if isinstance(action.default, str | int | float) else None
    plain = None if default is False or default == argparse.SUPPRESS else default
    return code(name + value), code(plain), (action.help or "").replace("%%", "%")


def reproductions_page() -> str:
    """Every claim with its verdict, computed from the committed results."""
    from onedial.evidence.catalog import describe_claim, get_claim, list_claims, read_result

    known = [(describe_claim(get_claim(name), read_result(name)), read_result(name)) for name in list_claims()]
    overview = [
        (f"[{one['name']}](#{one['name']})", one["verdict"] or "no result yet", "yes" if one["trains"] else "no")
        for one, _ in known
    ]
    return page(
        "Claims, measured again",
        "`onedial reproduce NAME` measures a claim of the field again. The verdict (holds, in part, not here) is "
        "computed from the figures of a committed result each time; none is stored. It speaks of the model, the "
        "lesson and the budget that were measured, not of the paper's.",
        table(("claim", "verdict", "trains"), overview),
        *(_reproduction(one, result) for one, result in known),
    )


def _reproduction(known: dict[str, Any], result: dict[str, Any] | None) -> str:
    """One claim: what is said, what was got."""
    said = f"## {known['name']}\n\n{known['claim']}.\n\nSource: {known['source']}."
    if result is None:
        return f"{said}\n\nNo result yet; it costs about {known['minutes']:g} minutes on two CPU cores."
    marks = {True: "yes", False: "no", None: "not measured"}
    checks = [(check["statement"], check["got"], marks[check["held"]]) for check in known["checks"]]
    machine = result["machine"]
    where = f"Measured on {machine['date']}, {machine['processor']}, onedial {machine['onedial']}"
    seeds = f", seeds {', '.join(map(str, known['seeds']))}" if known["seeds"] else ""
    missing = "".join(f" Left out: {unit} ({reason})." for unit, reason in result["missing"].items())
    shown = table(("what would count", "got", "held"), checks)
    return f"{said}\n\nVerdict: **{known['verdict']}**.\n\n{shown}\n\n{where}{seeds}.{missing}"


def conformance_page() -> str:
    """The verdicts of the conformance suite, from the committed outputs of `onedial conformance --json`."""
    from onedial.cli.conformance import count_verdicts

    known = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(VERDICTS.glob("*.json"))}
    columns = [f"{name} {one['version']}" for name, one in known.items()]
    overview = [
        (title, count_verdicts([check["verdict"] for check in one["checks"]]))
        for title, one in zip(columns, known.values(), strict=True)
    ]
    lines = []
    for checks in zip(*(one["checks"] for one in known.values()), strict=True):
        first = checks[0]
        assert {check["check"] for check in checks} == {first["check"]}
        lines.append((code(first["check"]), first["says"], *map(_verdict, checks)))
    seen = [(code(check["check"]), check["seen"]) for check in next(iter(known.values()))["checks"] if check["seen"]]
    return page(
        "Verdicts on TRL and verl",
        "What `onedial conformance` said of these versions, as committed in `benchmarks/conformance`; tests run it "
        "again wherever the packages are installed. [What the verdicts mean, and how to judge functions of your "
        "own](../conformance.md).",
        table(("trainer", "verdicts"), overview),
        "A convention is a choice that differs from the formula in the second column and is in wide use; it is no "
        "mistake. TRL and verl are judged at their defaults but for the setting that a check is about, by their "
        "functions alone: what the trainer around them makes impossible is said beside the verdict.",
        table(("check", "what it says", *columns), lines),
        "## Where such bugs were reported",
        "Not necessarily in a version above, nor still open.",
        table(("check", "reports"), seen),
    )


def _verdict(check: dict[str, Any]) -> str:
    """The verdict of one trainer, and what was found."""
    found = f": {check['note']}" if check["note"] else ""
    off = f" ({check['measured']:.0e})" if check["verdict"] == "failed" and check["measured"] is not None else ""
    return ("passed" if check["verdict"] == "passed" else f"**{check['verdict']}**") + off + found


PAGES: dict[str, Callable[[], str]] = {
    "settings": settings_page,
    "cells": cells_page,
    "rows": rows_page,
    "allocators": allocators_page,
    "metrics": metrics_page,
    "formats": formats_page,
    "findings": findings_page,
    "tasks": tasks_page,
    "commands": commands_page,
    "reproductions": reproductions_page,
    "conformance": conformance_page,
}


def main() -> None:
    """Writes every page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / f"{name}.md").write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
