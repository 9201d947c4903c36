"""Silent groups: how many a table of solve rates predicts, and how many a real run had."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from onedial.core.maths.dispersion import expected_sigma, expected_silent_share, unbiased_powers
from onedial.evidence.claim import Check, Claim, Json, NotAtHand, Setup, check_range

SIZES = (4, 8, 16, 32, 64)
BIG_MATH = (0.59, 0.44, 0.32, 0.23, 0.17)  # arXiv:2607.00152
EXTREME = 0.1  # a solve rate below it, or above 1 − it
FILES = {
    "big-math": ("big_math_rl_verified.parquet", "the hub's open-r1/Big-Math-RL-Verified-Processed as one file"),
    "deepscaler": ("deepscaler_solve_rate128.jsonl", "uscnlp-lime/verl (AdaRFT)"),
    "one-shot-rlvr": ("dsr_sub_acc8_by_epoch.jsonl", "ypwang61/One-Shot-RLVR"),
}


def _find(setup: Setup, unit: str) -> Path:
    name, origin = FILES[unit]
    path = (setup.data or Path(".")) / name
    if setup.data is None or not path.is_file():
        raise NotAtHand(f"needs --data FOLDER with {name} ({origin})")
    return path


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _read_rates(setup: Setup, unit: str) -> np.ndarray:
    path = _find(setup, unit)
    if path.suffix == ".parquet":
        import polars as pl

        rates = pl.read_parquet(path, columns=["llama8b_solve_rate"]).to_series().drop_nulls()
        return np.asarray(rates.to_numpy(), dtype=np.float64)
    return np.array([json.loads(line)["solve_rate"] for line in _read_lines(path)])


def measure_table(rates: np.ndarray) -> Json:
    """Returns the silent share at each group size, and the weight of extreme prompts under three laws.

    The weights are σ² = p(1−p), its root, and E[σ̂] of groups of eight; "extreme" are rates below 0.1 or above 0.9.
    """
    extreme = (rates < EXTREME) | (rates > 1 - EXTREME)
    laws = {
        "variance": rates * (1 - rates),
        "sigma": np.sqrt(rates * (1 - rates)),
        "sigma_at_8": expected_sigma(rates, 8),
    }
    return {
        "prompts": len(rates),
        "never_right": float((rates == 0).mean()),
        "always_right": float((rates == 1).mean()),
        "silent": dict(zip(map(str, SIZES), expected_silent_share(rates, np.array(SIZES)).tolist(), strict=True)),
        "extreme_weight": {name: float(law[extreme].sum() / law.sum()) for name, law in laws.items()},
    }


def measure_run(counts: np.ndarray, size: int = 8) -> Json:
    """Returns observed and expected silent shares of each epoch of a run.

    counts: (prompts, epochs), correct answers of `size`. Expected is the mean over prompts of the unbiased estimate of
    p^G + q^G from the two neighboring epochs, and what the mean solve rate of all prompts would make expect.
    """
    middle = counts[:, 1:-1]
    observed = ((middle == 0) | (middle == size)).mean(axis=0)
    around = counts[:, :-2] + counts[:, 2:]
    right, wrong = unbiased_powers(around, 2 * size, size)
    rate = (around / (2 * size)).mean(axis=0)
    return {
        "observed": observed.tolist(),
        "expected": (right + wrong).mean(axis=0).tolist(),
        "expected_of_mean": (rate**size + (1 - rate) ** size).tolist(),
        "all_right": (middle == size).mean(axis=0).tolist(),
    }


def _measure(setup: Setup, unit: str) -> Json:
    if unit != "one-shot-rlvr":
        return measure_table(_read_rates(setup, unit))
    series = [json.loads(line)["acc_per_epoch_of_8"] for line in _read_lines(_find(setup, unit))]
    epochs = min(map(len, series))
    return measure_run(np.array([values[:epochs] for values in series]) * 8)


def _figures(measured: Mapping[str, Json]) -> Json:
    figures: Json = {name: table for name, table in measured.items() if name != "one-shot-rlvr"}
    run = measured.get("one-shot-rlvr")
    if run is not None:
        observed, expected = np.array(run["observed"]), np.array(run["expected"])
        residual, spread = ((observed - expected) ** 2).sum(), ((observed - observed.mean()) ** 2).sum()
        figures["one-shot-rlvr"] = {
            "epochs": len(observed),
            "observed": [float(observed[0]), float(observed[-1])],
            "all_right": [run["all_right"][0], run["all_right"][-1]],
            "r_squared": float(1 - residual / spread),
            "largest_error": float(np.abs(observed - expected).max()),
            "expected_of_mean": float(np.mean(run["expected_of_mean"])),
        }
    return figures


def _checks(figures: Json) -> list[Check]:
    return [*_table_checks(figures), *_run_checks(figures.get("one-shot-rlvr", {}))]


def _table_checks(figures: Json) -> list[Check]:
    published, other = figures.get("big-math"), figures.get("deepscaler")
    shares = "Big-Math: silent share 59, 44, 32, 23, 17 % at G = 4 … 64, within a point"
    weights = "Big-Math: weight of extreme prompts 13.9 % under σ², 24.7 % under σ, within half a point"
    checks = [Check(shares, "not measured", None), Check(weights, "not measured", None)]
    if published is not None:
        got, extreme = list(published["silent"].values()), published["extreme_weight"]
        near = all(abs(a - b) <= 0.01 for a, b in zip(got, BIG_MATH, strict=True))
        both = abs(extreme["variance"] - 0.139) <= 0.005 and abs(extreme["sigma"] - 0.247) <= 0.005
        checks = [Check(shares, _percents(got), near), Check(weights, _percents(list(extreme.values())[:2]), both)]
    weight = other["extreme_weight"] if other else None
    rise = None if weight is None else weight["sigma"] / weight["variance"]
    checks.append(
        check_range("another table (DeepScaleR): a fifth or more is silent at every G up to 64", _least(other), 0.2, 1)
    )
    statement = "another table: dividing by σ raises the weight of extreme prompts as on Big-Math (1.78-fold ± 0.2)"
    return [*checks, check_range(statement, rise, 1.58, 1.98, "{:.2f}-fold")]


def _least(table: Json | None) -> float | None:
    return None if table is None else min(table["silent"].values())


def _run_checks(run: Json) -> list[Check]:
    all_right = run.get("all_right", (None, None))
    return [
        check_range("along a real run: expected against observed share, R² ≥ 0.99", run.get("r_squared"), 0.99, 1),
        check_range("along a real run: never more than two points apart", run.get("largest_error"), 0, 0.02, "{:.3f}"),
        check_range("along a real run: all-correct groups climb beyond 40 %", all_right[1], 0.4, 1, "{:.2f}"),
    ]


def _percents(shares: Sequence[float]) -> str:
    return ", ".join(f"{100 * share:.1f}" for share in shares) + " %"


CLAIM = Claim(
    name="silent-rates",
    claim="Silent groups follow E[p^G + q^G] over the solve rates of prompts: 59 to 17 % of Big-Math at G = 4 to 64; "
    "dividing by σ moves weight to extreme prompts, and all-correct groups take over as a run goes on",
    source="arXiv:2607.00152, tables on Big-Math; DAPO (arXiv:2503.14476), Fig. 3b",
    trains=False,
    minutes=0.1,
    units=lambda setup: tuple(FILES),
    measure=_measure,
    figures=_figures,
    checks=_checks,
    uses=("data",),
)
