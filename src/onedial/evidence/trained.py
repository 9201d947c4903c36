"""Claims about training: arms on a small lesson, with equal numbers of generated tokens and the same seeds.

The lesson is that of `make train`: SmolLM2-135M learns one-digit sums, one-digit products and two-digit sums. A unit of
work is one run; a run that was stopped continues from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onedial.evidence.claim import Check, Claim, Json, Setup
from onedial.evidence.paired_statistics import show_interval

if TYPE_CHECKING:
    from onedial.core.settings import Run
    from onedial.evidence.arms import Arm

LESSON: Mapping[str, Any] = {
    "task": {"name": "arithmetic", "levels": "add1,mul1,add2"},
    "prompts_per_iteration": 8,
    "group_size": 16,
    "max_new_tokens": 12,
    "max_rows": 256,
    "lr": 2e-5,
    "eval_prompts": 60,
    "eval_samples": 4,
    "eval_every": 5,
    "checkpoint_every": 10,
}
SEEDS = (0, 1, 2)
QUICK = {"eval_prompts": 6, "eval_samples": 2, "prompts_per_iteration": 4, "group_size": 8, "eval_every": 0}
QUICK_TOKENS = 600
TOKENS_PER_S, START_S = 250.0, 30.0  # of a run on two quiet cores: what `minutes` is made of


@dataclass(frozen=True)
class Trial:
    """The runs of a claim: arms by name with their settings, and the settings that all of them share.

    settings        in addition to those of the lesson
    per_arm         settings of an arm in addition to its row, such as another budget
    quick_settings  in addition to those of QUICK, for claims that need more of something
    """

    cells: Mapping[str, Mapping[str, Any]]
    tokens: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    per_arm: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    quick_settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = SEEDS

    @property
    def minutes(self) -> float:
        """What all runs cost on two quiet cores, roughly."""
        spent = [
            self.per_arm.get(arm, {}).get("max_generated_tokens", self.tokens) or self.tokens for arm in self.cells
        ]
        return float(round(len(self.seeds) * sum(each / TOKENS_PER_S + START_S for each in spent) / 60))

    def plain(self) -> Json:
        """Returns the trial as JSON values."""
        shared = {**LESSON, **self.settings, "max_generated_tokens": self.tokens}
        arms = {arm: {"algorithm": dict(cells), **self.per_arm.get(arm, {})} for arm, cells in self.cells.items()}
        return {"lesson": shared, "arms": arms}

    def list_units(self, setup: Setup) -> list[str]:
        """Returns the names of all runs, seed by seed, so that finished runs are complete pairs."""
        seeds = self.seeds[:1] if setup.quick else self.seeds
        return [f"{arm}-s{seed}" for seed in seeds for arm in self.cells]

    def base(self, setup: Setup) -> Json:
        """Returns the settings that all runs share under a setup."""
        shared = {**LESSON, **self.settings, "max_generated_tokens": self.tokens}
        if setup.quick:
            shared |= {**QUICK, "max_generated_tokens": QUICK_TOKENS, **self.quick_settings}
        if setup.task != "arithmetic":
            shared["task"] = {"name": setup.task, **setup.task_options}
        return shared | {"model": setup.model, "threads": setup.threads}

    def open_run(self, setup: Setup, claim: str, unit: str) -> tuple[Run, Arm]:
        """Returns the run of a unit of work, and its arm."""
        from onedial.evidence.arms import Arm, make_arm_run

        name, _, seed = unit.rpartition("-s")
        own = dict(self.per_arm.get(name, {}))
        if setup.quick and own.get("max_generated_tokens"):
            own["max_generated_tokens"] = QUICK_TOKENS
        if setup.quick and "iterations" in own:
            own["iterations"] = 2
        arm = Arm(name, {"algorithm": dict(self.cells[name]), **own})
        folder = setup.locate_folder(claim) / "runs"
        return make_arm_run(arm, int(seed), self.base(setup), folder), arm


def make_claim(
    name: str,
    claim: str,
    source: str,
    trial: Trial,
    figures: Callable[[list[Json]], Json],
    checks: Callable[[Json], list[Check]],
) -> Claim:
    """Returns the claim of a trial; `figures` takes the records of all runs."""

    def measure(setup: Setup, unit: str) -> Json:
        return train_unit(trial, setup, name, unit)

    return Claim(
        name=name,
        claim=claim,
        source=source,
        trains=True,
        minutes=trial.minutes,
        units=trial.list_units,
        measure=measure,
        figures=lambda measured: figures(list(measured.values())),
        checks=checks,
        seeds=trial.seeds,
        settings=trial.plain(),
    )


def train_unit(trial: Trial, setup: Setup, claim: str, unit: str) -> Json:
    """Trains one run and returns its record without its settings, which the claim records once for all."""
    from onedial.evidence.paired_runs import train_arm

    run, arm = trial.open_run(setup, claim, unit)
    record = train_arm(run, arm, title=f"{claim}: {unit}", plain=setup.quick or None)
    return {key: value for key, value in record.items() if key != "settings"}


def check_difference(statement: str, found: Json, *, least: float = 0.0) -> Check:
    """Returns the check that a paired difference of accuracies exceeds `least` with its whole interval."""
    return Check(statement, show_interval(found), found["low"] is not None and found["low"] > least)


def find_difference(figures: Json, arm: str) -> Json:
    """Returns the difference of an arm from the first among the figures of `arm_summary.summarize`."""
    return next(found for found in figures["differences"] if found["arm"] == arm)
