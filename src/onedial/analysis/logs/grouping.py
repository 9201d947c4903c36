"""From rollouts to groups, in one pass: sizes, extremes, right answers, tokens, and what each group could teach.

A group is silent when the **outcome** reward of its usable rollouts is unanimous: max == min, never std == 0, which
rounding can miss (0.95 eight times has a standard deviation of 1e-16). Timeouts, errors and rollouts without a reward
leave the group before any statistic and are counted. A group with one usable rollout can teach nothing whatever it
got; it is neither silent nor mixed, is counted apart (`kind == "one"`) and stands in no share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from onedial.analysis.logs.schema import Log

Reward = Literal["outcome_reward", "shaped_reward"]
GroupKind = Literal["mixed", "right", "wrong", "other", "one", "empty"]

KINDS: tuple[GroupKind, ...] = ("mixed", "right", "wrong", "other", "one", "empty")
UNUSABLE = ("timeout", "error")
SAMPLE_ROWS = 20_000


@dataclass(frozen=True)
class Scale:
    """Which reward is a right answer and which a wrong one.

    exact  whether `right` decides every rollout (pass@k may be computed); False for graded rewards on an unknown
           scale, where the observed extremes stand in
    rule   how it was decided, in words
    binary every usable reward was seen to be `right` or `wrong`
    """

    right: float | None
    wrong: float | None
    exact: bool
    rule: str
    binary: bool = False


def usable() -> pl.Expr:
    """Whether a rollout's verdict may enter a statistic: judged, and with a finite reward."""
    return ~pl.col("outcome").is_in(UNUSABLE).fill_null(False)


def reward_of(on: Reward = "outcome_reward") -> pl.Expr:
    """The reward of usable rollouts as f64; null for timeouts, errors, NaN and infinite rewards."""
    value = pl.col(on)
    return pl.when(usable() & value.is_finite()).then(value)


def scale(log: Log, on: Reward = "outcome_reward") -> Scale:
    """Which reward counts as right. Rules, first that applies:

    1. the format defines it (`log.right`);
    2. two observed values a < b: b is right, a is wrong (0/1, −1/1, 0/10);
    3. one observed value: 1 is right, 0 or less is wrong, any other is neither;
    4. all rewards in [0, 1]: 1.0 is right, 0.0 is wrong;
    5. any other graded reward: the observed extremes stand in, and nothing that needs each rollout's
       correctness (pass@k) is computed.
    """
    if on == "outcome_reward" and log.right is not None:
        wrong = log.wrong if log.wrong is not None else 0.0
        return Scale(log.right, wrong, True, f"the format defines {log.right:g} as right")
    return scale_of(observed(log.frame, on))


def scale_of(values: Sequence[float]) -> Scale:
    """The scale by the distinct rewards seen (rules 2 to 5 of `scale`), as `observed` gives them."""
    if not values:
        return Scale(None, None, False, "no finite reward was logged")
    low, high = values[0], values[-1]
    if len(values) == 2 and not (low >= 0 and 0 < high < 1):
        rule = f"two reward values were seen: {high:g} is taken as right, {low:g} as wrong"
        return Scale(high, low, True, rule, binary=True)
    if len(values) == 1:
        if high == 1:
            return Scale(1.0, 0.0, True, "every reward is 1, taken as right", binary=True)
        if high <= 0:
            return Scale(1.0, high, True, f"every reward is {high:g}, taken as wrong", binary=True)
        return Scale(None, None, False, f"every reward is {high:g}, which says neither right nor wrong")
    if low >= 0 and high <= 1:
        return Scale(1.0, 0.0, True, "rewards are graded within [0, 1]: exactly 1 is taken as right, 0 as wrong")
    return Scale(
        high,
        low,
        False,
        f"rewards are graded from {low:g} to {high:g}: the highest seen is taken as right, the lowest as wrong",
    )


def observed(frame: pl.LazyFrame, on: Reward) -> list[float]:
    """Distinct finite rewards, ascending: all of them up to two, else lowest, one between, highest."""
    reward = reward_of(on)
    guess = frame.select(reward.alias("r")).head(SAMPLE_ROWS).collect().get_column("r").drop_nulls().unique().sort()
    ends = [float(guess[0]), float(guess[-1])] if len(guess) else []
    found = (
        frame.select(
            reward.min().alias("low"),
            reward.max().alias("high"),
            pl.any_horizontal(reward.is_null(), *(reward == end for end in ends)).not_().sum().alias("between"),
        )
        .collect(engine="streaming")
        .row(0, named=True)
    )
    if found["low"] is None:
        return []
    low, high = float(found["low"]), float(found["high"])
    if ends == [low, high] and not found["between"]:
        return sorted({low, high})
    rest = frame.select(reward.alias("r")).filter((pl.col("r") > low) & (pl.col("r") < high)).head(1).collect()
    return sorted({low, high, *rest.get_column("r").to_list()})


def group_frame(
    log: Log,
    *,
    on: Reward = "outcome_reward",
    marks: Scale | None = None,
    extra: Sequence[pl.Expr] = (),
) -> pl.LazyFrame:
    """One row per group of a rollout log.

    Columns: group_id, prompt_id, size (all rollouts), n (usable), low, high, total (of the reward of usable
    rollouts), c (right ones among the usable; null where rightness is unknown), tokens (completion tokens of all
    rollouts, null when not logged), kind (GroupKind), and whatever `extra` aggregates. Counts and shares of very long
    logs need less: `onedial.analysis.logs.runs.lean_groups`.
    """
    marks = marks or scale(log, on)
    r, c = pl.col("__r"), pl.col("__c")
    aggregates = [pl.len().cast(pl.Int64).alias("size"), r.count().cast(pl.Int64).alias("n")]
    aggregates += [c.sum().cast(pl.Int64).alias("c"), r.min().alias("low"), r.max().alias("high")]
    aggregates.append(r.sum().alias("total"))
    if log.has("correct"):
        aggregates.append(pl.col("correct").count().cast(pl.Int64).alias("judged"))
    if log.has("completion_tokens"):
        aggregates.append(pl.col("completion_tokens").sum().alias("tokens"))
    if log.has("prompt_id"):
        aggregates.append(pl.col("prompt_id").first())
    frame = log.frame.with_columns(__r=usable_reward(log, on), __c=right_of(log, marks, on))
    grouped = frame.group_by("group_id").agg(*aggregates, *extra)
    if not log.has("completion_tokens"):
        grouped = grouped.with_columns(pl.lit(None, dtype=pl.Int64).alias("tokens"))
    return grouped.with_columns(kind_of(log, marks, codes=False).alias("kind")).drop("judged", strict=False)


def extremes(marks: Scale) -> list[pl.Expr]:
    """Lowest, highest and total reward of a group of right and wrong ones, from n and c."""
    n, c = pl.col("n"), pl.col("c")
    right, wrong = pl.lit(marks.right, dtype=pl.Float64), pl.lit(marks.wrong, dtype=pl.Float64)
    some = n > 0
    return [
        pl.when(some).then(pl.when(c == n).then(right).otherwise(wrong)).alias("low"),
        pl.when(some).then(pl.when(c > 0).then(right).otherwise(wrong)).alias("high"),
        (c * right + (n - c) * wrong).alias("total"),
    ]


def usable_reward(log: Log, on: Reward) -> pl.Expr:
    """`reward_of`, without the test for timeouts where the log has no outcomes: a third of the pass."""
    value = pl.col(on)
    return reward_of(on) if log.has("outcome") else pl.when(value.is_finite()).then(value)


def right_of(log: Log, marks: Scale, on: Reward = "outcome_reward") -> pl.Expr:
    """Whether a usable rollout is right: as the log says, else by the scale; null where neither tells."""
    reward = usable_reward(log, on)
    by_scale = (reward >= marks.right) if marks.right is not None else pl.lit(None, dtype=pl.Boolean)
    if log.has("correct") and on == "outcome_reward":
        return pl.when(reward.is_not_null()).then(pl.col("correct").fill_null(by_scale))
    return by_scale


def kind_of(log: Log, marks: Scale, *, codes: bool) -> pl.Expr:
    """GroupKind of a grouped row, or its number in KINDS."""
    n, low, high, c = pl.col("n"), pl.col("low"), pl.col("high"), pl.col("c")
    all_right = low == marks.right if marks.right is not None else pl.lit(False)
    all_wrong = high == marks.wrong if marks.wrong is not None else pl.lit(False)
    if log.has("correct"):
        # a verdict that is null (a graded answer) does not make an answer wrong
        all_right, all_wrong = c == n, (c == 0) & ((pl.col("judged") >= n) | all_wrong)
    name = {kind: pl.lit(KINDS.index(kind), dtype=pl.UInt8) if codes else pl.lit(kind) for kind in KINDS}
    return (
        pl.when(n == 0)
        .then(name["empty"])
        .when(n == 1)
        .then(name["one"])
        .when(high != low)
        .then(name["mixed"])
        .when(all_right)
        .then(name["right"])
        .when(all_wrong)
        .then(name["wrong"])
        .otherwise(name["other"])
    )
