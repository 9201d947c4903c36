"""Checks of `advantages`. Oracles are values by hand, identities and invariances, never another trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from onedial.integrations.conformance.check import ConformanceCheck, Measured, distance, match
from onedial.integrations.conformance.judged import Judged

SAMPLE = "sample standard deviation (ddof 1)"
LEAVE_ONE_OUT = "baseline is the mean of the others"
GRADED = (0.1, 0.9, 0.4, 0.3, 0.7, 0.2)
ROUNDING = 1e-5
NEGLIGIBLE = 0.01  # beside advantages of about 1
EPS_ROOM = 2e-3  # an eps of at most 1e-4 beside a standard deviation of a few tenths


def _equal_groups(groups: Sequence[Sequence[float]]) -> tuple[list[float], list[int]]:
    return [r for group in groups for r in group], [g for g, group in enumerate(groups) for _ in group]


def _unanimous(trainer: Judged) -> Measured:
    got = trainer.advantages(*_equal_groups([[1.0] * 4, [0.0] * 4]))
    return Measured(float(got.abs().max()), ROUNDING)


def _unanimous_fractions(trainer: Judged) -> Measured:
    values = [step / 20 for step in range(1, 20)]
    largest = [
        float(trainer.advantages(*_equal_groups([[value] * size for value in values])).abs().max())
        for size in (2, 3, 5, 7, 8, 12, 16, 24, 32)
    ]
    return Measured(max(largest, key=lambda value: math.inf if math.isnan(value) else value), NEGLIGIBLE)


def _group_of_one(trainer: Judged) -> Measured:
    rewards = torch.tensor([1.0, 0.5, 0.25], dtype=torch.double)
    got = trainer.advantages(rewards.tolist(), [0, 1, 2])
    return match(
        got, {"": torch.zeros_like(rewards)}, {"keeps its reward, as if the baseline were 0": rewards},
        tolerance=ROUNDING,
    )  # fmt: skip


def _std(trainer: Judged) -> Measured:
    """By hand: σ̂ of [1,0,0,1] is 1/2, of [1,0,0,0] √3/4, of [1,½,½,0] √⅛; with ddof 1 times √(4/3)."""
    got = trainer.advantages(*_equal_groups([[1, 0, 0, 1], [1, 0, 0, 0], [1, 0.5, 0.5, 0]]))
    centered = torch.tensor([0.5, -0.5, -0.5, 0.5, 0.75, -0.25, -0.25, -0.25, 0.5, 0, 0, -0.5], dtype=torch.double)
    sigma = torch.tensor([0.5, math.sqrt(3) / 4, math.sqrt(1 / 8)], dtype=torch.double).repeat_interleave(4)
    conventions = {
        SAMPLE: centered / sigma * math.sqrt(3 / 4),
        "not divided by a standard deviation (Dr. GRPO)": centered,
        f"not divided, {LEAVE_ONE_OUT} (RLOO)": centered * 4 / 3,
    }
    return match(got, {"": centered / sigma}, conventions, tolerance=EPS_ROOM)


def _centered(trainer: Judged) -> Measured:
    got = trainer.advantages(*_equal_groups([[1, 0, 0, 1], [1, 0, 0, 0]]), scale="none")
    wanted = torch.tensor([0.5, -0.5, -0.5, 0.5, 0.75, -0.25, -0.25, -0.25], dtype=torch.double)
    return match(got, {"": wanted}, {LEAVE_ONE_OUT: wanted * 4 / 3}, tolerance=ROUNDING)


def _identity(trainer: Judged) -> Measured:
    """(1/G) Σ A s = σ̂^(2−α)·(s̄₊ − s̄₋) for k = 1 … 7 of 8 correct, with random scores s of 5 dimensions."""
    size, make = 8, torch.Generator().manual_seed(0)
    groups = [[1.0] * k + [0.0] * (size - k) for k in range(1, size)]
    advantages = trainer.advantages(*_equal_groups(groups)).view(len(groups), size)
    scores = torch.randn(len(groups), size, 5, generator=make, dtype=torch.double)
    got = (advantages[:, :, None] * scores).mean(1)
    slopes = torch.stack([s[:k].mean(0) - s[k:].mean(0) for k, s in enumerate(scores, 1)])
    sigma = torch.tensor([[math.sqrt(k * (size - k)) / size] for k in range(1, size)], dtype=torch.double)
    right = {f"α = {alpha}": sigma ** (2 - alpha) * slopes for alpha in (1, 0, 2)}
    conventions = {
        f"α = 1, times √((G−1)/G): {SAMPLE}": math.sqrt((size - 1) / size) * right["α = 1"],
        f"α = 0, times G/(G−1): {LEAVE_ONE_OUT}": size / (size - 1) * right["α = 0"],
    }
    return match(got, right, conventions, tolerance=EPS_ROOM)


def _constant(trainer: Judged) -> Measured:
    plain = trainer.advantages(GRADED, [0] * 6)
    return Measured(distance(trainer.advantages([r + 5 for r in GRADED], [0] * 6), plain), 1e-4)


def _multiple(trainer: Judged) -> Measured:
    plain = trainer.advantages(GRADED, [0] * 6)
    got = trainer.advantages([10 * r for r in GRADED], [0] * 6)
    return match(got, {"unchanged": plain, "they grow with the rewards": 10 * plain}, tolerance=EPS_ROOM)


def _negative(trainer: Judged) -> Measured:
    """The share of pairs in the wrong order, and of the best and the worst reward the wrong sign."""
    rewards = [-1.0, -4.0, -2.0, -3.0]
    got = trainer.advantages(rewards, [0] * 4).tolist()
    pairs = [(a, b) for a in range(4) for b in range(4) if rewards[a] > rewards[b]]
    wrong = sum(not got[a] > got[b] for a, b in pairs) + (not got[0] > 0) + (not got[1] < 0)
    return Measured(wrong / (len(pairs) + 2), 0.0)


def _small_spread(trainer: Judged) -> Measured:
    """A of rewards 0 and 0.02 as a share of A of 0 and 1: σ/(σ + eps) of both, 0.02 where nothing divides."""
    small, large = trainer.advantages([0.0, 0.02], [0, 0]), trainer.advantages([0.0, 1.0], [0, 0])

    def share(sigma: float, eps: float) -> torch.Tensor:
        return torch.tensor([(1 + eps / (50 * sigma)) / (1 + eps / sigma)], dtype=torch.double)

    conventions = {
        f"an eps of {eps} beside σ̂ shrinks it": share(sigma, float(eps))
        for eps in ("1e-5", "1e-4", "1e-3")
        for sigma in (0.01, 0.01 * math.sqrt(2))
    }
    right = {"": share(1.0, 0.0), "not divided": torch.tensor([0.02], dtype=torch.double)}
    return match((small / large)[1:], right, conventions, tolerance=1e-3)


def _bounded(trainer: Judged) -> Measured:
    """|A| ≤ √(G−1), which one reward unlike all others reaches: as a share of it, above 1."""
    groups = [[0.0] + [0.95] * 7, [1.0] + [0.0] * 7]
    largest = float(trainer.advantages(*_equal_groups(groups)).abs().max())
    return Measured(max(0.0, largest / math.sqrt(7) - 1) if math.isfinite(largest) else math.nan, 1e-3)


def _ragged(trainer: Judged) -> Measured:
    groups = [[1.0, 0.0, 0.0], [1.0, 0.2, 0.0, 1.0, 0.5], [0.0, 1.0]]
    together = trainer.advantages(*_equal_groups(groups))
    alone = torch.cat([trainer.advantages(group, [0] * len(group)) for group in groups])
    return Measured(distance(together, alone), ROUNDING)


def _reordered(trainer: Judged) -> Measured:
    rewards, groups = _equal_groups([GRADED, GRADED[::-1], [1.0, 0, 0, 0, 1.0, 0]])
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(1))
    shuffled = trainer.advantages([rewards[i] for i in order], [groups[i] for i in order])
    return Measured(distance(shuffled, trainer.advantages(rewards, groups)[order]), ROUNDING)


def _group_names(trainer: Judged) -> Measured:
    rewards, groups = _equal_groups([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    wanted = trainer.advantages(rewards, groups)
    return Measured(
        max(
            distance(trainer.advantages(rewards, [first + group for group in groups]), wanted)
            for first in (2**8, 2**11, 2**24, 2**53)
        ),
        ROUNDING,
    )


def _unscorable(trainer: Judged) -> Measured:
    got = trainer.advantages([1.0, 0.0, math.nan, 0.0, 1.0], [0] * 5)
    rest = trainer.advantages([1.0, 0.0, 0.0, 1.0], [0] * 4)
    wanted = torch.cat([rest[:2], torch.zeros(1, dtype=torch.double), rest[2:]])
    return match(got, {"": wanted}, tolerance=ROUNDING)


def _check(name: str, says: str, measure: object, seen: str = "") -> ConformanceCheck:
    return ConformanceCheck(name, "advantages", says, measure, seen)  # type: ignore[arg-type]


ADVANTAGE_CHECKS = (
    _check("unanimous", "A group of rewards that are all 0 or all 1 has advantages of 0, not NaN", _unanimous),
    _check(
        "unanimous-fractions",
        "Equal fractions (0.05 … 0.95, 2 … 32 rows) too: rounding makes no advantage above 0.01",
        _unanimous_fractions,
        "float32 sums of equal numbers; filters by std == 0 in verl, open-instruct, prime-rl",
    ),
    _check("group-of-one", "A rollout that has nothing to be compared with has advantage 0", _group_of_one),
    _check("std", "A = (r − r̄)/σ̂ with the population's σ̂: ±1 for two right of four", _std),
    _check("centered", "Without the division A = r − r̄", _centered),
    _check("identity", "(1/G) Σ A·∇log π = σ̂^(2−α)·(s̄₊ − s̄₋) for 1 … 7 right of 8", _identity),
    _check("constant", "Adding a constant to all rewards changes nothing", _constant),
    _check("multiple", "Rewards times 10: advantages unchanged, or times 10 if nothing divides", _multiple),
    _check(
        "negative-rewards", "With negative rewards the better one still has more", _negative, "huggingface/trl#5026"
    ),
    _check(
        "small-spread", "Rewards 0 and 0.02 count as much as 0 and 1", _small_spread, "verl-project/verl#6348"
    ),
    _check("bounded", "No |A| exceeds √(G−1), nor of one odd reward among equal ones", _bounded, "NVIDIA-NeMo/RL#3469"),
    _check(
        "ragged", "Groups of 3, 5 and 2 give what each gives alone", _ragged,
        "allenai/open-instruct#1794, THUDM/slime#1415",
    ),
    _check("reordered", "Rows in any order, groups apart: the same advantages", _reordered, "THUDM/slime#1415"),
    _check("group-names", "Group numbers up to 2^53 that float32 or bf16 would merge stay apart", _group_names),
    _check(
        "unscorable", "A reward that is NaN has advantage 0 and leaves the others' baseline", _unscorable,
        "verl-project/verl#5635, verl-project/verl#4417",
    ),
)  # fmt: skip
"""In the order in which they are shown."""
