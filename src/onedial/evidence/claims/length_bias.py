"""Length bias: how much the tokens of each answer weigh, and whether wrong answers grow under GRPO but not under Dr.
GRPO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onedial.core.algorithm_table import ALGORITHMS
from onedial.evidence.arm_summary import plain_difference, summarize
from onedial.evidence.claim import Check, Claim, Json, Setup, check_range
from onedial.evidence.paired_statistics import final_accuracy, index_seeds, list_arms, pair_difference, show_interval
from onedial.evidence.trained import Trial, make_claim

TRIAL = Trial(
    {"grpo": {"row": "naive_grpo"}, "dr-grpo": {"row": "dr_grpo"}},
    tokens=60_000,
    settings={"max_new_tokens": 48, "eval_every": 4},
)
WEIGHTS = "token-weights"
LENGTHS = (10, 100)


def measure_token_weights() -> Json:
    """Returns what one token of two answers weighs in the loss at |A| = ½, by the aggregates of the three algorithms.

    The answers have 10 and 100 tokens; the step consists of the two. Dr. GRPO as in the lesson, a sum over tokens.
    """
    import torch

    from onedial.core.batch import Batch, Counts, compute_offsets
    from onedial.core.maths.aggregate import token_weights

    lengths = torch.tensor(LENGTHS)
    mask = torch.ones(2, dtype=torch.bool)
    total = int(lengths.sum())
    batch = Batch(
        torch.zeros(1, dtype=torch.long), torch.tensor([0, 1]), torch.zeros(total, dtype=torch.long),
        compute_offsets(lengths), torch.zeros(2, dtype=torch.long), ("one",),
        {"rollout_mask": mask, "group_tokens": torch.tensor([total, total])},
    )  # fmt: skip
    counts = Counts(tokens=total, sequences=2, groups=1)
    found = {}
    for name, aggregate in (("grpo", "sequence_mean"), ("dapo", "token_mean"), ("dr-grpo", "sequence_sum")):
        weights = token_weights(replace(ALGORITHMS["naive_grpo"], aggregate=aggregate), batch, counts)
        # per answer, as the lesson's table has it: without the division by the number of answers
        found[name] = [float(0.5 * 2 * weights[0]), float(0.5 * 2 * weights[-1])]
    return {"lengths": list(LENGTHS), "weight_of_a_token": found}


def _figures(records: list[Json]) -> Json:
    growth = {}
    for arm in list_arms(records):
        growth[arm] = [_growth(record) for record in index_seeds(records, arm).values()]
    accuracy = plain_difference(pair_difference(records, "grpo", "dr-grpo", final_accuracy))
    return {**summarize(records), "growth_of_wrong_answers": growth, "accuracy": accuracy}


def _growth(record: Json) -> float | None:
    """Mean length of wrong answers in the last quarter of the iterations over that in the first quarter."""
    lengths = [value for value in record["series"]["length_wrong_mean"] if value is not None]
    quarter = len(lengths) // 4
    return None if quarter == 0 else sum(lengths[-quarter:]) / sum(lengths[:quarter])


def _checks(figures: Json) -> list[Check]:
    weight = figures.get("weight_of_a_token")
    grpo, constant = (None, None) if weight is None else (weight["grpo"], weight["dr-grpo"])
    table = "a token of 10 weighs 0.05 under GRPO, one of 100 weighs 0.005; under Dr. GRPO both the same"
    checks = [
        Check(table, "not measured", None)
        if grpo is None or constant is None
        else Check(table, f"{grpo[0]:.3g} and {grpo[1]:.3g}; {constant[0]:.3g} and {constant[1]:.3g}",
                   abs(grpo[0] - 0.05) < 1e-6 and abs(grpo[1] - 0.005) < 1e-7 and constant[0] == constant[1])
    ]  # fmt: skip
    growth, accuracy = figures["growth_of_wrong_answers"], figures["accuracy"]
    ratios = [a / b for a, b in zip(growth["grpo"], growth["dr-grpo"], strict=True) if a is not None and b]
    mean = sum(ratios) / len(ratios) if ratios else None
    level = accuracy["low"] is not None and accuracy["low"] <= 0 <= accuracy["high"]
    return [
        *checks,
        check_range("wrong answers grow at least 1.2 times as much under GRPO", mean, 1.2, 1e9, "{:.2f}"),
        Check("the accuracies are not told apart", show_interval(accuracy), level),
    ]


def _with_weights(trained: Claim) -> Claim:
    """The claim about runs with one more unit before them, which trains nothing."""

    def measure(setup: Setup, unit: str) -> Json:
        return measure_token_weights() if unit == WEIGHTS else trained.measure(setup, unit)

    def figures(measured: Mapping[str, Json]) -> Json:
        runs = {name: unit for name, unit in measured.items() if name != WEIGHTS}
        weights = measured.get(WEIGHTS, {}).get("weight_of_a_token")
        return {"weight_of_a_token": weights, **trained.figures(runs)}

    return replace(
        trained, units=lambda setup: [WEIGHTS, *trained.units(setup)], measure=measure, figures=figures, checks=_checks
    )


CLAIM = _with_weights(
    make_claim(
        "length-bias",
        "Dividing by an answer's own length weighs tokens of long answers less, and lets wrong answers grow; Dr. GRPO "
        "does not, at equal accuracy",
        "Dr. GRPO (arXiv:2503.20783), Fig. 5; the table of a lesson on it",
        TRIAL,
        _figures,
        _checks,
    )
)
