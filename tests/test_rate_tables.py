"""What `inspect` says of a table of solve rates. Oracles: hand values, all subsets, plain loops on real data."""

from __future__ import annotations

import ast
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from findings_logs import all_findings, key_figures, rate_log
from onedial.analysis.findings import collect
from onedial.analysis.findings.difficulty_bands import rate_bands, rows_by_weight
from onedial.analysis.findings.expected import deconvolved_silent_shares
from onedial.analysis.findings.rate_series import rate_series
from onedial.analysis.findings.sigma_laws import endless_weight, extreme_shares, prompt_rates, sigma_moments
from onedial.cli.main import main
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.maths import dispersion

DATA = Path(__file__).parents[1].parent / "shared" / "data"
SRC = Path(dispersion.__file__).parents[2]


def shared(name: str) -> Path:
    if not (DATA / name).is_file():
        pytest.skip(f"shared/data/{name} is not here")
    return DATA / name


def of_subsets(k: int, n: int, size: int, value: Any) -> float:
    """Mean of value(number right) over every subset of `size` of the n tries."""
    rewards = [1] * k + [0] * (n - k)
    found = [float(value(sum(chosen))) for chosen in itertools.combinations(rewards, size)]
    return sum(found) / len(found)


def inspected(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["inspect", str(path), *options]) == 0
    return capsys.readouterr().out


def fits(text: str, folder: str) -> None:
    """Every line fits 80 columns; paths, and commands to copy, are never wrapped."""
    assert not [line for line in text.splitlines() if cell_len(line) > 80 and folder not in line]


# --- a table made by hand ------------------------------------------------------------------------------------------


def test_silence_plug_in_and_corrected_by_hand() -> None:
    figures = key_figures(rate_log([0, 1, 2, 3, 4], [4] * 5))
    # plug-in at G = 2: (1 + .625 + .5 + .625 + 1)/5; without replacement: (1 + 3/6 + 2/6 + 3/6 + 1)/5
    assert figures["plug_in_silent_share"]["2"] == pytest.approx(0.75)
    assert figures["expected_silent_share"]["2"] == pytest.approx(2 / 3)
    assert figures["deconvolved_silent_share"]["2"] == pytest.approx(2 / 3, abs=0.01)
    assert set(figures["plug_in_silent_share"]) == {"2", "4", "8", "16", "32", "64"}


def test_moments_of_sigma_by_hand_and_by_enumeration() -> None:
    log = rate_log([0, 1, 2, 3, 4], [4] * 5)
    found = {moment.alpha: moment for moment in sigma_moments(collect(log, group_size=4))}
    assert found[1.0].value == pytest.approx((2 * math.sqrt(3) / 4 + 0.5) / 5)  # G = n: the tries are the group
    assert found[2.0].value == pytest.approx(3 / 5) and found[0.0].value == pytest.approx((2 * 3 / 16 + 1 / 4) / 5)
    assert found[1.0].limit == pytest.approx(found[1.0].value)  # √(pq) at k/n is σ̂ of that group
    for moment in sigma_moments(collect(rate_log([1, 4, 6], [7, 7, 7]), group_size=3)):

        def value(j: int, power: float = 2 - moment.alpha) -> float:
            return (math.sqrt(j * (3 - j)) / 3) ** power if 0 < j < 3 else 0.0

        each = [of_subsets(k, 7, 3, value) for k in (1, 4, 6)]
        assert moment.value == pytest.approx(sum(each) / 3)
        assert moment.interval is not None and moment.interval[0] <= moment.value <= moment.interval[1]


def test_extreme_weight_by_hand() -> None:
    tables = collect(rate_log([1, 10, 19], [20] * 3), group_size=2)
    found = {(share.alpha, share.group_size): share.plug_in for share in extreme_shares(tables)}
    assert found[0.0, None] == pytest.approx(0.095 / 0.345)  # pq = .0475, .25, .0475
    edge = math.sqrt(0.0475)
    assert found[1.0, None] == pytest.approx(2 * edge / (2 * edge + 0.5))
    assert found[1.0, 2] == pytest.approx(found[0.0, None])  # at G = 2, E[σ̂] = pq
    assert endless_weight(np.array([0.0, 0.2, 1.0]), 2.0) == pytest.approx([0, 1, 0])


def test_deconvolved_extreme_weight_is_the_true_one_and_its_range_holds_it() -> None:
    # oracle: the true rates. k/n of 16 tries spreads prompts of p = .06 over both sides of 10 %
    rng = np.random.default_rng(4)
    rates = rng.choice([0.06, 0.3, 0.5, 0.97], 4000, p=[0.4, 0.2, 0.2, 0.2])
    tables = collect(rate_log(rng.binomial(16, rates), np.full(4000, 16)), group_size=8)
    for share in extreme_shares(tables):
        size = share.group_size
        weight = (
            endless_weight(rates, share.alpha)
            if size is None
            else dispersion.expected_sigma(rates, size, power=2 - share.alpha)
        )
        truth = float(weight[(rates <= 0.1) | (rates >= 0.9)].sum() / weight.sum())
        assert share.range is not None and share.range[0] <= truth <= share.range[1]
        assert share.deconvolved is not None and abs(share.deconvolved - truth) < abs(share.plug_in - truth)


def test_every_row_of_the_table_has_weights_or_a_reason() -> None:
    keys, left_out = rows_by_weight(8)
    named = [name for names in keys.values() for name in names]
    assert sorted([*named, *left_out]) == sorted(ALGORITHMS)
    assert all(left_out.values())
    assert (
        keys[1.0, 2] == ["two_grpo"]
        and "grpo" in keys[1.0, 8]
        and {"reinforce", "rloo", "dr_grpo"} <= set(keys[0.0, 8])
    )


def test_weights_by_solve_rate_are_those_of_every_subset() -> None:
    counts = [(0, 12), (1, 12), (4, 12), (7, 12), (11, 12), (12, 12)]
    tables = collect(rate_log([k for k, _ in counts], [n for _, n in counts]), group_size=5)
    found = rate_bands(tables)
    assert found is not None
    for row in found.weights:
        size, power = row.group_size, 2 - row.alpha

        def weigh(j: int, size: int = size, power: float = power) -> float:
            return (math.sqrt(j * (size - j)) / size) ** power if 0 < j < size else 0.0

        each = np.array([of_subsets(k, n, size, weigh) for k, n in counts])
        by_band = np.bincount(band_of(tables), weights=each, minlength=10) / each.sum()
        assert row.shares == pytest.approx(by_band)
    for number, band in enumerate(found.bands):
        mine = [(k, n) for (k, n), where in zip(counts, band_of(tables), strict=True) if where == number]
        assert band.prompts == pytest.approx(len(mine) / 6)
        if mine:
            silent = [of_subsets(k, n, 5, lambda j: j in (0, 5)) for k, n in mine]
            assert band.silent == pytest.approx(sum(silent) / len(mine))
    # REINFORCE without a baseline: E over groups of (1/G) Σ r (r − p̂) = p̂(1 − p̂), the share at α = 0
    plain = next(row for row in found.weights if "reinforce" in row.rows)
    direct = np.array([k / n * (1 - k / n) for k, n in counts])
    assert plain.shares == pytest.approx(np.bincount(band_of(tables), weights=direct, minlength=10) / direct.sum())


def band_of(tables: Any) -> list[int]:
    """The band of each prompt by the posterior mean of its rate, as the page bins it."""
    from onedial.analysis.findings.difficulty_groups import bin_prompts

    return [int(number) for number in bin_prompts(tables).sort("prompt_id").get_column("bin")]


def test_closed_forms_stand_at_the_middle_of_each_band() -> None:
    found = rate_bands(collect(rate_log([3, 5, 8], [8, 8, 8])))
    assert found is not None
    low = found.bands[0]  # published at p = .05: fidelity .54 at G = 8, 69 rollouts for 95 %; limit 1/√(pq)
    assert (round(low.fidelity, 2), low.size_for_fidelity) == (0.54, 69)
    assert low.amplification_limit == pytest.approx(1 / math.sqrt(0.05 * 0.95))
    # E[σ̂] = W·pq, by hand from the binomial
    sigma = sum(math.comb(8, k) * 0.05**k * 0.95 ** (8 - k) * math.sqrt(k * (8 - k)) / 8 for k in range(9))
    assert low.amplification * 0.05 * 0.95 == pytest.approx(sigma)


def test_a_series_is_told_iteration_by_iteration() -> None:
    k = [0, 8, 4, 8, 8, 4, 8, 8, 8]
    log = rate_log(k, [8] * 9, prompt_id=["a", "b", "c"] * 3, iteration=[1, 1, 1, 2, 2, 2, 3, 3, 3])
    points = rate_series(collect(log, group_size=8))
    assert [point.right[0] for point in points] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [point.wrong[0] for point in points] == pytest.approx([1 / 3, 0, 0])
    assert [point.sigma[0] for point in points] == pytest.approx([0.5 / 3, 0.5 / 3, 0])
    assert [point.rate[0] for point in points] == pytest.approx([0.5, 20 / 24, 1])
    half = rate_series(collect(log, group_size=2))
    assert half[0].mixed[0] == pytest.approx(of_subsets(4, 8, 2, lambda j: j == 1) / 3)
    assert rate_series(collect(rate_log([1, 2], [4, 4]))) == ()


def test_what_needs_no_tries_is_told_without_them() -> None:
    log = rate_log([1, 2, 5], [10, 10, 10])
    log = type(log)("rates", log.frame.with_columns(k=None, n=None), "rates")
    figures = key_figures(log)
    assert figures["plug_in_silent_share"]["2"] == pytest.approx((0.82 + 0.68 + 0.5) / 3)
    endless = next(share for share in figures["extreme_weight"] if share["alpha"] == 1 and share["group_size"] is None)
    assert endless["plug_in"] == pytest.approx(0.3 / (0.3 + 0.4 + 0.5)) and endless["deconvolved"] is None
    for name in ("sigma_moments", "by_solve_rate", "deconvolved_silent_share"):
        assert figures[name] is None and "number of tries" in figures["withheld"][name]


@pytest.mark.parametrize("k", [[0, 8], [8], [0], [4]])
def test_degenerate_tables_are_told_without_a_crash(
    k: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rates.jsonl"
    path.write_text("".join(json.dumps({"id": i, "n_correct": x, "n": 8}) + "\n" for i, x in enumerate(k)))
    text = inspected(path, capsys, "--map", "k=n_correct,n=n", "-o", str(tmp_path / "page.html"))
    fits(text, str(tmp_path))
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_the_group_size_of_report_is_that_of_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, page = tmp_path / "rates.csv", tmp_path / "page.html"
    path.write_text("prompt_id,n_correct,n\n" + "".join(f"p{i},{i % 9},8\n" for i in range(36)))
    figures = json.loads(inspected(path, capsys, "--json", "--group-size", "4"))
    assert main(["report", str(path), "--group-size", "4", "-o", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "What a prompt weighs by its solve rate, groups of 4" in text
    assert f"Silent at G = {figures['by_solve_rate']['group_size']}" in text
    for size, message in (("9", "give at most 8"), ("1", "must be at least 2")):
        assert main(["report", str(path), "--group-size", size, "-o", str(page)]) == 2
        assert message in capsys.readouterr().err


# --- real tables ---------------------------------------------------------------------------------------------------


def test_the_published_kind_of_figures_of_a_real_table(capsys: pytest.CaptureFixture[str]) -> None:
    """DeepScaleR's rates: 66, 54, 45, 37 and 32 % silent at G = 4 … 64, and extreme prompts from 12.4 to 23.2 %."""
    path = shared("deepscaler_solve_rate128.jsonl")
    rates = [json.loads(line)["n_correct"] / 128 for line in path.read_text(encoding="utf-8").splitlines()]
    figures = json.loads(inspected(path, capsys, "--json"))
    for size in (4, 8, 16, 32, 64):  # oracle: plain loops
        plain = sum(p**size + (1 - p) ** size for p in rates) / len(rates)
        assert figures["plug_in_silent_share"][str(size)] == pytest.approx(plain, rel=1e-12)
        low, high = figures["deconvolved_silent_intervals"][str(size)]
        assert low <= figures["expected_silent_share"][str(size)] <= high
    shares = {(share["alpha"], share["group_size"]): share["plug_in"] for share in figures["extreme_weight"]}
    for alpha, key in ((0, (0.0, None)), (1, (1.0, None))):
        weights = [(p * (1 - p)) ** (1 - alpha / 2) for p in rates]
        extreme = sum(w for p, w in zip(rates, weights, strict=True) if p <= 0.1 or p >= 0.9)
        assert shares[key] == pytest.approx(extreme / sum(weights))
    assert [round(100 * shares[key], 1) for key in ((0.0, None), (1.0, 8), (1.0, None))] == [12.4, 14.8, 23.2]
    text = inspected(path, capsys)
    for size, share in ((4, "66.4"), (8, "54.3"), (16, "44.6"), (32, "37.2"), (64, "31.7")):
        assert any(
            line.split()[0] == str(size) and line.rstrip().endswith(f"{share} %")
            for line in text.splitlines()
            if line.strip()
        )
    assert "12.4 %" in text and "23.2 %" in text and "weight α 1, G 2" in text
    fits(text, str(DATA))


def test_a_real_series_is_counted_epoch_by_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    from onedial.analysis import analyze, read

    path = shared("dsr_sub_acc8_by_epoch.jsonl")
    fits(inspected(path, capsys, "--group-size", "4"), str(DATA))
    series = [json.loads(line)["acc_per_epoch_of_8"] for line in path.read_text(encoding="utf-8").splitlines()]
    analysis = analyze(read(path))
    points = analysis.figures["by_iteration"]
    assert len(points) == max(map(len, series))
    for point in points:
        rates = [rates[point["iteration"] - 1] for rates in series if len(rates) >= point["iteration"]]
        assert point["prompts"] == len(rates)
        assert point["right"][0] == pytest.approx(sum(rate == 1 for rate in rates) / len(rates))
        assert point["sigma"][0] == pytest.approx(sum(math.sqrt(p * (1 - p)) for p in rates) / len(rates))
        if len(rates) > 1:
            low, high = point["right"][1]
            assert low <= point["right"][0] <= high
    drawn = next(finding for finding in analysis.findings if finding.name == "drift").plots
    assert [plot.title for plot in drawn] == [
        "Expected kinds of groups of 8",
        "Mean solve rate",
        "Mean σ̂ of groups of 8",
    ]
    assert all(series.low and series.high for plot in drawn for series in plot.series)


def test_terminal_json_and_page_show_one_value() -> None:
    rng = np.random.default_rng(0)
    log = rate_log(rng.binomial(8, rng.beta(0.5, 0.7, 300)), np.full(300, 8))
    figures, found = key_figures(log), {finding.name: finding for finding in all_findings(log)}
    weights = found["algorithm_weights"].tables[0].rows
    assert [row[1:] for row in weights[: len(figures["by_solve_rate"]["weights"])]] == [
        tuple(row["shares"]) for row in figures["by_solve_rate"]["weights"]
    ]
    rows = {row[0]: row for row in found["expected_silence"].tables[0].rows}
    for size, row in rows.items():
        wanted = {**figures["deconvolved_silent_share"], **figures["expected_silent_share"]}[str(size)]
        assert row[1] == pytest.approx(wanted) and row[-1] == pytest.approx(figures["plug_in_silent_share"][str(size)])
    assert found["sigma"].value == pytest.approx(figures["sigma_moments"][2]["value"])
    assert found["extreme_weight"].value == pytest.approx(figures["extreme_weight"][2]["plug_in"])


def test_deconvolved_silence_of_a_series_is_that_of_its_visits() -> None:
    # oracle: every visit has its own rate, 0 or ½; pooled over a prompt's visits all rates would be ¼ and none silent
    rng = np.random.default_rng(2)
    rates = np.tile([0.0, 0.5], 300)
    ids = np.repeat([f"p{i}" for i in range(300)], 2)
    log = rate_log(rng.binomial(8, rates), np.full(600, 8), prompt_id=ids, iteration=np.tile([1, 2], 300))
    found = deconvolved_silent_shares(collect(log), (8, 32))
    for size in (8, 32):
        assert found[size].share == pytest.approx((1 + 2 * 0.5**size) / 2, abs=0.05)
    assert prompt_rates(collect(log)).mean() == pytest.approx(0.25, abs=0.02)


def test_every_closed_form_of_sigma_is_used_by_the_product() -> None:
    tree = ast.parse((SRC / "core" / "maths" / "dispersion.py").read_text(encoding="utf-8"))
    public = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}
    used = set()
    for path in SRC.rglob("*.py"):
        if path.name != "dispersion.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "dispersion":
                    used.add(node.attr)
                elif isinstance(node, ast.ImportFrom) and node.module == "onedial.core.maths.dispersion":
                    used |= {name.name for name in node.names}
    assert public - used == set()
