"""Curves of a run. Oracles: what the run itself wrote, hand values, and invariance under damage."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onedial.analysis.findings.finding import Plot
from onedial.analysis.page.accuracy import plot_heldout, read_share
from onedial.analysis.page.curves import CURVES, GROUPS, generation_seconds, plot_run, smooth
from onedial.analysis.page.group_intervals import mean_reach
from onedial.analysis.page.run_records import RENAMED_METRICS, read_run_records
from onedial.cli.main import main
from onedial.core.maths.estimators import Estimate, wilson_interval
from onedial.core.run_log import append_json, read_json_lines, scan_json_lines
from onedial.training.evaluation import Evaluation
from onedial.training.trainer.metrics import METRICS
from report_runs import write_run

HALF = Estimate(0.5, 0.4, 0.6, 20)


def evaluation(avg: float, **changes: Any) -> dict[str, Any]:
    share = Estimate(avg, avg - 0.1, avg + 0.1, 20)
    plain = Evaluation(
        prompts=20,
        samples=4,
        avg=share,
        pass_at={1: share, 2: HALF, 4: HALF},
        maj_at={1: share, 4: HALF},
        levels={"1": share, "2": HALF},
        reward_mean=avg,
        length_mean=10.0,
        truncated_share=0.25,
        unusable=3,
        temperature=1.0,
    )
    return replace(plain, **changes).to_json()


def by_title(plots: list[Plot]) -> dict[str, Plot]:
    assert len({plot.title for plot in plots}) == len(plots)
    return {plot.title: plot for plot in plots}


def test_held_out_accuracy_of_a_trained_run(trained_run: Path) -> None:
    """The plot holds avg, pass and maj with the bounds that the trainer wrote, evaluation by evaluation."""
    records = read_json_lines(trained_run / "eval.jsonl")
    plot = by_title(plot_run(trained_run)[0])["Held-out accuracy"]
    assert plot.x == tuple(record["iteration"] for record in records) == (0, 4, 8, 12, 16)
    assert [series.name for series in plot.series] == ["avg@8", "pass@8", "maj@8"]
    for series, written in zip(
        plot.series,
        (
            [record["avg"] for record in records],
            [record["pass_at"]["8"] for record in records],
            [record["maj_at"]["8"] for record in records],
        ),
        strict=True,
    ):
        for values, name in ((series.y, "value"), (series.low, "low"), (series.high, "high")):
            assert values == pytest.approx([estimate[name] for estimate in written])
    assert "95 %" in plot.note


def test_pass_over_k_of_the_first_and_last_evaluation(trained_run: Path) -> None:
    records = read_json_lines(trained_run / "eval.jsonl")
    plot = by_title(plot_run(trained_run)[0])["Held-out pass@k and maj@k by the number of samples"]
    assert plot.x == (1, 2, 4, 8)
    names = [f"{what}, iteration {step}" for what in ("pass@k", "maj@k") for step in (0, 16)]
    assert [series.name for series in plot.series] == names
    assert plot.series[1].y == pytest.approx([records[-1]["pass_at"][str(k)]["value"] for k in (1, 2, 4, 8)])


def test_every_key_drawn_is_one_that_training_writes(trained_run: Path) -> None:
    keys = {key for curve in CURVES for line in curve.lines for key in (line.key, line.count) if key}
    assert keys <= set(METRICS)
    assert set(METRICS) == set(read_json_lines(trained_run / "metrics.jsonl")[0])


def test_raw_points_of_a_trained_run_are_its_metrics(trained_run: Path) -> None:
    records = read_json_lines(trained_run / "metrics.jsonl")
    plots = by_title(plot_run(trained_run)[0])
    assert plots["Entropy of the policy"].series[0].y == pytest.approx([record["entropy"] for record in records])
    mixed = plots["Kinds of groups"].series[0]
    assert mixed.y == pytest.approx([record["mixed_share"] for record in records])
    assert len(plots["Kinds of groups"].extra["smooth"][0]) == 16


def test_a_run_of_an_earlier_version_draws_the_same_curves(trained_run: Path, tmp_path: Path) -> None:
    """Half of the records with the names of before: the same columns as with those of now."""
    before = {new: old for old, new in RENAMED_METRICS.items()}
    assert set(before) <= set(METRICS)
    for number, record in enumerate(read_json_lines(trained_run / "metrics.jsonl")):
        old = {before.get(key, key): value for key, value in record.items()}
        append_json(tmp_path / "metrics.jsonl", old if number % 2 else record)
    assert '"taught_share"' in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    records, notes = read_run_records(tmp_path / "metrics.jsonl")
    assert (records, notes) == read_run_records(trained_run / "metrics.jsonl")
    assert all(record["trained_share"] is not None for record in records)


def test_titles_and_lines_are_for_people() -> None:
    assert len({curve.title for curve in CURVES}) == len(CURVES)
    for curve in CURVES:
        assert "_" not in curve.title + curve.y_label + "".join(line.name for line in curve.lines)
        assert curve.y_label


def test_band_of_a_short_run_is_wilsons(tmp_path: Path) -> None:
    """Without smoothing the band is the plain interval of the iteration's own groups."""
    run = write_run(tmp_path / "run", iterations=4, prompts=20)
    plots = by_title(plot_run(run)[0])
    plot = plots["Kinds of groups"]
    assert [series.name for series in plot.series] == ["mixed", "all correct", "all wrong"] and not plot.extra
    for series in plot.series:
        for value, low, high in zip(series.y, series.low, series.high, strict=True):
            assert (low, high) == pytest.approx(wilson_interval(round(value * 20), 20))
    assert "Clipped tokens" not in plots  # never logged
    assert generation_seconds(run) == 10.0


def test_smoothing_by_hand() -> None:
    values, counts = np.array([1.0, np.nan, 0.0]), np.array([1.0, 1.0, 3.0])
    mean, trials = smooth(values, counts, 1.0)
    w = np.exp(-2.0)  # distance 2, width 1
    assert mean[0] == pytest.approx(1 / (1 + 3 * w)) and mean[2] == pytest.approx(w / (w + 3))
    assert np.isnan(mean[1])
    assert trials[0] == pytest.approx((1 + 3 * w) ** 2 / (1 + 3 * w**2))
    same, alone = smooth(values, counts, 0.0)
    assert same[0] == 1.0 and same[2] == 0.0 and alone[2] == 3.0


def test_smoothing_keeps_a_constant() -> None:
    mean, trials = smooth(np.full(50, 0.3), np.full(50, 8.0), 2.0)
    assert mean == pytest.approx(np.full(50, 0.3)) and (trials >= 8.0).all() and (trials <= 400.0).all()


def test_levels_have_a_plot_of_their_own(tmp_path: Path) -> None:
    append_json(tmp_path / "eval.jsonl", {"iteration": 0, **evaluation(0.3)})
    plots, notes = plot_heldout(tmp_path)
    levels = by_title(plots)["Held-out accuracy by level"]
    assert [(series.name, series.y) for series in levels.series] == [("level 1", (0.3,)), ("level 2", (0.5,))]
    assert notes == ["3 held-out completions got no verdict; they are in no accuracy."]


def test_an_evaluation_without_parsed_answers_has_no_majority(tmp_path: Path) -> None:
    for step in (0, 5):
        append_json(tmp_path / "eval.jsonl", {"iteration": step, **evaluation(0.3, maj_at={}, unusable=0)})
    plots, notes = plot_heldout(tmp_path)
    assert [series.name for series in plots[0].series] == ["avg@4", "pass@4"] and notes == []


DAMAGED = [
    '{"iteration": 1, "avg": 0.5}',  # not nested
    '{"iteration": 2, "avg": {"value": "0.5", "low": 0, "high": 1}}',
    '{"iteration": 3, "avg": {"value": 0.9, "low": 0.1, "high": 0.2}}',  # outside its own interval
    '{"iteration": 4, "avg": {"value": 1e400, "low": 0, "high": 1}}',
    '{"iteration": 5, "avg": null, "pass_at": [1, 2]}',
]
BROKEN = [
    "[1, 2]",
    "17",
    "{",
    "null",
    '{"avg": {}}',
    '{"iteration": "six"}',
    '{"iteration": ' + "9" * 400 + "}",
    "[" * 9000,
]


def test_damage_is_counted_and_said(tmp_path: Path) -> None:
    append_json(tmp_path / "eval.jsonl", {"iteration": 0, **evaluation(0.3, unusable=0)})
    odd = {"iteration": 6, **evaluation(0.3, unusable=0), "pass_at": 7, "maj_at": "x", "levels": [1], "samples": "9"}
    with (tmp_path / "eval.jsonl").open("ab") as file:
        file.write("\n".join([*DAMAGED, *BROKEN, json.dumps(odd)]).encode() + b'\n\xff\xfe{"iteration": 7')
    plots, notes = plot_heldout(tmp_path)
    assert plots[0].x == (0.0, 6.0)
    assert notes == [
        f"eval.jsonl: {len(BROKEN) + 1} broken lines left out.",
        f"eval.jsonl: {len(DAMAGED)} records left out that hold no accuracy (avg).",
    ]


def test_metrics_of_other_types_are_counted_and_said(tmp_path: Path) -> None:
    rows = [{"iteration": 1, "entropy": 0.5}, {"iteration": 2, "entropy": "low"}, {"iteration": 3, "entropy": True}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"iteration": 4, "entr')
    plots, notes = plot_run(tmp_path)
    assert plots[0].series[0].y == (0.5, None, None)
    assert notes == [
        "metrics.jsonl: 1 broken line left out.",
        "metrics.jsonl: 2 values left out that are no number (first: entropy).",
    ]
    assert len(read_json_lines(tmp_path / "metrics.jsonl")) == 3


def test_scan_json_lines_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert scan_json_lines(path) == ([], 0)
    path.write_bytes(b'{"a": 1}\n\n  \n[1]\n{"b": "\xe2\x80\xa8"}\r\n{"c": ')
    assert scan_json_lines(path) == ([{"a": 1}, {"b": "\u2028"}], 2)


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval.jsonl"])
def test_report_on_a_damaged_run_never_fails(trained_run: Path, tmp_path: Path, name: str, capsys: Any) -> None:
    """A file cut in half, cut within its last line, of zeros, of lists, or empty still gives a page."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run, ignore=shutil.ignore_patterns("checkpoints", "*.safetensors"))
    whole = (run / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-3], b"\x00" * 50, whole.replace(b"{", b"["), b""):
        (run / name).write_bytes(damaged)
        assert main(["report", str(run)]) == 0
        assert "Traceback" not in capsys.readouterr().err


def test_long_runs_are_pooled_and_reruns_count_once(tmp_path: Path) -> None:
    lines = [{"iteration": i, "reward_mean": i} for i in range(1000)] + [{"iteration": 999, "reward_mean": 5.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    plot = plot_run(tmp_path)[0][0]
    assert len(plot.x) == 334 and plot.series[0].y[0] == 1.0 and plot.series[0].y[-1] == 5.0
    assert plot.note.startswith("each point is the mean of 3 iterations")


def test_share_of_refuses_what_is_none() -> None:
    assert read_share({"value": 0.5, "low": 0.5 + 1e-12, "high": 1}) == (0.5, 0.5, 1.0)
    for value in (None, 0.5, {}, {"value": 0.5, "low": 0.6, "high": 1}, {"value": 2, "low": 0, "high": 3}):
        assert read_share(value) is None


def test_groups_count_is_the_metric_of_that_name() -> None:
    assert GROUPS in METRICS


def test_reach_of_a_mean_by_hand() -> None:
    """Groups of equal size: the interval of the mean of group means, t s / √m with three degrees of freedom."""
    means = np.array([0.0, 0.25, 0.5, 1.0])
    point, n = np.array([0, 0, 0, 0, 1]), np.full(5, 8.0)
    reach = mean_reach(point, n, np.append(8 * means, 4.0), window=0.0, points=3)
    assert reach[0] == pytest.approx(3.182446 * np.std(means, ddof=1) / 2, rel=1e-6)
    assert np.isnan(reach[1:]).all()  # one group, and none


def test_bands_of_reward_and_correctness_cover(tmp_path: Path) -> None:
    """Simulation: over many runs of one rate per group, the band holds the true mean in about 95 of 100 points."""
    rng = np.random.default_rng(11)
    hits = []
    for _ in range(300):
        rate = rng.beta(2, 2, 40)
        n = rng.integers(2, 9, 40).astype(float)
        total = rng.binomial(n.astype(int), rate).astype(float)
        reach = mean_reach(np.zeros(40, dtype=np.int64), n, total, window=0.0, points=1)[0]
        hits.append(abs(total.sum() / n.sum() - 0.5) <= reach)
    assert 0.91 <= np.mean(hits) <= 0.985


def test_report_of_a_run_has_bands_on_reward_and_correctness(trained_run: Path, tmp_path: Path) -> None:
    assert main(["report", str(trained_run), "-o", str(tmp_path / "a.html")]) == 0
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    for title in ("Correct completions", "Mean outcome reward"):
        plot = next(plot for plot in data["curves"] if plot["title"] == title)
        (series,) = plot["series"]
        assert "95 %" in plot["note"] and len(series["low"]) == 16
        for value, low, high in zip(plot["extra"]["smooth"][0], series["low"], series["high"], strict=True):
            assert 0 <= low <= value <= high <= 1 and high - low < 0.6
