"""One value per quantity, in its own interval, on every log: properties of all figures and findings over real tables,
logs that the product writes and the samples of foreign formats. The oracle is consistency, and closed forms."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from findings_logs import rate_log, rollout_log, simulated
from logs_data import make
from onedial.analysis import Analysis, analyze, read
from onedial.analysis.findings import Finding
from onedial.analysis.findings.key_figures import SHARE_OF
from onedial.analysis.page.page import make_facts
from onedial.cli.main import main
from onedial.core.errors import DataError
from report_runs import write_run

DATA = Path(__file__).parents[1].parent / "shared" / "data"
REAL = (
    "deepscaler_solve_rate128.jsonl",
    "bigmath_digits_test_1000.jsonl",
    "dsr_sub_acc8_by_epoch.jsonl",
    "cruxeval_scored_codellama7b.json",
)
WRITERS: dict[str, Callable[[Path, list[make.Row]], Path]] = {
    "trl": make.trl,
    "verl": make.verl_v1,
    "prime-rl": make.prime_rl,
    "verifiers": make.verifiers,
    "tinker": make.tinker,
    "nemo-rl": make.nemo,
    "ms-swift": make.swift,
    "open-instruct": make.open_instruct,
    "onedial rows": make.onedial_run,
}
SIMULATED: dict[str, Callable[[], Any]] = {
    "many prompts": lambda: simulated(np.random.default_rng(1).beta(0.6, 0.9, 60), iterations=4, growth=0.04),
    "all right": lambda: simulated([1.0] * 12),
    "all wrong": lambda: simulated([0.0] * 12, iterations=3),
    "one prompt": lambda: simulated([0.5], iterations=3),
    "one visit": lambda: simulated(np.random.default_rng(2).beta(0.5, 0.8, 50)),
    "survivors": lambda: simulated([0.3, 0.5, 0.8] * 9, survivors=True),
    "graded": lambda: rollout_log(
        [
            {"prompt_id": f"p{g}", "group_id": f"g{g}", "outcome_reward": reward}
            for g in range(30)
            for reward in ([0.2, 0.7, 1.0] if g % 3 else [0.4, 0.4, 0.4] if g % 2 else [0.0, 1.0, 0.0])
        ]
    ),
    "uneven groups": lambda: rollout_log(
        [
            {"prompt_id": f"p{g % 7}", "group_id": f"g{g}", "outcome_reward": float((g * 5 + i) % 4 < g % 5)}
            for g in range(40)
            for i in range(1 + g % 9)
        ]
    ),
    "rates at the ends": lambda: rate_log([0, 8, 8, 0, 8], [8] * 5),
    "rates of few tries": lambda: rate_log([0, 1, 2, 3, 4] * 8, [4] * 40),
    "rates by iteration": lambda: rate_log([0, 2, 4, 6, 8, 8] * 4, [8] * 24, iteration=[1, 2, 3, 4, 5, 6] * 4),
}
NAMES = [*REAL, *WRITERS, "a run", *SIMULATED]


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Analysis]:
    """The analysis of each case, made once."""

    @cache
    def make_one(name: str) -> Analysis:
        if name in SIMULATED:
            return analyze(SIMULATED[name]())
        return analyze(read(path_of(name, tmp_path_factory)))

    return make_one


def path_of(name: str, folders: pytest.TempPathFactory) -> Path:
    if name in REAL:
        if not (DATA / name).is_file():
            pytest.skip(f"shared/data/{name} is not here")
        return DATA / name
    folder = folders.mktemp(name.replace(" ", "-"))
    if name == "a run":
        return write_run(folder / "run")
    return WRITERS[name](folder, make.rollouts(2, iterations=4, prompts=12))


def measured(analysis: Analysis) -> Iterator[Finding]:
    return (finding for finding in analysis.findings if not finding.withheld)


@pytest.mark.parametrize("name", NAMES)
def test_every_value_lies_in_its_own_interval(name: str, analyzed: Callable[[str], Analysis]) -> None:
    analysis = analyzed(name)
    pairs = [(f.name, f.value, f.interval) for f in measured(analysis)]
    for finding in measured(analysis):
        for plot in finding.plots:
            for series in plot.series:
                bounds = zip(series.y, series.low, series.high, strict=True) if series.low else ()
                pairs += [(f"{finding.name}: {plot.title}", y, (a, b)) for y, a, b in bounds if a is not None]
    figures = analysis.figures
    pairs.append(("mean_reward", figures["mean_reward"], figures["mean_reward_interval"]))
    pairs += [(share, figures[share], interval) for share, interval in figures.get("share_intervals", {}).items()]
    for values, intervals in (
        ("pass_at_k", "pass_at_k_intervals"),
        ("expected_silent_share", "expected_silent_intervals"),
    ):
        each = figures.get(values) or {}
        pairs += [(f"{values} {k}", each[k], interval) for k, interval in figures.get(intervals, {}).items()]
    expected = figures.get("expected_groups") or {"intervals": {}}
    pairs += [(f"expected {n}", expected[n], interval) for n, interval in expected["intervals"].items()]
    assert len(pairs) > 5
    for what, value, interval in pairs:
        assert value is None or math.isfinite(value), what
        if interval is not None:
            assert value is not None and interval[0] <= value <= interval[1], f"{what}: {value} not in {interval}"


@pytest.mark.parametrize("name", NAMES)
def test_a_quantity_has_one_value(name: str, analyzed: Callable[[str], Analysis]) -> None:
    """The same quantity in figures, findings, their plots and their tables."""
    analysis = analyzed(name)
    figures, found = analysis.figures, {finding.name: finding for finding in measured(analysis)}
    if "solve_rates" in found and figures["pass_at_k"]:
        assert found["solve_rates"].value == figures["pass_at_k"]["1"]
        assert list(found["solve_rates"].interval or ()) == (figures["pass_at_k_intervals"]["1"] or [])
    if "silent_share" in found:
        assert figures["silent_share"] == found["silent_share"].value
        interval = found["silent_share"].interval
        assert figures["share_intervals"]["silent_share"] == (None if interval is None else list(interval))
    if "shaping_leak" in found and figures.get("on_shaped_reward"):
        table = {row[0]: row[2] for row in found["shaping_leak"].tables[0].rows}
        assert figures["on_shaped_reward"]["silent_share"] == pytest.approx(table["shaped reward unanimous"])
    expected = figures.get("expected_silent_share") or {}
    if "expected_silence" in found:
        table = {str(row[0]): row[1] for row in found["expected_silence"].tables[0].rows}
        for size in expected.keys() & table.keys():
            assert table[size] == pytest.approx(expected[size], abs=1e-12)
    if figures.get("expected_groups"):
        groups = figures["expected_groups"]
        assert groups["silent_share"] == expected[str(groups["size"])] == found["expected_silence"].value
    sizes = figures.get("group_sizes") or {}
    if figures["kind"] == "rollouts" and len(sizes) == 1 and expected and not figures["unusable"]:
        # groups drawn from all the tries of a group are the group
        (size,) = sizes
        assert expected[size] == pytest.approx(figures["silent_share"])
        if figures["prompts"] == figures["groups"] and "expected_silence" in found:
            # all tries of a prompt are its one group: nothing is left to be expected
            assert found["expected_silence"].value == pytest.approx(figures["silent_share"], abs=1e-12)
            assert found["expected_silence"].interval == pytest.approx(figures["expected_silent_intervals"][size])
    if figures["tokens_silent"] is not None and "silent_tokens" in found:
        assert found["silent_tokens"].tables[0].rows[0][2] == figures["tokens_silent"]
    if figures["kind"] == "rates" and figures["pass_at_k"]:
        assert figures["pass_at_k"]["1"] == pytest.approx(figures["mean_reward"], abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_shares_add_up_to_one(name: str, analyzed: Callable[[str], Analysis]) -> None:
    figures = analyzed(name).figures
    kinds = ("mixed_share", "all_correct_share", "all_wrong_share", "silent_other_share")
    for shares in (figures, figures.get("expected_groups") or {}):
        if shares.get("mixed_share") is not None:
            assert sum(shares.get(kind) or 0.0 for kind in kinds) == pytest.approx(1.0)
            assert shares["silent_share"] == pytest.approx(1 - shares["mixed_share"])
    for finding in measured(analyzed(name)):
        if finding.name in ("sigma", "algorithm_weights", "solve_rates"):
            for series in finding.plots[0].series:
                assert sum(y or 0.0 for y in series.y) == pytest.approx(1.0), (finding.name, series.name)
        if finding.name == "algorithm_weights":
            rows = [row for row in finding.tables[0].rows if ", low" not in str(row[0]) and ", high" not in str(row[0])]
            assert all(sum(map(float, row[1:])) == pytest.approx(1.0) for row in rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*REAL[:3], "rates at the ends", "rates by iteration"])
def test_a_rate_table_withholds_nothing_that_a_closed_form_gives(
    name: str, analyzed: Callable[[str], Analysis]
) -> None:
    found = {finding.name: finding for finding in analyzed(name).findings}
    given = {"solve_rates", "sigma", "expected_silence", "algorithm_weights", "never_solved", "always_solved"}
    if name in ("dsr_sub_acc8_by_epoch.jsonl", "rates by iteration"):
        given.add("drift")
    if name == "rates at the ends":
        given.remove("algorithm_weights")  # no group can be mixed
    assert not {n: found[n].withheld for n in given if found[n].withheld}


@pytest.mark.parametrize("name", NAMES)
def test_no_advice_says_nothing(name: str, analyzed: Callable[[str], Analysis]) -> None:
    for finding in analyzed(name).findings:
        assert not re.match(r"Nothing|None|No ", finding.what_to_do), finding
        assert not finding.withheld or not finding.what_to_do


def test_a_run_of_onedial_is_not_told_to_do_what_onedial_does() -> None:
    log = SIMULATED["many prompts"]()
    foreign, own, samples = (
        {finding.name: finding.what_to_do for finding in analyze(replace(log, format=name)).findings}
        for name in ("trl", "onedial", "humaneval")
    )
    assert "backward pass" in foreign["silent_tokens"] and "outcome reward" in foreign["shaping_leak"]
    assert own["silent_tokens"] and "backward pass" not in own["silent_tokens"]  # it skips that already
    assert own["shaping_leak"] and "outcome reward" not in own["shaping_leak"]  # it filters on the outcome already
    assert not samples["silent_tokens"]  # nobody trains on a benchmark's samples


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_fits_80_columns_and_names_its_intervals(
    name: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in SIMULATED:
        pytest.skip("has no file")
    path = path_of(name, tmp_path_factory)
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    for line in text.splitlines():
        assert cell_len(line) <= 80 or str(path) in line, line
        assert line == line.rstrip()
    spans = re.findall(r"\d – \d", text)
    assert not spans or "95 %" in text
    assert "→ Nothing" not in text


def test_hand_values_of_a_small_rate_table() -> None:
    """Two tries of eight are drawn: (2 of 8), (8 of 8). By hand: σ̂ = ½ with 1 right of 2, else 0."""
    analysis = analyze(rate_log([2, 8], [8, 8]), group_size=2)
    mixed = 2 * 6 / 28  # pairs with one right of (2 right, 6 wrong)
    groups = analysis.figures["expected_groups"]
    assert groups["mixed_share"] == pytest.approx(mixed / 2)
    assert groups["all_correct_share"] == pytest.approx((1 / 28 + 1) / 2)
    found = {finding.name: finding for finding in analysis.findings}
    assert found["sigma"].value == pytest.approx(0.5 * mixed / 2)
    # all weight is on the only prompt that can be mixed
    weights = found["algorithm_weights"].plots[0].series[0].y
    assert max(y or 0.0 for y in weights) == pytest.approx(1.0)


def test_drift_of_a_series_by_hand() -> None:
    """Epochs 1, 2, 3 of two prompts with 8 tries: all right in none, one, both."""
    k = [0, 4, 8, 4, 8, 8]
    iteration = [1, 1, 2, 2, 3, 3]
    log = rate_log(k, [8] * 6, iteration=iteration)
    found = {finding.name: finding for finding in analyze(log).findings}
    assert found["drift"].value == pytest.approx(1.0 - 0.0)


def test_expected_silence_of_a_log_by_hand() -> None:
    """Prompt a: 3 right of 4 in groups of 2; prompt b: 2 of 2. Pairs of a that agree: 3 of 6; b always."""
    right = {"a": [[1, 1], [1, 0]], "b": [[1, 1]]}
    rows = [
        {"prompt_id": prompt, "group_id": f"{prompt}{number}", "iteration": number + 1, "outcome_reward": float(r)}
        for prompt, groups in right.items()
        for number, group in enumerate(groups)
        for r in group
    ]
    for log in (rollout_log(rows), rollout_log([{k: v for k, v in row.items() if k != "iteration"} for row in rows])):
        found = {finding.name: finding for finding in analyze(log).findings}
        assert found["expected_silence"].value == pytest.approx((2 * 0.5 + 1) / 3)


@pytest.mark.parametrize("size", [4, 8])
def test_the_page_of_a_rate_table_names_the_group_size_that_it_used(size: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    analysis = analyze(rate_log(rng.binomial(8, rng.beta(0.5, 0.8, 60)), [8] * 60), group_size=size)
    facts = {fact.label: fact.value for fact in make_facts(analysis.tables, analysis.findings)}
    expected = analysis.figures["expected_groups"]
    assert facts[f"Silent at G = {size}"] == expected["silent_share"] and expected["size"] == size
    assert [label for label in facts if "G =" in label] == [f"Silent at G = {size}"]


def test_splits_have_one_value_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--split all` once said "80 groups, 47.5 % mixed" above "5 % of 40 groups were silent"."""
    folder = make.prime_rl(tmp_path, make.rollouts(3, iterations=4, prompts=12))
    for split in ("train", "eval", "all"):
        assert main(["inspect", str(folder), "--split", split]) == 0
        text = capsys.readouterr().out
        counted = re.search(r"Groups by their rewards \(([\d,]+)\)", text)
        told = re.search(r"% of ([\d,]+) groups were silent", text)
        assert counted and told and counted[1] == told[1], split
        bars = text[text.index("Groups by their rewards") : text.index("Figures")]
        assert sum(map(float, re.findall(r" (\d+\.\d) %", bars))) == pytest.approx(100.0)


def test_mean_reward_interval_covers_with_prompts_as_units() -> None:
    """Simulation: 30 prompts × 20 groups × 4 rollouts. Groups taken for units covered 35 % (review of 469fd42)."""
    rng, hits, runs = np.random.default_rng(0), 0, 60
    for _ in range(runs):
        rates = rng.beta(0.8, 0.8, 30)
        right = rng.random((20, 30, 4)) < rates[:, None]
        rows = {
            "prompt_id": [f"p{p}" for _ in range(20) for p in range(30) for _ in range(4)],
            "group_id": [f"{i}-{p}" for i in range(20) for p in range(30) for _ in range(4)],
            "outcome_reward": right.reshape(-1).astype(float).tolist(),
        }
        figures = analyze(rollout_log(rows)).figures  # type: ignore[arg-type]
        low, high = figures["mean_reward_interval"]
        hits += low <= 0.5 <= high
    assert hits >= 0.88 * runs  # 57 expected, standard error 1.7


def test_options_beyond_the_log_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make.lines(tmp_path / "a.jsonl", [{"problem": f"p{k}", "n_correct": k, "n_total": 8} for k in range(9)])
    for words, message in (
        (["--group-size", "16"], "fewer tries (median 8)"),
        (["--group-size", "1"], "at least 2"),
        (["--at-k", "9"], "the most is 8"),
        (["--at-k", "0"], "whole numbers"),
        (["--findings"], "--json"),
    ):
        try:
            assert main(["inspect", str(path), *words]) == 2
        except SystemExit as stop:
            assert stop.code == 2
        assert message in capsys.readouterr().err, words
    assert main(["inspect", str(path), "--group-size", "4", "--at-k", "3,5"]) == 0
    text = capsys.readouterr().out
    assert "Groups of 4 as" in text and re.search(r"^ +3 +\d", text, re.M) and re.search(r"^ +5 +\d", text, re.M)


def test_report_and_plan_take_the_options_of_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"was": f"p{i // 4}", "ok": i % 2, "part": "train" if i < 200 else "eval"} for i in range(400)]
    path = make.lines(tmp_path / "odd.jsonl", rows)
    words = ["--map", "prompt=was,correct=ok,split=part", "--split", "eval"]
    assert main(["inspect", str(path), *words, "--json"]) == 0
    assert '"rollouts": 200' in capsys.readouterr().out
    assert main(["report", str(path), *words, "-o", str(tmp_path / "r.html")]) == 0
    assert main(["inspect", str(path), *words, "-o", str(tmp_path / "i.html")]) == 0
    report, inspected = ((tmp_path / name).read_text() for name in ("r.html", "i.html"))
    assert report == inspected  # the page of `report` is that of `inspect`; a run has curves besides
    capsys.readouterr()
    assert main(["plan", str(path), *words, "--budget", "400", "--json"]) == 0
    assert "50" in capsys.readouterr().out


def test_an_empty_log_has_figures_and_no_findings() -> None:
    log = rollout_log([{"prompt_id": "p", "group_id": "g", "outcome_reward": 1.0}])
    empty = analyze(replace(log, frame=log.frame.filter(False)))
    assert empty.findings == () and all(empty.figures[share] is None for share in SHARE_OF)
    with pytest.raises(DataError):
        _ = empty.tables


@pytest.mark.parametrize("name", NAMES)
def test_the_head_of_the_page_shows_the_figures(name: str, analyzed: Callable[[str], Analysis]) -> None:
    """Oracle: the key figures, which the terminal shows, for every tile that has one there."""
    analysis = analyzed(name)
    figures = analysis.figures
    facts = {fact.label: fact for fact in make_facts(analysis.tables, analysis.findings)}
    if figures["kind"] == "rates":
        assert facts["Prompts"].value == figures["prompts"]
        return
    assert facts["Rollouts"].value == figures["rollouts"]
    assert facts["Groups"].value == figures["groups"]
    sizes = [int(size) for size in figures["group_sizes"]]
    assert facts["Groups"].note == (f"of {min(sizes)} to {max(sizes)}" if len(sizes) > 1 else f"of {sizes[0]}")
    assert facts["Rollouts"].note.split()[0].replace(",", "") == str(figures["prompts"])
    if "Silent groups" in facts:
        assert facts["Silent groups"].value == figures["silent_share"]


@pytest.mark.parametrize("log", [rate_log([3], [8]), rate_log([0, 8], [8] * 2), simulated([0.5])])
def test_every_row_of_a_table_has_a_cell_for_every_column(log: Any) -> None:
    """Where there is no interval, its cells are empty; the rest stays under its own heading."""
    for finding in measured(analyze(log)):
        for table in finding.tables:
            assert {len(row) for row in table.rows} <= {len(table.columns)}, (finding.name, table.title)
