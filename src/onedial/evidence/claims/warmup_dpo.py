"""GRPO as a warm-up, then DPO on the pairs of its rollouts, compared with GRPO throughout at equal compute."""

from __future__ import annotations

import shutil
from dataclasses import replace

from onedial.evidence.arm_summary import plain_difference, summarize
from onedial.evidence.arms import MOST_ITERATIONS
from onedial.evidence.claim import Check, Claim, Json, Setup
from onedial.evidence.finished_work import read_record, write_record
from onedial.evidence.paired_statistics import final_accuracy, pair_difference, show_interval
from onedial.evidence.trained import QUICK_TOKENS, Trial, make_claim

TOKENS = 24_000
TRIAL = Trial({"grpo": {"row": "naive_grpo"}, "warm-up-then-dpo": {"row": "naive_grpo"}}, tokens=TOKENS)
DPO = {"row": "dpo", "preference_beta": 0.5}
FULL_DPO = {"iterations": 20, "prompts_per_iteration": 16, "lr": 1e-5, "eval_every": 0}
QUICK_DPO = {"iterations": 2, "prompts_per_iteration": 4, "lr": 1e-5, "eval_every": 0}
WARMED = "warm-up-then-dpo"


def _train_both_phases(setup: Setup, unit: str) -> Json:
    """Warm-up for half of the tokens, then DPO on its pairs; the record joins both, with the cost of both."""
    from onedial.core.settings_file import make_run, merge
    from onedial.evidence.paired_runs import CURVES, RECORD, read_curves, train_to_end
    from onedial.training.trainer.live_view import open_view
    from onedial.training.trainer.past_rollouts import find_newest_model

    seed = int(unit.rpartition("-s")[2])
    base = TRIAL.base(setup) | {"seed": seed}
    folder = setup.locate_folder("warmup-dpo") / "runs"
    path = folder / f"dpo-s{seed}" / RECORD
    finished = read_record(path, CURVES, setup.note)
    if finished is not None:
        return finished
    half = QUICK_TOKENS if setup.quick else TOKENS // 2
    ends = {"max_generated_tokens": half, "iterations": MOST_ITERATIONS, "out": str(folder / f"warm-s{seed}")}
    warm = make_run(merge(base, ends, {"algorithm": {"row": "naive_grpo"}}))
    train_to_end(warm, open_view(warm, f"warmup-dpo: warm-up, seed {seed}"))
    own = {"algorithm": DPO, "max_generated_tokens": 0, **(QUICK_DPO if setup.quick else FULL_DPO)}
    places = {"data": str(warm.directory), "model": find_newest_model(warm.directory), "out": str(path.parent)}
    dpo = make_run(merge(base, own, places))
    train_to_end(dpo, open_view(dpo, f"warmup-dpo: DPO, seed {seed}"))
    record = {"arm": WARMED, "seed": seed, **_join(read_curves(warm.directory), read_curves(dpo.directory))}
    write_record(path, record)
    for run in (warm, dpo):
        shutil.rmtree(run.directory / "checkpoints", ignore_errors=True)
    return record


def _join(first: Json, second: Json) -> Json:
    """The curves of two phases as one: the second begins at what the first has cost."""
    spent = first["curve"][-1]
    moved = [
        {**point, **{key: point[key] + spent[key] for key in ("iteration", "tokens", "rollouts", "seconds")}}
        for point in second["curve"]
    ]
    series = {key: first["series"][key] + second["series"][key] for key in first["series"]}
    return {"curve": first["curve"] + moved, "series": series}


def _figures(records: list[Json]) -> Json:
    return {**summarize(records), "pair": plain_difference(pair_difference(records, WARMED, "grpo", final_accuracy))}


def _checks(figures: Json) -> list[Check]:
    pair, rollouts = figures["pair"], {name: sum(arm["rollouts"]) for name, arm in figures["arms"].items()}
    share = rollouts[WARMED] / rollouts["grpo"]
    low = pair["low"]
    got = show_interval(pair)
    return [
        Check("with at most 55 % of the rollouts", f"{100 * share:.0f} %", share <= 0.55),
        Check("ends within two points of GRPO, or above", got, pair["value"] >= -0.02),
        Check("its whole interval lies above −2 points", got, low is not None and low >= -0.02),
    ]


def _with_phases(trained: Claim) -> Claim:
    """The claim in which the second arm is trained in two phases."""

    def measure(setup: Setup, unit: str) -> Json:
        return _train_both_phases(setup, unit) if unit.startswith(WARMED) else trained.measure(setup, unit)

    return replace(trained, measure=measure)


CLAIM = _with_phases(
    make_claim(
        "warmup-dpo",
        "A short GRPO run followed by DPO on its pairs nearly reaches GRPO all the way, for half the rollouts",
        "follow-up work on 2-GRPO (arXiv:2510.00977)",
        TRIAL,
        _figures,
        _checks,
    )
)
