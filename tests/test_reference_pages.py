"""The documents say what the code holds. The oracle of each test is the code's own table, or a file that it wrote."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

import onedial
from onedial.core import run_log
from onedial.core.types import Group
from onedial.training.evaluation import evaluate_groups

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


REFERENCE = load_tool("reference")
DIAGRAM = load_tool("diagram")


@pytest.mark.parametrize("name", REFERENCE.PAGES)
def test_the_reference_page_is_what_the_code_says(name: str) -> None:
    path = DOCS / "reference" / f"{name}.md"
    assert path.read_text(encoding="utf-8") == REFERENCE.PAGES[name](), (
        f"{path.name} is stale; run: {REFERENCE.COMMAND}"
    )


def test_there_is_no_reference_page_that_nothing_writes() -> None:
    assert {path.stem for path in (DOCS / "reference").glob("*.md")} == set(REFERENCE.PAGES)


@pytest.mark.parametrize("scheme", DIAGRAM.COLOURS)
def test_the_diagram_is_drawn_from_its_source(scheme: str) -> None:
    path = DOCS / "images" / f"architecture-{scheme}.svg"
    assert path.read_text(encoding="utf-8") == DIAGRAM.draw(DIAGRAM.COLOURS[scheme]), f"stale; run: {REFERENCE.COMMAND}"


def test_the_diagram_shows_every_folder() -> None:
    source = ROOT / "src" / "onedial"
    folders = {path.parent.name for path in source.glob("*/__init__.py")}
    for wing in ("core", "analysis", "training"):
        folders |= {path.parent.name for path in (source / wing).glob("*/__init__.py")}
    drawn = {box[5] for box in DIAGRAM.BOXES}
    assert folders <= drawn, f"not drawn: {folders - drawn}"


# --- files of a run --------------------------------------------------------------------------------------------


def documented(name: str, number: int = 0) -> dict[str, list[str]]:
    """First column → the other cells, of the `number`-th table of a page."""
    text = (DOCS / "files" / f"{name}.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\|[^\n]+\|\n\|[-|]+\|\n((?:\|[^\n]*\|\n)+)", text, re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in tables[number].strip().splitlines()]
    return {row[0].strip(" |`"): row[1:] for row in rows}


def test_the_columns_of_rollout_files_are_those_that_the_trainer_writes() -> None:
    shown = {name: cells[0].strip("`") for name, cells in documented("rollouts").items()}
    written = {
        field.name: str(field.type).replace("<element: ", "<").replace("<item: ", "<") for field in run_log.SCHEMA
    }
    assert shown == written
    assert list(shown) == list(written), "in another order"


def judged_groups() -> list[Group]:
    prompt = onedial.Prompt("1 + 1 =", answer="2")
    rollouts = [
        onedial.Rollout(i, onedial.Completion((5,), (-0.5,), "stop", text="2"), onedial.Verdict(1.0, True, "2"))
        for i in range(2)
    ]
    return [Group(prompt, tuple(rollouts), 0, 0)]


def test_the_keys_of_evaluations_are_those_that_the_trainer_writes() -> None:
    written = evaluate_groups(judged_groups(), 1.0).to_json()
    assert list(documented("evaluation")) == ["iteration", *written]
    for key, value in written.items():
        kind = documented("evaluation")[key][0]
        assert kind == {int: "int", float: "float"}.get(type(value), kind)
        assert kind in ("int", "float") or isinstance(value, dict)
    text = (DOCS / "files" / "evaluation.md").read_text(encoding="utf-8")
    assert all(f'"{key}"' in text for key in written["avg"])


def write_plans(folder: Path) -> dict[str, Path]:
    """A log of twelve prompts of every solve rate, planned and exported."""
    from onedial.cli.main import main

    lines = [
        {"prompt": f"prompt {p}", "answer": "1", "correct": i < min(p, 8), "step": 0}
        for p in range(12)
        for i in range(8)
    ]
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plans = {"onedial": folder / "plan.json", "table": folder / "plan.csv"}
    exports = [word for kind, path in plans.items() for word in ("--export", f"{kind}:{path}")]
    assert main(["plan", str(log), "--budget", "200", *exports]) == 0
    return plans


def test_the_plan_files_are_those_that_the_planner_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = write_plans(tmp_path)
    capsys.readouterr()
    plan = json.loads(plans["onedial"].read_text())
    shown = documented("plan", 1)
    assert list(shown) == list(plan)
    for key in ("prompts", "revisit"):
        keys = [name for name in re.findall(r"`(\w+)`", shown[key][1])]
        for entry in plan[key]:
            assert list(entry) == keys
    assert plan["prompts"], "the plan funds nothing: the test would prove nothing"
    assert ", ".join(f"`{name}`" for name in ("fund", "revisit", "wait", "drop")) in shown_text("plan")
    columns = [name for names in documented("plan", 2) for name in re.findall(r"\w+", names)]
    assert columns == pl.read_csv(plans["table"]).columns


def shown_text(name: str) -> str:
    return (DOCS / "files" / f"{name}.md").read_text(encoding="utf-8")


def test_public_names_are_on_the_api_page() -> None:
    shown = re.findall(r"^::: onedial\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(shown) == onedial.__all__


def test_the_settings_page_names_every_field() -> None:
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(onedial.Run):
        assert f"`{field.name}`" in page or field.name in ("task_options", "algorithm", "allocator"), field.name


# --- outputs that documents show -------------------------------------------------------------------------------

OUTPUTS = load_tool("outputs")
SHOWING = [path for path in OUTPUTS.DOCUMENTS if re.search("<!-- (output|code): ", path.read_text(encoding="utf-8"))]


def test_outputs_are_shown() -> None:
    assert ROOT / "README.md" in SHOWING


@pytest.mark.parametrize("path", SHOWING, ids=lambda path: path.stem)
def test_the_output_shown_is_what_the_command_prints(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    text = path.read_text(encoding="utf-8")
    shown = [block["shown"] for block in OUTPUTS.MARK.finditer(text)]
    assert len(shown) == text.count("<!-- output: ") and all(block.strip() for block in shown)
    assert text == OUTPUTS.renewed(text), f"{path.name} shows an old output; run: {REFERENCE.COMMAND}"
