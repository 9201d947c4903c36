"""Claims that look at one batch of a model: the tiny model goes through the same steps, figures are checked by hand.

Oracles: formulas of their own, synthetic groups with a known law.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onedial.evidence.catalog import get_claim
from onedial.evidence.claim import Setup
from onedial.evidence.claims import identity
from onedial.evidence.reproduction import reproduce
from onedial.evidence.statistics import bootstrap_interval, correlate, explained_share
from train_tasks import Early


@pytest.fixture
def setup(tiny_model: Path, tmp_path: Path) -> Setup:
    return Setup(work=tmp_path, quick=True, model=str(tiny_model), threads=1, task=Early())


def test_statistics_by_hand() -> None:
    x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 7.0])
    assert correlate(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert np.isnan(correlate(x, np.ones(3)))
    assert explained_share(y, y) == 1.0 and explained_share(y, np.full(3, y.mean())) == pytest.approx(0.0)
    random = np.random.default_rng(0)
    low, high = bootstrap_interval(lambda column: float(column.mean()), random.normal(size=400))
    assert low < 0 < high and high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)


def test_identity_is_exact_on_the_tiny_model(setup: Setup) -> None:
    figures = reproduce(get_claim("identity"), setup)["figures"]
    assert 2 <= figures["mixed_groups"] <= figures["groups"] == 4
    assert set(figures["largest_error"]) == {"0", "0.5", "1", "2"}
    assert all(error < 1e-5 for error in figures["largest_error"].values())


def test_the_law_of_norms_is_found_again() -> None:
    """Oracle: norms that obey ‖δ‖² = 4 and V = 50 exactly, at several group sizes."""
    correct, size = np.array([1, 2, 3, 4, 5, 6, 7, 1, 8]), np.array([8, 8, 8, 8, 8, 8, 8, 16, 16])
    sigma = np.sqrt(correct * (size - correct)) / size
    law = identity.fit_norm_law(sigma, size.astype(float), np.sqrt(4 + 50 / (size * sigma**2)))
    assert law["signal"] == pytest.approx(4) and law["noise"] == pytest.approx(50)
    assert law["rho"] == pytest.approx(0.08) and law["r_squared"] == pytest.approx(1)


def test_correlations_follow_from_the_norms() -> None:
    """Oracle: ‖s̄₊ − s̄₋‖ = 1 for all groups, so ‖g‖ is σ̂ (α = 1), σ̂² (α = 0), 1 (α = 2); numpy's own correlation."""
    unit = {
        "correct": [0, 1, 2, 4, 8], "size": [8] * 5, "mixed": [0, 1, 1, 1, 0], "difference_norm": [1.0] * 3,
        "clipped_norm": [1.0] * 3, "clipped_share": 0.5, "errors": {name: [1e-6] for name in ("0", "0.5", "1", "2")},
    }  # fmt: skip
    found = identity._figures({"seed-0": unit})["pearson"]
    sigma = np.array([7**0.5, 12**0.5, 4.0]) / 8
    assert found["1"]["mixed"]["value"] == pytest.approx(1) and found["1"]["all"]["value"] == pytest.approx(1)
    assert found["0"]["mixed"]["value"] == pytest.approx(np.corrcoef(sigma, sigma**2)[0, 1])
    assert found["2"]["mixed"]["value"] is None, "it does not vary"
    assert found["1"]["mixed_clipped"]["value"] == pytest.approx(np.corrcoef(sigma, 1 / sigma)[0, 1])


def test_baseline_variance_on_the_tiny_model(setup: Setup) -> None:
    """Oracle: the group's mean shrinks the gradient of the others' mean by (G − 1)/G, so its variance by the square."""
    figures = reproduce(get_claim("baseline-variance"), setup)["figures"]
    assert figures["prompts"] == 2 and set(figures["variance"]) == {"none", "leave_one_out", "group", "critic"}
    ratio = figures["variance"]["group"] / figures["variance"]["leave_one_out"]
    assert ratio == pytest.approx((7 / 8) ** 2, rel=1e-3)


def test_a_baseline_lowers_the_variance_only_where_its_interval_says_so() -> None:
    """Oracle: variances made by hand, half with a baseline; and the same with noise that drowns the difference."""
    random = np.random.default_rng(0)
    none = random.uniform(1, 2, 24)
    names = ("none", "leave_one_out", "group", "critic")
    other = (none / 2).tolist()
    noisy = (none * random.uniform(0.1, 1.9, 24)).tolist()
    variances = (none.tolist(), other, [(7 / 8) ** 2 * value for value in other], noisy)
    unit = {
        "correct_share": [0.5] * 24,
        "explained_variance": 0.1,
        "variance": dict(zip(names, variances, strict=True)),
        "signal": {name: [1.0] * 24 for name in names},
    }
    claim = get_claim("baseline-variance")
    figures = claim.figures({"seed-0": unit})
    assert figures["over_none"]["leave_one_out"]["value"] == pytest.approx(0.5)
    assert [check.held for check in claim.checks(figures)] == [True, True, True, False, False]
