"""The page of a plan draws what the command prints. Oracle: the JSON of the same command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onedial.cli.main import main


def planned(
    k: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON of a plan, and the data of its page."""
    table, page = tmp_path / "rates.csv", tmp_path / "pages" / "plan.html"
    table.write_text("prompt_id,n_correct,n\n" + "".join(f"p{i},{x},8\n" for i, x in enumerate(k)))
    assert main(["plan", str(table), "--budget", "600", "-o", str(page), "--json", *options]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["written"] == [str(page)]
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert data is not None
    return made, json.loads(data[1])


def test_plots_are_the_figures_of_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    made, data = planned(rng.binomial(8, rng.beta(0.5, 0.7, 300)), tmp_path, capsys)
    plots = {plot["title"]: plot for plot in data["curves"]}
    assert len(plots) == 4 and all(plot["x_label"] and plot["y_label"] for plot in plots.values())
    series = {each["name"].split()[0]: each for each in plots["Tries by solve rate"]["series"]}
    for name, key in (("own", "own"), ("planned", "fixed"), ("rule", "inverse")):
        assert series[name]["y"] == [band[key] for band in made["tries_by_solve_rate"]]
    saving = plots["What would be saved at the utility of uniform groups"]
    assert saving["x"] == [under["rho"] for under in made["under_rho"]] and saving["log_x"]
    assert saving["series"][0]["low"] == [under["saving_interval"][0] for under in made["under_rho"]]
    assert plots["Best group size"]["series"][0]["y"] == [under["group_size"] for under in made["under_rho"]]
    silent = plots["Silent groups to expect"]["series"][0]
    assert silent["y"] == [made["expected_silent_uniform"], made["expected_silent_planned"]]
    assert silent["high"][0] == made["expected_silent_uniform_interval"][1]
    assert "confirmed by no training run" in data["notes"][0] and "ρ is unknown" in saving["note"]


def test_a_plan_that_funds_nothing_has_a_page_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, data = planned([0] * 200, tmp_path, capsys, "--rho", "0.2")
    assert made["prompts"]["fund"] == 0 and data["notes"][0].startswith("Fund none of the 200 prompts")


def test_a_page_that_cannot_be_written_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "rates.csv"
    table.write_text("prompt_id,n_correct,n\n" + "".join(f"p{i},{i % 9},8\n" for i in range(90)))
    (tmp_path / "no.html").mkdir()
    assert main(["plan", str(table), "--budget", "100", "-o", str(tmp_path / "no.html")]) == 2
    assert "cannot write the page" in capsys.readouterr().err
