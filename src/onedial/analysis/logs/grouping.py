"""From rollouts to groups: which rewards are right answers, and one table with a row per group.

A group is silent when the **outcome** reward of its usable rollouts is unanimous: max == min, never std == 0, which
rounding can miss (0.95 eight times has a standard deviation of 1e-16). Timeouts, errors and rollouts without a reward
are removed from the group before any statistic and are counted. A group with fewer than two usable rollouts is neither
silent nor mixed: its kind is "one" or "empty", and it enters no share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from onedial.analysis.logs.schema import Log

Reward = Literal["outcome_reward", "shaped_reward"]
GroupKind = Literal["mixed", "right", "wrong", "other", "one", "empty"]

KINDS: tuple[GroupKind, ...] = ("mixed", "right", "wrong", "other", "one", "empty")
SHARED_KINDS: tuple[GroupKind, ...] = ("mixed", "right", "wrong", "other")  # two or more usable rollouts
SILENT_KINDS: tuple[GroupKind, ...] = ("right", "wrong", "other")
UNUSABLE = ("timeout", "error")
SAMPLE_ROWS = 20_000


@dataclass(frozen=True)
class Scale:
    """Which reward is a right answer and which a wrong one.

    exact  whether `right` decides every rollout (pass@k may be computed); False for graded rewards on an unknown
           scale, where the observed extremes are used instead
    rule   how it was decided, in words
    """

    right: float | None
    wrong: float | None
    exact: bool
    rule: str


def usable() -> pl.Expr:
    """Whether a rollout's verdict may enter a statistic: judged, and with a finite reward."""
    return ~pl.col("outcome").is_in(UNUSABLE).fill_null(False)


def finite_reward(on: Reward = "outcome_reward") -> pl.Expr:
    """The reward of usable rollouts as f64; null for timeouts, errors, NaN and infinite rewards."""
    value = pl.col(on)
    return pl.when(usable() & value.is_finite()).then(value)


def find_scale(log: Log, on: Reward = "outcome_reward") -> Scale:
    """Which reward counts as right. The first rule that applies decides:

    1. the format defines it (`log.right`);
    2. two observed values a < b: b is right, a is wrong (0/1, −1/1, 0/10);
    3. one observed value: 1 is right, 0 or less is wrong, any other is neither;
    4. all rewards in [0, 1]: 1.0 is right, 0.0 is wrong;
    5. any other graded reward: the observed extremes are used instead, and nothing that needs the correctness of each
       rollout (pass@k) is computed.
    """
    if on == "outcome_reward" and log.right is not None:
        wrong = log.wrong if log.wrong is not None else 0.0
        return Scale(log.right, wrong, True, f"the format defines {log.right:g} as right")
    return infer_scale(collect_rewards(log.frame, on))


def infer_scale(values: Sequence[float]) -> Scale:
    """The scale from the distinct rewards (rules 2 to 5 of `find_scale`), as `collect_rewards` returns them."""
    if not values:
        return Scale(None, None, False, "no finite reward was logged")
    low, high = values[0], values[-1]
    if len(values) == 2 and not (low >= 0 and 0 < high < 1):
        rule = f"two reward values were seen: {high:g} is taken as right, {low:g} as wrong"
        return Scale(high, low, True, rule)
    if len(values) == 1:
        if high == 1:
            return Scale(1.0, 0.0, True, "every reward is 1, taken as right")
        if high <= 0:
            return Scale(1.0, high, True, f"every reward is {high:g}, taken as wrong")
        return Scale(None, None, False, f"every reward is {high:g}, which says neither right nor wrong")
    if low >= 0 and high <= 1:
        return Scale(1.0, 0.0, True, "rewards are graded within [0, 1]: exactly 1 is taken as right, 0 as wrong")
    return Scale(
        high,
        low,
        False,
        f"rewards are graded from {low:g} to {high:g}: the highest seen is taken as right, the lowest as wrong",
    )


def collect_rewards(frame: pl.LazyFrame, on: Reward) -> list[float]:
    """Distinct finite rewards, ascending: all of them if there are at most two, else the lowest, one between, and the
    highest."""
    reward = finite_reward(on)
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


def group_rollouts(log: Log, *, marks: Scale | None = None, extra: Mapping[str, pl.Expr] | None = None) -> pl.LazyFrame:
    """One row per group of a rollout log.

    Columns: group_id, prompt_id (where the log has one), size (all rollouts), n (usable), low, high, total (of the
    outcome reward of usable rollouts), c (right ones among the usable; 0 where rightness is unknown), tokens
    (completion tokens of all rollouts, null when not logged), kind (GroupKind), and the aggregates `extra` by name.
    Rows without a group form one row whose group_id is null.
    """
    marks = marks or find_scale(log)
    r, c = pl.col("__r"), pl.col("__c")
    aggregates = [
        pl.len().cast(pl.Int64).alias("size"),
        r.count().cast(pl.Int64).alias("n"),
        c.sum().cast(pl.Int64).alias("c"),
        r.min().alias("low"),
        r.max().alias("high"),
        r.sum().alias("total"),
    ]
    if log.has("correct"):
        aggregates.append(pl.col("correct").count().cast(pl.Int64).alias("__judged"))
    if log.has("completion_tokens"):
        aggregates.append(pl.col("completion_tokens").sum().alias("tokens"))
    if log.has("prompt_id"):
        aggregates.append(pl.col("prompt_id").first())
    aggregates += [expr.alias(name) for name, expr in (extra or {}).items()]
    frame = log.frame.with_columns(__r=usable_reward(log), __c=is_right(log, marks))
    grouped = frame.group_by("group_id").agg(*aggregates)
    if not log.has("completion_tokens"):
        grouped = grouped.with_columns(pl.lit(None, dtype=pl.Int64).alias("tokens"))
    return grouped.with_columns(_kind(log, marks).alias("kind")).drop("__judged", strict=False)


def group_with_scale(log: Log, extra: Callable[[Scale], Mapping[str, pl.Expr]]) -> tuple[Scale, pl.DataFrame]:
    """The scale of the outcome rewards, and `group_rollouts` under it, usually in one pass over the log.

    The scale is guessed from the first rows. Grouping shows whether the guess is right for all rows; if not, a separate
    pass finds the scale and the groups are made again. `extra` gives further aggregates.
    """
    if log.right is not None:
        marks = find_scale(log)
        return marks, group_rollouts(log, marks=marks, extra=extra(marks)).collect(engine="streaming")
    seen = collect_rewards(log.frame.head(SAMPLE_ROWS), "outcome_reward")
    guess = infer_scale(seen)
    # by the scale, where `c` counts by the log's own verdicts
    highest = {"__highest": (usable_reward(log) == seen[-1]).sum()} if seen and log.has("correct") else {}
    groups = group_rollouts(log, marks=guess, extra={**extra(guess), **highest}).collect(engine="streaming")
    if _explains(seen, groups, "__highest" if highest else "c"):
        return guess, groups.drop(highest)
    marks = find_scale(log)
    return marks, group_rollouts(log, marks=marks, extra=extra(marks)).collect(engine="streaming")


def _explains(seen: Sequence[float], groups: pl.DataFrame, highest: str) -> bool:
    """Whether `collect_rewards` gives the values `seen` for all rewards of these groups too.

    A reward between two values makes a group's sum larger than its rewards of the highest value (counted in the
    column `highest`) make it.
    """
    if not seen or [groups.get_column("low").min(), groups.get_column("high").max()] != [seen[0], seen[-1]]:
        return False
    low, high = seen[0], seen[-1]
    excess = groups.select(pl.col("total") - low * pl.col("n") - (high - low) * pl.col(highest)).to_series().max()
    return len(seen) != 2 or float(excess or 0.0) < 1e-9 * (high - low)  # type: ignore[arg-type]


def usable_reward(log: Log, on: Reward = "outcome_reward") -> pl.Expr:
    """`finite_reward`, without the test for timeouts where the log has no outcomes, which saves a third of the pass."""
    value = pl.col(on)
    return finite_reward(on) if log.has("outcome") else pl.when(value.is_finite()).then(value)


def is_right(log: Log, marks: Scale, on: Reward = "outcome_reward") -> pl.Expr:
    """Whether a usable rollout is right: as the log says, else by the scale; null if neither decides."""
    reward = usable_reward(log, on)
    by_scale = (reward >= marks.right) if marks.right is not None else pl.lit(None, dtype=pl.Boolean)
    if log.has("correct") and on == "outcome_reward":
        return pl.when(reward.is_not_null()).then(pl.col("correct").fill_null(by_scale))
    return by_scale


def _kind(log: Log, marks: Scale) -> pl.Expr:
    """GroupKind of a grouped row."""
    n, low, high, c = pl.col("n"), pl.col("low"), pl.col("high"), pl.col("c")
    all_right = low == marks.right if marks.right is not None else pl.lit(False)
    all_wrong = high == marks.wrong if marks.wrong is not None else pl.lit(False)
    if log.has("correct"):
        # a verdict that is null (a graded answer) does not make an answer wrong
        all_right, all_wrong = c == n, (c == 0) & ((pl.col("__judged") >= n) | all_wrong)
    named = {kind: pl.lit(kind, dtype=pl.Enum(KINDS)) for kind in KINDS}
    return (
        pl.when(n == 0)
        .then(named["empty"])
        .when(n == 1)
        .then(named["one"])
        .when(high != low)
        .then(named["mixed"])
        .when(all_right)
        .then(named["right"])
        .when(all_wrong)
        .then(named["wrong"])
        .otherwise(named["other"])
    )
