"""Claims about training: every run can be made, figures and checks follow from records, two are run on the tiny model.

Oracles: records with a known answer, the sources' own numbers, the logs of the tiny model's runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onedial.evidence.catalog import get_claim, list_claims
from onedial.evidence.claim import Claim, Setup
from onedial.evidence.claims import length_bias
from onedial.evidence.reproduction import reproduce
from run_records import record
from train_tasks import Early

TRAINED = [name for name in list_claims() if get_claim(name).trains]
Records = dict[str, dict[str, Any]]


def trial_of(claim: Claim) -> Any:
    import importlib

    return importlib.import_module(f"onedial.evidence.claims.{claim.name.replace('-', '_')}").TRIAL


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", TRAINED)
def test_every_run_of_a_claim_can_be_made(name: str, quick: bool, tmp_path: Path) -> None:
    """Oracle: the checks of `Run` and of the rows; arms of a seed differ in their folders."""
    claim, setup = get_claim(name), Setup(work=tmp_path, quick=quick)
    trial = trial_of(claim)
    units = trial.list_units(setup)
    runs = [trial.open_run(setup, name, unit)[0] for unit in units]
    assert len({run.out for run in runs}) == len(runs) == len(trial.cells) * (1 if quick else len(claim.seeds))
    assert all(run.max_generated_tokens > 0 or not run.algorithm.generates for run in runs)
    assert 0 < claim.minutes <= (60 if name != "adaptive-sampler" else 120) and len(claim.seeds) >= 3


def records_of(claim: Claim, end: Callable[[str, int], float], **series: Callable[[str], list[float]]) -> Records:
    """Records of all arms and seeds; `end` gives the last accuracy, `series` lists of a metric, of eight iterations."""
    trial, found = trial_of(claim), {}
    for seed in claim.seeds:
        for arm in trial.cells:
            made = record(arm, seed, [0.1, 0.1 + (end(arm, seed) - 0.1) / 2, end(arm, seed)], [0, 400, 800])
            made["series"] |= {"tokens_generated": [100.0] * 8, "rollouts_generated": [10.0] * 8, "time_s": [1.0] * 8}
            made["series"] |= {key: values(arm) for key, values in series.items()}
            for point in made["curve"]:
                shares = {str(2**n): 0.5 for n in range(7)}
                point |= {"pass_at": dict(shares), "maj_at": dict(shares), "levels": {"add2": point["avg"]}}
            found[f"{arm}-s{seed}"] = made
    return found


def held(claim: Claim, records: Records) -> list[bool | None]:
    figures = claim.figures(records)
    assert json.loads(json.dumps(figures, allow_nan=False)) is not None
    return [check.held for check in claim.checks(figures)]


@pytest.mark.parametrize("name", TRAINED)
def test_arms_that_are_all_the_same_prove_no_gain(name: str) -> None:
    """Oracle: equal runs with a little noise by seed: no check that wants a difference of accuracies holds."""
    claim = get_claim(name)
    records = records_of(claim, lambda arm, seed: 0.6 + 0.01 * ((seed * 7 + len(arm)) % 3))
    figures = claim.figures(records)
    assert not [check for check in claim.checks(figures) if check.held and ("higher" in check.statement)]


def test_dial_holds_where_division_ends_higher() -> None:
    claim, ends = get_claim("dial"), {"alpha-1": 0.8, "alpha-0": 0.6, "alpha-0.5": 0.7, "alpha-2": 0.9}
    assert held(claim, records_of(claim, lambda arm, seed: ends[arm] + 0.005 * seed * len(arm) % 0.01)) == [True] * 4
    assert held(claim, records_of(claim, lambda arm, seed: 1 - ends[arm])) == [False] * 4


def test_two_rollouts_by_its_ratio() -> None:
    claim = get_claim("two-rollouts")
    assert held(claim, records_of(claim, lambda arm, seed: 0.8 if "sixteen" in arm else 0.78)) == [True] * 4
    assert held(claim, records_of(claim, lambda arm, seed: 0.8 if "sixteen" in arm else 0.7)) == [False] * 4


def test_dynamic_sampling_counts_steps_rollouts_and_seconds() -> None:
    """The refilled run gets there in a third of the steps, with as many rollouts and seconds."""
    claim = get_claim("dynamic-sampling")
    records = records_of(claim, lambda arm, seed: 0.8)
    for made in records.values():
        if made["arm"] == "refilled":
            for point in made["curve"]:
                point["iteration"] /= 3
                point["rollouts"] *= 1.2
                point["seconds"] *= 1.1
    figures = claim.figures(records)
    assert figures["ratio_to_that"]["steps"][0] == pytest.approx(1 / 3)
    assert figures["ratio_to_that"]["rollouts"][0] == pytest.approx(1.2)
    assert [check.held for check in claim.checks(figures)] == [True, False, False]


def test_clip_higher_by_entropy_and_probability() -> None:
    claim = get_claim("clip-higher")
    entropy = {"symmetric": [2, 1, 0.5, 0.2, 0.1, 0.1, 0.1, 0.1], "higher": [2, 1, 0.8, 0.6, 0.5, 0.4, 0.4, 0.4]}
    made = records_of(
        claim,
        lambda arm, seed: 0.8 + 0.1 * (arm == "higher") + 0.001 * seed * len(arm),
        entropy=lambda arm: [float(value) for value in entropy[arm]],
        clip_high_share=lambda arm: [0.01] * 8,
        clip_high_probability=lambda arm: [0.15] * 8,
    )
    assert held(claim, made) == [True] * 4
    for one in made.values():
        one["series"]["entropy"] = [0.3] * 8
        one["series"]["clip_high_share"] = [0.0001] * 8
    assert held(claim, made) == [False, True, False, True]


def test_gspo_clip_by_its_ratio() -> None:
    claim = get_claim("gspo-clip")
    shares = {"gspo": 0.15, "grpo": 0.0013}
    made = records_of(
        claim,
        lambda arm, seed: 0.5,
        clip_low_share=lambda arm: [0.0] * 8,
        clip_high_share=lambda arm: [shares[arm]] * 8,
    )
    assert claim.figures(made)["ratio"] == pytest.approx([0.15 / 0.0013] * 3) and held(claim, made) == [True]


def test_maj_pass_by_its_change() -> None:
    claim = get_claim("maj-pass")
    made = records_of(claim, lambda arm, seed: 0.8)
    for seed, one in enumerate(made.values()):
        one["curve"][-1]["maj_at"]["64"] = 0.7 + 0.01 * seed
    assert held(claim, made) == [True, True]
    for one in made.values():
        one["curve"][-1]["pass_at"]["64"] = 0.6
    assert held(claim, made) == [True, False]


def test_the_ladder_compares_each_step_with_the_one_before() -> None:
    claim = get_claim("ladder")
    ends = dict(zip(trial_of(claim).cells, (0.30, 0.36, 0.38, 0.41, 0.40, 0.50), strict=True))
    assert held(claim, records_of(claim, lambda arm, seed: ends[arm] + 0.0001 * seed * len(arm))) == [
        True, True, True, False, True,
    ]  # fmt: skip


def test_warmup_dpo_by_rollouts_and_accuracy() -> None:
    claim = get_claim("warmup-dpo")
    made = records_of(claim, lambda arm, seed: 0.8)
    assert held(claim, made) == [False, True, True], "as many rollouts as GRPO all the way"
    for one in made.values():
        if one["arm"] != "grpo":
            one["series"]["rollouts_generated"] = [5.0] * 8
    assert held(claim, made) == [True, True, True]


def test_vapo_ladder_looks_for_the_largest_drop() -> None:
    claim = get_claim("vapo-ladder")

    def end(arm: str, seed: int) -> float:
        return {"whole": 0.6, "no-value-pretraining": 0.1}.get(arm, 0.5) + 0.002 * seed * (len(arm) % 3)

    assert held(claim, records_of(claim, end)) == [True] * 3


def test_token_weights_are_those_of_the_lesson() -> None:
    """Oracle: the table of the source: 0.05 and 0.005 under GRPO; the same for both answers under the other two."""
    weights = length_bias.measure_token_weights()["weight_of_a_token"]
    assert weights["grpo"] == pytest.approx([0.05, 0.005])
    assert weights["dapo"][0] == weights["dapo"][1] == pytest.approx(0.5 * 2 / 110)
    assert weights["dr-grpo"] == pytest.approx([0.5, 0.5])


def test_growth_of_wrong_answers_by_hand() -> None:
    claim = get_claim("length-bias")
    lengths = {"grpo": [10.0, 10, 12, 14, 16, 18, 30, 30], "dr-grpo": [10.0, 10, 10, 10, 10, 10, 20, 20]}
    made = records_of(
        claim, lambda arm, seed: 0.5 + 0.01 * (seed * len(arm) % 3), length_wrong_mean=lengths.__getitem__
    )
    measured = {length_bias.WEIGHTS: length_bias.measure_token_weights(), **made}
    figures = claim.figures(measured)
    assert figures["growth_of_wrong_answers"] == {"grpo": [3.0] * 3, "dr-grpo": [2.0] * 3}
    assert [check.held for check in claim.checks(figures)] == [True, True, True]


def test_adaptive_sampler_compares_with_the_best_uniform_arm() -> None:
    """Oracle: straight lines from 0.1 to 0.8: the adaptive arm needs 100 tokens for what `two` needs 250 for and the
    others 800, so the best uniform arm takes 2.5 times as many at every target."""
    claim, ends = get_claim("adaptive-sampler"), {"adaptive": 100, "two": 250}
    made = records_of(claim, lambda arm, seed: 0.8)
    for one in made.values():
        last = ends.get(one["arm"], 800)
        for point, tokens in zip(one["curve"], (0, last / 2, last), strict=True):
            point["tokens"] = tokens
        one["series"]["tokens_all_correct"] = [10.0] * 8
    figures = claim.figures(made)
    assert set(figures["best_uniform"].values()) == {"two"} and figures["seeds"] == 5
    assert [figures[name] for name in ("early", "middle", "late")] == pytest.approx([2.5] * 3)
    assert figures["silent_token_share"]["adaptive"] == pytest.approx(0.1)
    assert [check.held for check in claim.checks(figures)] == [True] * 3
    for one in made.values():
        if one["arm"] == "adaptive":
            one["curve"][-1]["avg"] = 0.5  # it never gets to the late target: 1.5 times its tokens
    figures = claim.figures(made)
    assert figures["late"] == pytest.approx((250 * 0.9) / 150, rel=0.01)
    assert [check.held for check in claim.checks(figures)][:2] == [False, False]


# --- the same steps on the tiny model ----------------------------------------------------------------------------


def tiny(setup: Setup, name: str) -> dict[str, Any]:
    return reproduce(get_claim(name), setup)


@pytest.fixture
def setup(tiny_model: Path, tmp_path: Path) -> Setup:
    return Setup(work=tmp_path, quick=True, model=str(tiny_model), threads=1, task=Early())


def test_gspo_clip_runs_and_is_not_trained_twice(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    result = tiny(setup, "gspo-clip")
    assert set(result["measured"]) == {"gspo-s0", "grpo-s0"} and result["seeds"] == []
    assert set(result["figures"]["clipped_share"]) == {"gspo", "grpo"}
    monkeypatch.setattr("onedial.evidence.paired_runs.train", lambda *args, **options: pytest.fail("trained again"))
    again = tiny(setup, "gspo-clip")
    assert again["figures"] == result["figures"]
    for unit in (setup.locate_folder("gspo-clip")).glob("*-s0.json"):
        unit.unlink()
    assert tiny(setup, "gspo-clip")["figures"] == result["figures"], "the runs themselves are kept, too"


def test_warmup_dpo_joins_two_phases(setup: Setup) -> None:
    """Oracle: the curve of the second phase begins at the tokens that the first has cost, and adds none."""
    result = tiny(setup, "warmup-dpo")
    made = result["measured"]["warm-up-then-dpo-s0"]
    tokens = [point["tokens"] for point in made["curve"]]
    assert tokens[0] == 0 and tokens[-1] == tokens[-2] == sum(made["series"]["tokens_generated"]) > 0
    assert made["curve"][-1]["iteration"] == len(made["series"]["time_s"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRAINED if name not in ("gspo-clip", "warmup-dpo")])
def test_the_quick_version_runs_on_the_tiny_model(setup: Setup, name: str) -> None:
    task = replace(setup, task=Early())
    result = tiny(task, name)
    claim = get_claim(name)
    assert claim.checks(result["figures"]) and not result["missing"]
