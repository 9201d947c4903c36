"""The figures of `onedial inspect --json`: counts, shares and pass@k of a log, each withheld with a reason where the
log cannot support it.

Definitions
    rollouts        rows of the log (of the chosen split), unusable ones included
    unusable        timeouts, errors and rollouts without a finite reward; they enter no share and no mean
    groups          groups with at least one row; `group_sizes` counts rows per group, unusable ones included
    shares          of the groups with two or more usable rollouts. silent = all outcome rewards equal (max == min):
                    all right, all wrong, or equal but neither ("other")
    groups_of_one   groups with fewer than two usable rollouts: they can teach nothing and stand in no share
    tokens_silent   completion tokens of the silent groups
    pass_at_k       1 − C(n−c, k) / C(n, k) of each group with n ≥ k usable rollouts, averaged over those groups
                    (unbiased; Chen et al. 2021, arXiv:2107.03374, eq. 1)

For a rate table each prompt stands for one group of its n tries, and `expected_silent_share` is what groups of size G
drawn from those tries would show: (C(k, G) + C(n−k, G)) / C(n, G), averaged over prompts with n ≥ G.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from onedial.analysis.findings.intervals import clustered_wilson, wilson
from onedial.analysis.logs.grouping import KINDS, Scale, reward_of, scale
from onedial.analysis.logs.runs import lean_groups, repeated, scale_and_groups
from onedial.analysis.logs.schema import Log

SILENT = ("right", "wrong", "other")
SHARES = ("mixed_share", "silent_share", "silent_right_share", "silent_wrong_share", "silent_other_share")
GROUP_SIZES = (2, 4, 8, 16, 32, 64)
BROKEN_SHOWN = 20
LIKENESS_GROUPS = 100_000  # groups, of whole prompts, by which the likeness of a prompt's groups is measured

Figures = dict[str, Any]


def key_figures(log: Log) -> Figures:
    """All figures of a log as plain JSON values; `withheld` maps each null figure to its reason."""
    figures = _of_rates(log) if log.kind == "rates" else _of_rollouts(log)
    return {
        "format": log.format,
        "kind": log.kind,
        "coverage": log.coverage.to_json(),
        **figures,
        "broken_lines": log.broken_lines,
        "broken": [{"file": b.file, "line": b.line, "reason": b.reason} for b in log.broken[:BROKEN_SHOWN]],
        "files": len(log.files),
    }


def pass_at_k(counts: Iterable[tuple[int, int, int]], k: int) -> float | None:
    """Mean of 1 − C(n−c, k)/C(n, k) over groups; `counts` holds (n, c, number of such groups); None when no n ≥ k."""
    total, groups = 0.0, 0
    for n, c, number in counts:
        if n >= k:
            total += number * (1.0 - math.comb(n - c, k) / math.comb(n, k))
            groups += number
    return total / groups if groups else None


def silent_at(counts: Iterable[tuple[int, int, int]], size: int) -> float | None:
    """Expected silent share of groups of `size` drawn without replacement from n tries with c right."""
    total, prompts = 0.0, 0
    for n, c, number in counts:
        if n >= size:
            total += number * (math.comb(c, size) + math.comb(n - c, size)) / math.comb(n, size)
            prompts += number
    return total / prompts if prompts else None


def _of_rollouts(log: Log) -> Figures:
    withheld: dict[str, str] = {}
    grouped = log.has("group_id") and log.coverage.group_identity != "none"
    marks, groups = scale_and_groups(log) if grouped else (scale(log), None)
    totals = _totals(log) if groups is None else _sums(groups)
    if not totals["rollouts"]:
        return _empty(withheld, "the log holds no rollouts")
    table = None if groups is None else _table(groups.filter(pl.col("group_id").is_not_null()))
    figures: Figures = {
        "rollouts": totals["rollouts"],
        "unusable": totals["unusable"],
        "prompts": totals["prompts"],
        **_group_figures(groups, table, log, withheld),
        "mean_reward": totals["mean"],
        "mean_reward_interval": _mean_interval(table),
        "right_means": marks.rule,
    }
    if totals["mean"] is None:
        withheld["mean_reward"] = "no rollout has a usable reward"
    if log.has("shaped_reward"):
        figures |= _shaped(log, totals, table, withheld)
    figures |= _tokens(log, totals, table, withheld)
    figures["pass_at_k"] = _pass_figures(log, marks, table, withheld)
    return {**figures, "withheld": withheld}


def _sums(groups: pl.DataFrame) -> Figures:
    """What `_totals` says, from the groups."""
    sums = groups.select(pl.col("size", "n", "total").sum()).row(0, named=True)
    have = groups.columns
    shaped_n = int(groups.get_column("shaped_n").sum()) if "shaped_n" in have else 0
    return {
        "rollouts": int(sums["size"]),
        "unusable": int(sums["size"] - sums["n"]),
        "mean": sums["total"] / sums["n"] if sums["n"] else None,
        "shaped_mean": float(groups.get_column("shaped").sum()) / shaped_n if shaped_n else None,
        "shaped_n": shaped_n,
        "tokens": int(groups.get_column("tokens").sum()),
        "blank": int(groups.get_column("blank").sum()) if "blank" in have else 0,
        "prompts": _distinct(groups.get_column("p")) if "p" in have else None,
    }


def _distinct(ids: pl.Series) -> int:
    return len(ids) - ids.null_count() - len(repeated(ids))


def _totals(log: Log) -> Figures:
    """Counts and means of a log whose groups are not known."""
    reward = reward_of()
    exprs = [pl.len().alias("rollouts"), reward.is_null().sum().alias("unusable"), reward.mean().alias("mean")]
    shaped = reward_of("shaped_reward")
    exprs += [shaped.mean().alias("shaped_mean"), shaped.count().alias("shaped_n")]
    exprs += [
        pl.col("completion_tokens").sum().alias("tokens"),
        pl.col("completion_tokens").null_count().alias("blank"),
    ]
    row = log.frame.select(exprs).collect(engine="streaming").row(0, named=True)
    return {**row, "prompts": None}


def _table(groups: pl.DataFrame) -> pl.DataFrame:
    """Groups counted by kind, size, n and c, with token sums and what the interval of the mean needs."""
    total, n = pl.col("total"), pl.col("n")
    return (
        groups.lazy()
        .group_by("kind", "size", "n", "c")
        .agg(
            pl.len().cast(pl.Int64).alias("groups"),
            pl.col("tokens").sum(),
            total.sum().alias("t"),
            (total * total).sum().alias("tt"),
            (total * n).sum().alias("tn"),
        )
        .sort("size", "n", "c", "kind")
        .collect(engine="streaming")
    )


def _count(table: pl.DataFrame, *kinds: str) -> int:
    return int(table.filter(pl.col("kind").is_in(codes(kinds))).get_column("groups").sum())


def codes(kinds: Iterable[str]) -> list[int]:
    """Numbers of the kinds in KINDS, as a lean group frame holds them."""
    return [KINDS.index(kind) for kind in kinds]


def _group_figures(
    groups: pl.DataFrame | None, table: pl.DataFrame | None, log: Log, withheld: dict[str, str]
) -> Figures:
    if groups is None or table is None:
        reason = "the log does not tell which rollouts belong to one group"
        withheld |= dict.fromkeys(("groups", "group_sizes", "groups_of_one", *SHARES), reason)
        return dict.fromkeys(("groups", "group_sizes", "groups_of_one", "groups_in_shares", *SHARES))
    sizes = table.group_by("size").agg(pl.col("groups").sum()).sort("size")
    base = _count(table, "mixed", *SILENT)
    alone = int(groups.filter(pl.col("group_id").is_null()).get_column("size").sum())
    figures: Figures = {
        **({"rollouts_without_group": alone} if alone else {}),
        "groups": int(table.get_column("groups").sum()),
        "group_sizes": {str(size): number for size, number in sizes.iter_rows()},
        "groups_of_one": _count(table, "one", "empty"),
        "groups_in_shares": base,
    }
    reason = ""
    if log.coverage.survivors_only:
        reason = "the log holds only groups that survived filtering, so silent groups cannot be counted"
    elif not base:
        reason = "no group has two or more usable rollouts"
        if log.coverage.group_identity == "inferred from the prompt text":
            reason += " (if the prompt's column holds the answer too, name another with --map prompt=COLUMN)"
    if reason:
        withheld |= dict.fromkeys(SHARES, reason)
        return {**figures, **dict.fromkeys(SHARES)}
    hits = {"mixed_share": ("mixed",), "silent_share": SILENT}
    hits |= {f"silent_{kind}_share": (kind,) for kind in SILENT}
    figures |= {name: _count(table, *kinds) / base for name, kinds in hits.items()}
    figures["share_intervals"] = _intervals(groups, hits)
    return figures


def _intervals(groups: pl.DataFrame, hits: Mapping[str, tuple[str, ...]]) -> dict[str, list[float] | None]:
    """95 % intervals of the shares with prompts as clusters: groups of one prompt resemble each other."""
    sharing = groups.filter(pl.col("group_id").is_not_null() & (pl.col("kind") <= KINDS.index("other")))
    single = {str(kind): pl.col("kind") == code for code, kind in enumerate(KINDS[: KINDS.index("other") + 1])}
    total = {kind: int(sharing.select(mark.sum()).item() or 0) for kind, mark in single.items()}
    if "p" in sharing.columns:
        step = len(sharing) // LIKENESS_GROUPS
        sharing = sharing.filter(pl.col("p").hash(11) % step == 0) if step > 1 else sharing
        each = sharing.group_by("p").agg(*(mark.sum().alias(kind) for kind, mark in single.items()))
    else:
        each = sharing.select(mark.cast(pl.Int64).alias(kind) for kind, mark in single.items())
    each = each.with_columns(of=pl.sum_horizontal(single.keys()), **{n: pl.sum_horizontal(k) for n, k in hits.items()})
    of = each.get_column("of").to_numpy()
    base = sum(total.values())
    found = {
        name: clustered_wilson(each.get_column(name).to_numpy(), of, hits=sum(total[k] for k in kinds), total=base)
        for name, kinds in hits.items()
    }
    return {name: None if interval is None else list(interval) for name, interval in found.items()}


def _mean_interval(table: pl.DataFrame | None) -> list[float] | None:
    """95 % interval of the mean reward with groups as clusters (ratio estimator, linearised)."""
    if table is None or table.is_empty():
        return None
    number = int(table.filter(pl.col("n") > 0).get_column("groups").sum())
    n = table.get_column("n") * table.get_column("groups")
    rollouts, total = int(n.sum()), float(table.get_column("t").sum())
    if number < 2 or not rollouts:
        return None
    mean = total / rollouts
    squares = float((table.get_column("n") ** 2 * table.get_column("groups")).sum())
    spread = (
        float(table.get_column("tt").sum()) - 2 * mean * float(table.get_column("tn").sum()) + mean * mean * squares
    )
    half = 1.959964 * math.sqrt(max(0.0, spread) * number / (number - 1)) / rollouts
    return [mean - half, mean + half]


def _shaped(log: Log, totals: Figures, table: pl.DataFrame | None, withheld: dict[str, str]) -> Figures:
    """Mean, mixed and silent shares by the reward that trained: where it differs from the outcome, shaping decided.

    Trainers may shape only what they train on; then silent groups have no shaped reward, and what is left says
    nothing about all groups.
    """
    names = ("mean_shaped_reward", "on_shaped_reward")
    blank = totals["rollouts"] - totals["unusable"] - totals["shaped_n"]
    if blank > 0:
        withheld |= dict.fromkeys(names, f"{blank:,} usable rollouts have no shaped reward")
        return dict.fromkeys(names)
    figures: Figures = {"mean_shaped_reward": totals["shaped_mean"]}
    if table is None or totals["shaped_mean"] is None or log.coverage.survivors_only:
        return figures
    groups = lean_groups(log, on="shaped_reward")
    by_kind = _table(groups.filter(pl.col("group_id").is_not_null()))
    base = _count(by_kind, "mixed", *SILENT)
    shares = {"mixed_share": ("mixed",), "silent_share": SILENT}
    figures["on_shaped_reward"] = {
        name: _count(by_kind, *kinds) / base if base else None for name, kinds in shares.items()
    }
    return figures


def _tokens(log: Log, totals: Figures, table: pl.DataFrame | None, withheld: dict[str, str]) -> Figures:
    names = ("tokens_generated", "tokens_silent")
    if not log.has("completion_tokens") or totals["blank"] == totals["rollouts"]:
        withheld |= dict.fromkeys(names, log.why_missing("completion_tokens") or "no rollout has a token count")
        return dict.fromkeys(names)
    figures: Figures = {"tokens_generated": int(totals["tokens"]), "tokens_silent": None}
    if totals["blank"]:
        figures["rollouts_without_tokens"] = totals["blank"]
    if log.coverage.survivors_only or table is None:
        withheld["tokens_silent"] = withheld.get("silent_share", "the log does not tell the groups")
    else:
        silent = table.filter(pl.col("kind").is_in(codes(SILENT)))
        figures["tokens_silent"] = int(silent.get_column("tokens").sum())
    return figures


def _pass_figures(log: Log, marks: Scale, table: pl.DataFrame | None, withheld: dict[str, str]) -> Figures | None:
    reason = ""
    if table is None:
        reason = "the log does not tell which rollouts belong to one group"
    elif log.coverage.survivors_only:
        reason = "the log holds only groups that survived filtering, whose solve rates are not the run's"
    elif not marks.exact and not log.has("correct"):
        reason = marks.rule + "; which rollouts are right is not known"
    elif not int(table.get_column("n").sum()):
        reason = "no rollout has a usable reward"
    if table is None or reason:
        withheld["pass_at_k"] = reason
        return None
    counts = list(table.filter(pl.col("n") > 0).select("n", "c", "groups").iter_rows())
    return {str(k): pass_at_k(counts, k) for k in ks_of(n for n, _, _ in counts)}


def ks_of(sizes: Iterable[int]) -> list[int]:
    """1, 2, 4, … up to the largest size, and the size itself where all are equal."""
    found = set(sizes)
    top = max(found, default=0)
    powers = {2**i for i in range(top.bit_length()) if 2**i <= top}
    return sorted(powers | (found if len(found) == 1 else set()))


def _of_rates(log: Log) -> Figures:
    withheld = {
        "tokens_generated": "a table of solve rates holds no lengths",
        "tokens_silent": "a table of solve rates holds no lengths",
        "silent_other_share": "a table of solve rates knows right and wrong only",
    }
    known = log.frame.filter(pl.col("rate").is_not_null())
    table = known.group_by("n", "k", "rate").agg(pl.len().cast(pl.Int64).alias("prompts")).collect(engine="streaming")
    blank = int(log.frame.select(pl.len()).collect(engine="streaming").item()) - int(table.get_column("prompts").sum())
    if table.is_empty():
        return _empty(withheld, "the table holds no rates")
    prompts = int(table.get_column("prompts").sum())
    right = int(table.filter(pl.col("rate") >= 1).get_column("prompts").sum())
    wrong = int(table.filter(pl.col("rate") <= 0).get_column("prompts").sum())
    has_n = table.get_column("n").null_count() == 0
    if not has_n:
        withheld |= dict.fromkeys(
            ("rollouts", "group_sizes", "pass_at_k", "expected_silent_share"),
            "the number of rollouts per rate is not known",
        )
    counts = list(table.select("n", "k", "prompts").iter_rows()) if has_n else []
    sizes = table.group_by("n").agg(pl.col("prompts").sum()).sort("n")
    hits = {
        "mixed_share": prompts - right - wrong,
        "silent_share": right + wrong,
        "silent_right_share": right,
        "silent_wrong_share": wrong,
    }
    return {
        "rollouts": sum(n * number for n, _, number in counts) if has_n else None,
        "unusable": blank,
        "prompts": int(log.frame.select(pl.col("prompt_id").n_unique()).collect().item()),
        "groups": prompts,
        "group_sizes": {str(n): number for n, number in sizes.iter_rows()} if has_n else None,
        "groups_of_one": 0,
        "groups_in_shares": prompts,
        **{name: number / prompts for name, number in hits.items()},
        "silent_other_share": None,
        "share_intervals": {name: list(wilson(number, prompts)) for name, number in hits.items()},
        "mean_reward": float((table.get_column("rate") * table.get_column("prompts")).sum()) / prompts,
        "mean_reward_interval": None,
        "right_means": "the table says how often each prompt was solved",
        "tokens_generated": None,
        "tokens_silent": None,
        "pass_at_k": {str(k): pass_at_k(counts, k) for k in ks_of(n for n, _, _ in counts)} if has_n else None,
        "expected_silent_share": {str(g): v for g in GROUP_SIZES if (v := silent_at(counts, g)) is not None}
        if has_n
        else None,
        "withheld": withheld,
    }


def _empty(withheld: dict[str, str], reason: str) -> Figures:
    names = ("mean_reward", *SHARES, "tokens_generated", "tokens_silent", "pass_at_k")
    return {
        "rollouts": 0,
        "unusable": 0,
        "prompts": 0,
        "groups": 0,
        "group_sizes": {},
        "groups_of_one": 0,
        "groups_in_shares": 0,
        **dict.fromkeys(names),
        "withheld": {**withheld, **dict.fromkeys(names, reason)},
    }
