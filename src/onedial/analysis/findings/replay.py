"""What each algorithm would weigh: the same groups, replayed under every row of the table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onedial.analysis.findings.difficulty import UNJUDGED
from onedial.analysis.findings.evidence import Evidence
from onedial.analysis.findings.finding import Finding, Plot, Series, Table, Value, percent, withheld
from onedial.analysis.findings.intervals import bootstrap
from onedial.analysis.findings.silence import SHOWN, blind
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.maths import dispersion
from onedial.core.maths.mixing import posterior, smoothed

Array = NDArray[np.float64]

BINS = 10
LABELS = tuple(f"{10 * i}–{10 * i + 10}" for i in range(BINS))


class Cells(NamedTuple):
    """The cells of an algorithm row that decide a group's coefficient."""

    dial: float
    leave_one_out: bool = False
    ddof: int = 0


def coefficient(k: Array, n: Array, row: Cells) -> Array:
    """The factor before (mean score of right − mean score of wrong) in a group's gradient: σ̂^(2−α), 0 if silent.

    `leave_one_out` multiplies by n/(n−1); `ddof` 1 divides by the sample σ̂ instead, a factor ((n−1)/n)^(α/2).
    """
    sigma = dispersion.group_sigma(k, n)
    value = np.where(sigma > 0, np.where(sigma > 0, sigma, 1.0) ** (2.0 - row.dial), 0.0)
    value = value * (n / (n - 1.0) if row.leave_one_out else 1.0)
    return np.asarray(value * ((n - 1.0) / n) ** (row.dial * row.ddof / 2))


def algorithm_weights(evidence: Evidence) -> Finding:
    """Share of the total weight by difficulty under each algorithm row; value: GRPO's share on hard prompts."""
    name, title = "algorithm_weights", "What each algorithm would weigh"
    definition = (
        "Counterfactual replay: each group's coefficient σ̂^(2−α) (times n/(n−1) with a leave-one-out baseline), "
        "summed by the prompt's estimated solve rate, as a share of the total. The figure is the share that α = 1 "
        "puts on prompts solved less than 20 % of the time."
    )
    why = "The dial α, not only the data, chooses which prompts steer the policy: one log can be read either way."
    reason = blind(evidence) or ("" if evidence.judged else UNJUDGED)
    if not reason and not int((evidence.shared.get_column("kind") == "mixed").sum()):
        reason = "no group is mixed: every algorithm weighs every group 0"
    if reason:
        return withheld(name, title, "share", reason, definition=definition, why=why)
    table = _with_difficulty(evidence)
    k, n = (table.get_column(column).cast(pl.Float64).to_numpy() for column in ("c", "n"))
    bins, prompt = table.get_column("bin").to_numpy(), table.get_column("prompt").to_numpy()
    grpo = coefficient(k, n, Cells(1.0))
    if not grpo.any():  # rewards differ within groups, verdicts do not
        reason = "no group holds both right and wrong answers: its rewards differ in degree only"
        return withheld(name, title, "share", reason, definition=definition, why=why)
    rows = {label: coefficient(k, n, cells) for label, cells in replay_rows().items()}
    shares = {label: np.bincount(bins, weights=w, minlength=BINS) / w.sum() for label, w in rows.items()}
    groups = np.bincount(bins, minlength=BINS) / len(bins)
    columns = [np.bincount(prompt, weights=grpo * (bins == i)) for i in range(BINS)]
    per_bin = np.stack(columns, axis=1).astype(np.float64)
    low, high = bootstrap(per_bin, lambda total: total / total.sum(axis=1, keepdims=True), replicates=400)
    hard = bootstrap(per_bin, lambda total: np.asarray(total[:, :2].sum(axis=1) / total.sum(axis=1)), replicates=400)
    value = float(np.bincount(bins, weights=grpo, minlength=BINS)[:2].sum() / grpo.sum())
    plain = coefficient(k, n, Cells(0.0))
    flat = float(np.bincount(bins, weights=plain, minlength=BINS)[:2].sum() / plain.sum())
    ids = table.get_column("prompt_id").to_numpy()
    members = tuple(tuple(dict.fromkeys(map(str, ids[bins == i][:2000])))[:SHOWN] for i in range(BINS))
    plot = Plot(
        "dial",
        "Weight by difficulty: turn the dial",
        "estimated solve rate of the prompt, per cent",
        "share of the total weight",
        LABELS,
        (
            Series("weight", tuple(map(float, np.bincount(bins, weights=grpo, minlength=BINS) / grpo.sum())), "plain"),
            Series("groups", tuple(map(float, groups)), "ghost"),
        ),
        members=members,
        note="outlined: share of all groups in the bin, silent ones included",
        extra=_levels(k, n, bins),
    )
    body: tuple[tuple[Value, ...], ...] = tuple((label, *map(float, share)) for label, share in shares.items())
    spread: tuple[tuple[Value, ...], ...] = ()
    if not np.isnan(low).any():
        spread = (("α = 1, low", *map(float, low)), ("α = 1, high", *map(float, high)))
    return Finding(
        name=name,
        title=title,
        value=value,
        unit="share",
        interval=None if np.isnan(hard[0]).any() or value == 0.0 else (float(hard[0][()]), float(hard[1][()])),
        headline=f"Prompts solved under 20 % of the time get {percent(value)} of GRPO's weight (α = 1), "
        f"{percent(flat)} of Dr. GRPO's (α = 0).",
        definition=definition,
        why=why,
        what_to_do="Choose α for the prompts you want to move: larger α lifts hard and easy prompts over the middle. "
        "Learning rate must be tuned again, since the total weight changes too.",
        method="bootstrap over prompts; difficulty is the posterior mean of the prompt's solve rate",
        importance=0.33,
        plots=(plot,),
        tables=(Table("Share of weight by solve rate", ("row", *LABELS), body + spread, ("", *["share"] * BINS)),),
    )


def replay_rows() -> dict[str, Cells]:
    """Distinct group coefficients in the algorithm table: label (names of the rows) → cells.

    Rows whose baseline is not the group's (none, or a function) have no such coefficient and are left out.
    """
    names: dict[Cells, list[str]] = {}
    for row in ALGORITHMS.values():
        if row.baseline in ("group_mean", "leave_one_out") and row.scale_over == "group":
            key = Cells(row.dial, row.baseline == "leave_one_out", row.ddof if row.dial else 0)
            names.setdefault(key, []).append(row.name)
    names.setdefault(Cells(2.0), []).append("α = 2 (classes weigh the same)")
    return {", ".join(labels): cells for cells, labels in sorted(names.items())}


def _with_difficulty(evidence: Evidence) -> pl.DataFrame:
    """Shared groups with the number and the difficulty bin of their prompt."""
    cells, number = evidence.cells()
    prior = smoothed(cells)
    mean = posterior(cells, prior) @ prior.points
    difficulty = np.minimum((mean[number] * BINS).astype(np.int64), BINS - 1)
    prompts = evidence.counts.select("prompt_id").with_columns(
        pl.Series("bin", difficulty), pl.Series("prompt", np.arange(len(number)))
    )
    return evidence.shared.select("prompt_id", "n", "c").join(prompts, on="prompt_id").sort("prompt", "n", "c")


def _levels(k: Array, n: Array, bins: NDArray[np.int64]) -> dict[str, list[object]]:
    """σ̂ to three digits and how many groups of each bin have it: enough to weigh by any α."""
    sigma = np.round(dispersion.group_sigma(k, n), 3)
    values, where = np.unique(sigma[sigma > 0], return_inverse=True)
    counts = np.zeros((BINS, len(values)), dtype=np.int64)
    np.add.at(counts, (bins[sigma > 0], where.reshape(-1)), 1)
    return {"sigma": [float(v) for v in values], "counts": [[int(c) for c in row] for row in counts]}
