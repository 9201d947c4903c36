"""The table of allocators: which prompts are sampled in an iteration, and how often. One row each, with its paper.

The options of a row are its cells: `replace(ALLOCATORS["adaptive"], rho=0.2)`, `--allocator.rho 0.2`, or `rho = 0.2` in
the table `[allocator]` of a TOML file. An option that the row does not use is refused.
`onedial.training.budget.open_allocator` makes the object that a run uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from onedial.core.errors import ConfigError, suggest
from onedial.core.field_rules import check_fields, get_default, setting
from onedial.core.user_code import is_object

LABELS = ("name", "paper", "rule", "uses")
BELIEF = ("drift", "prior", "prior_tries")


@dataclass(frozen=True)
class AllocatorRow:
    """How the rollouts of an iteration are distributed over prompts. `uses` names the options that apply to the row.

    A row with a belief predicts the solve rate of every prompt and provides what algorithm rows with
    baseline='posterior' need.
    """

    name: str
    paper: str
    rule: str
    uses: tuple[str, ...] = ()
    candidates: int = setting(
        0,
        "prompts looked at per iteration; 0: 3 × prompts_per_iteration (adaptive); else a whole dataset up to 4,096, "
        "or 128 × prompts_per_iteration of a stream",
        at_least=0,
    )
    audit: float = setting(
        0.0, "share of the rollouts for prompts drawn uniformly, on which the belief is checked", at_least=0, at_most=1
    )
    least: int = setting(2, "fewest rollouts of a prompt that gets any", at_least=1)
    most: int = setting(32, "most rollouts of a prompt in an iteration; 0: group_size", at_least=0)
    rounds: int = setting(1, "rounds of requests per iteration; each sees the results before it", at_least=1)
    round_size: int = setting(8, "rollouts of a prompt per round", at_least=1)
    exit: str = setting(
        "balanced",
        "a prompt is done with kept/2 of each kind (balanced), or one correct (positive)",
        choices=("balanced", "positive"),
    )
    kept: int = setting(4, "rollouts of a prompt that train, half of them correct if possible", at_least=2)
    target: float = setting(0.5, "solve rate to be nearest to", above=0, below=1)
    exploration: float = setting(0.05, "added to the sampling weight of every prompt", at_least=0, at_most=1)
    rho: float = setting(
        0.1,
        "ρ: signal of one rollout's gradient over its noise; large ρ makes groups small",
        above=0,
        note="a measured one is best; 0.1 is a guess for short answers",
    )
    explore: float = setting(
        0.25,
        "share of the belief's variance drawn at random before choosing (1: Thompson); the rest is averaged over",
        at_least=0,
        at_most=1,
    )
    unbiased: bool = setting(
        False, "draw prompts with known probability and weigh them by its inverse: the gradient of uniform sampling"
    )
    floor: float = setting(
        0.1, "unbiased: least probability of a prompt, as a share of uniform sampling's", above=0, at_most=1
    )
    drift: float = setting(0.02, "share of the belief forgotten per iteration", at_least=0, below=1)
    prior: str = setting("", "prior knowledge: a run's directory, or a table of prompts and solve rates")
    prior_tries: float = setting(4.0, "most rollouts that the prior of a prompt counts for", above=0)

    def __post_init__(self) -> None:
        for name in list_option_names(AllocatorRow):
            if name not in self.uses and getattr(self, name) != get_default(AllocatorRow, name):
                has = f"it has {', '.join(self.uses)}" if self.uses else "it has none"
                raise ConfigError(f"allocator {self.name!r} has no option {name!r}{suggest(name, self.uses)}; {has}")
        check_fields(self, "allocator.")
        if self.least > self.most > 0:
            raise ConfigError(f"allocator.least={self.least}: must not exceed allocator.most={self.most}")
        if self.kept % 2:
            raise ConfigError(f"allocator.kept={self.kept}: must be even, for as many correct as wrong rollouts")
        if self.unbiased and self.rounds > 1:
            raise ConfigError(
                f"allocator.unbiased=True: prompts are drawn once with known probability, but rounds={self.rounds} "
                "chooses again after results; set allocator.rounds=1"
            )

    @property
    def is_own(self) -> bool:
        """Whether it is a user's, "file.py:name"."""
        return is_object(self.name)

    @property
    def believes(self) -> bool:
        """Whether it predicts solve rates."""
        return "drift" in self.uses

    def for_groups(self, group_size: int) -> AllocatorRow:
        """The row with `most` filled in for a run's group size."""
        return replace(self, most=self.most or max(self.least, group_size))

    def options(self) -> dict[str, Any]:
        """The options of the row with their values, for TOML and JSON."""
        return {name: getattr(self, name) for name in self.uses}


def list_option_names(row: type[AllocatorRow] | AllocatorRow) -> tuple[str, ...]:
    """The names of all options of the table."""
    return tuple(field.name for field in fields(row) if field.name not in LABELS)


ALLOCATORS: dict[str, AllocatorRow] = {
    row.name: row
    for row in (
        AllocatorRow(
            "row",
            "as the algorithm's row says",
            "dynamic where it refills, adaptive with baseline='posterior', fixed elsewhere",
        ),
        AllocatorRow(
            "fixed", "Shao et al. 2024, GRPO, arXiv:2402.03300", "the next prompts in turn, group_size rollouts of each"
        ),
        AllocatorRow(
            "dynamic",
            "Yu et al. 2025, DAPO, arXiv:2503.14476, §3.2",
            "further prompts until prompts_per_iteration groups are mixed",
        ),
        AllocatorRow(
            "two",
            "Wu et al. 2025, It Takes Two, arXiv:2510.00977",
            "two rollouts of each prompt, of as many more prompts",
        ),
        AllocatorRow(
            "sequential",
            "Xiong et al. 2025, Reinforce-Ada, arXiv:2510.04996",
            "rounds of rollouts until a prompt has both kinds; a balanced part trains",
            ("rounds", "round_size", "exit", "kept"),
            rounds=4,
        ),
        AllocatorRow(
            "mopps",
            "Qu et al. 2025, MoPPS, arXiv:2507.04632",
            "the prompts whose drawn solve rate (Thompson) is nearest to the target",
            ("candidates", "audit", "target", *BELIEF),
        ),
        AllocatorRow(
            "vip",
            "VIP, arXiv:2602.01601, RLOO form",
            "the next prompts in turn; n − 1 ∝ √(pq) rollouts, which minimizes Σ pq/(n − 1) (Neyman)",
            ("least", "most", *BELIEF),
        ),
        AllocatorRow(
            "spo",
            "Xu and Ding 2025, SPO, arXiv:2509.13232",
            "one rollout of each prompt, prompts drawn by √(p(1 − p)) + exploration",
            ("candidates", "audit", "exploration", *BELIEF),
        ),
        AllocatorRow(
            "paper",
            "arXiv:2607.00152: fidelity needs G ≥ 1/(8εpq)",
            "the next prompts in turn; rollouts ∝ 1/(pq)",
            ("least", "most", *BELIEF),
        ),
        AllocatorRow(
            "adaptive",
            "this project: most squared cosine with ∇J per token, docs/allocators.md",
            "prompts and rollouts where signal over noise is worth its tokens, by a partly drawn belief",
            ("candidates", "audit", "least", "most", "rounds", "rho", "explore", "unbiased", "floor", *BELIEF),
            audit=0.1,
            most=0,
            drift=0.1,
        ),
    )
}


def get_allocator(name: str) -> AllocatorRow:
    """The row of that name, or a row without options for an allocator of one's own, "file.py:name".

    Raises ConfigError with the nearest name when there is none.
    """
    if is_object(name):
        return AllocatorRow(name, "your own", "as its author says")
    if name not in ALLOCATORS:
        raise ConfigError(
            f"allocator {name!r} is not in the table{suggest(name, ALLOCATORS)}; rows: {', '.join(ALLOCATORS)} "
            "(onedial allocators prints them), or one of your own: file.py:name"
        )
    return ALLOCATORS[name]


def change_allocator(row: AllocatorRow, options: Mapping[str, Any]) -> AllocatorRow:
    """The row with some options changed. Raises ConfigError for an option that is unknown, that the row does not use,
    or whose value is wrong."""
    for name in options:
        if name not in row.uses:
            has = f"it has {', '.join(row.uses)}" if row.uses else "it has none"
            raise ConfigError(
                f"unknown option allocator.{name}{suggest(name, row.uses)}; of allocator {row.name!r}: {has} "
                f"(onedial allocators {row.name} shows them)"
            )
    return replace(row, **options)
