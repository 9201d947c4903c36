"""What `onedial plan` prints, on plans where something is missing or the plan is worse than uniform groups."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from onedial.analysis.planning.counts import PromptCounts
from onedial.analysis.planning.planner import BudgetPlan, plan
from onedial.cli.main import main
from onedial.cli.plan_text import describe_decision


def plan_of(k: list[int], n: int, budget: float) -> BudgetPlan:
    right, tries = np.array(k, dtype=float), np.full(len(k), float(n))
    ids = tuple(f"p{i}" for i in range(len(k)))
    return plan(PromptCounts(ids, right, tries, groups=np.ones(len(k))), budget)


@pytest.fixture
def solved(tmp_path: Path) -> Path:
    """Twelve prompts, each solved in 16 of 16 tries."""
    path = tmp_path / "solved.jsonl"
    rows = [json.dumps({"question": f"q{p}", "is_correct": True}) for p in range(12) for _ in range(16)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_plan_that_funds_nothing_says_so(solved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(solved), "--budget", "500"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Fund none of the 12 prompts: 12 of them are hardly ever mixed")
    assert "nan" not in out and "100 % of the budget is left: no prompt needs a second look." in out
    assert main(["plan", str(solved), "--budget", "500", "--json"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["expected_silent_planned"] is None


@pytest.mark.parametrize("kind", ["onedial:plan.json", "trl:plan.jsonl", "verl:plan.parquet"])
def test_nothing_funded_is_not_exported(
    kind: str, solved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(solved.parent)
    assert main(["plan", str(solved), "--budget", "500", "--export", kind]) == 2
    assert "no prompt is funded" in capsys.readouterr().err
    assert not Path(kind.partition(":")[2]).exists()


@pytest.mark.parametrize(
    "made", [plan_of([0] * 90 + [4] * 30, 8, 400), plan_of([4] * 40, 8, 300), plan_of([1] * 400, 8, 3000)]
)
def test_the_range_of_the_saving_is_told_in_its_own_direction(made: BudgetPlan) -> None:
    text, (low, high) = describe_decision(made), made.saving_range
    assert low <= made.saving <= high
    found = re.search(r"with (?:anything from )?([\d.]+)(?: % more)? to ([\d.]+) % (more|fewer) rollouts", text)
    assert found is not None, text
    ends = (float(found[1]) / 100, float(found[2]) / 100)
    if "anything" in found[0]:
        ends = (-ends[0], ends[1])
    elif found[3] == "more":
        ends = (-ends[1], -ends[0])
    assert ends == pytest.approx((low, high), abs=6e-4)
