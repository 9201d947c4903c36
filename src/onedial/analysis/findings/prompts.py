"""Prompts that stand out: never solved, always solved, suspiciously labelled; and duplicate answers."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import betabinom, hypergeom

from onedial.analysis.findings.difficulty import UNJUDGED
from onedial.analysis.findings.evidence import Evidence, texts_of
from onedial.analysis.findings.finding import Finding, Table, Value, percent, withheld
from onedial.analysis.findings.intervals import bootstrap_ratio, discoveries, wilson
from onedial.analysis.logs.grouping import reward_of, right_of
from onedial.core.maths.mixing import npmle, posterior

SHOWN = 60
SAMPLE_GROUPS = 20_000
AGREEMENT = 0.7  # share of the wrong answers that give one and the same answer; above ½, so that only one answer can
FEWEST_WRONG = 4
FEWEST_CONTROLS = 20  # prompts with a trusted reference needed to say how often wrong answers agree anyway
FALSE_DISCOVERIES = 0.1


def never_solved(evidence: Evidence) -> Finding:
    """Share of prompts with no right answer in all their tries."""
    return _extreme(evidence, right=False)


def always_solved(evidence: Evidence) -> Finding:
    """Share of prompts with no wrong answer in all their tries."""
    return _extreme(evidence, right=True)


def _extreme(evidence: Evidence, *, right: bool) -> Finding:
    word = "always" if right else "never"
    name, title = f"{word}_solved", f"Prompts {word} solved"
    definition = f"Share of prompts whose every judged rollout is {'right' if right else 'wrong'}, over all iterations."
    why = (
        "They teach nothing more; each try on them is paid in vain until the policy changes."
        if right
        else "No group of theirs ever split. Too hard, or wrongly labelled, or beyond the length limit."
    )
    reason = _no_counts(evidence)
    if reason:
        return withheld(name, title, "share", reason, definition=definition, why=why)
    table = evidence.counts
    extreme = table.filter(pl.col("k") == (pl.col("n") if right else 0))
    extreme = extreme.sort(["n", "prompt_id"], descending=[True, False])
    share = len(extreme) / len(table)
    cells, number = evidence.cells()
    prior = npmle(cells)
    belief = posterior(cells, prior)
    chance = 1.0 - belief @ (prior.points**8 + (1 - prior.points) ** 8)
    mixes = dict(zip(table.get_column("prompt_id"), chance[number], strict=True))
    top = extreme.head(SHOWN)
    text = texts_of(evidence.log, top.get_column("prompt_id").to_list(), limit=160)
    rows = tuple(
        (key, int(n), source or "", float(mixes[key]), text.get(key, ""))
        for key, n, source in top.select("prompt_id", "n", "source").iter_rows()
    )
    tries = f"{np.median(extreme.get_column('n').to_numpy()):g} tries at the median" if len(extreme) else "none"
    return Finding(
        name=name,
        title=title,
        value=share,
        unit="share",
        interval=wilson(len(extreme), len(table)),
        headline=f"{len(extreme):,} of {len(table):,} prompts ({percent(share)}) were {word} solved ({tries}).",
        definition=definition,
        why=why,
        what_to_do="Nothing."
        if extreme.is_empty()
        else "Rest them and look again after some iterations."
        if right
        else "Try a sample of them with many more tries; drop or relabel those that stay at 0.",
        method="Wilson; prompts are the units",
        importance=0.12 + 0.35 * share,
        tables=(
            Table(
                f"Prompts {word} solved, most tries first",
                ("prompt", "tries", "source", "P(mixed at G = 8)", "text"),
                rows,
            ),
        ),
    )


def suspicious(evidence: Evidence) -> Finding:
    """Prompts whose reference answer may be wrong: wrong answers that agree, or zero where peers are solved."""
    name, title = "suspicious_prompts", "Prompts with a suspicious reference answer"
    definition = (
        f"Prompts solved at most a quarter of the time, of whose wrong answers at least {100 * AGREEMENT:.0f} % (and "
        f"{FEWEST_WRONG} or more) are one and the same, which is more than wrong answers to prompts solved more often "
        f"agree: of those named, {100 * FALSE_DISCOVERIES:.0f} % are expected to be there by chance. Or never solved "
        "although the prompts of their source and level are solved so often that this has a chance below 1 in 1,000 "
        "after counting all prompts tried."
    )
    why = "Trained against a wrong reference, a policy is paid to be wrong. Errors scatter; agreement is often right."
    reason = _no_counts(evidence)
    if reason:
        return withheld(name, title, "prompts", reason, definition=definition, why=why)
    (agreeing, lacks), unlikely = _agreeing(evidence), _unlikely(evidence)
    names = list(dict.fromkeys([*(row[0] for row in agreeing), *(row[0] for row in unlikely)]))
    text = texts_of(evidence.log, [str(n) for n in names[: 2 * SHOWN]], limit=160)
    tables = []
    if agreeing:
        body = tuple((*row, text.get(str(row[0]), "")) for row in agreeing[:SHOWN])
        columns = ("prompt", "right", "judged", "wrong answers agreeing", "they say", "reference", "chance", "text")
        tables.append(Table("Wrong answers that agree with each other", columns, body))
    if unlikely:
        body = tuple((*row, text.get(str(row[0]), "")) for row in unlikely[:SHOWN])
        tables.append(Table("Never solved among solved peers", ("prompt", "judged", "peers", "chance", "text"), body))
    chance = FALSE_DISCOVERIES * len(agreeing)
    by_chance = f" About {chance:.1g} of them would by chance." if agreeing else ""
    return Finding(
        name=name,
        title=title,
        value=float(len(names)),
        unit="prompts",
        headline=f"{len(names):,} of {len(evidence.counts):,} prompts look wrongly labelled."
        + by_chance
        + (f" Agreement of answers could not be checked: {lacks}." if lacks else ""),
        definition=definition,
        why=why,
        what_to_do="Read these by hand first: one mislabelled prompt costs every epoch." if names else "Nothing.",
        method="agreement against that of prompts solved more often, false discoveries held at 10 % (Benjamini and "
        "Hochberg 1995); peers by Bonferroni",
        importance=0.1 + min(0.4, 2 * len(names) / len(evidence.counts)),
        tables=tuple(tables),
    )


def duplicates(evidence: Evidence) -> Finding:
    """Share of rollouts whose text equals an earlier one of their group."""
    name, title = "duplicate_answers", "Duplicate answers within a group"
    definition = "Share of rollouts whose whole text equals that of another, earlier rollout of the same group."
    why = "A repeated answer adds nothing: the group is smaller than it looks. Much repetition means low entropy."
    reason = "a table of solve rates holds no answers" if evidence.log.kind == "rates" else ""
    reason = reason or evidence.log.why_missing("completion")
    if reason:
        return withheld(name, title, "share", reason, definition=definition, why=why)
    step = max(1, len(evidence.groups) // SAMPLE_GROUPS)
    rows = evidence.log.frame.filter(pl.col("completion").is_not_null())
    if step > 1:
        # whole groups are sampled, by hash, so that repeats are seen
        rows = rows.filter(pl.col("group_id").hash(7) % step == 0)
    table = (
        rows.group_by("group_id").agg(pl.len().alias("n"), pl.col("completion").n_unique().alias("kinds"))
    ).collect(engine="streaming")
    total, repeats = int(table.get_column("n").sum()), int((table.get_column("n") - table.get_column("kinds")).sum())
    if total == 0:
        return withheld(name, title, "share", "no completion text was logged", definition=definition, why=why)
    share = repeats / total
    return Finding(
        name=name,
        title=title,
        value=share,
        unit="share",
        interval=bootstrap_ratio(table.get_column("n") - table.get_column("kinds"), table.get_column("n")),
        headline=f"{percent(share, 1)} of rollouts repeat another of their group word for word.",
        definition=definition,
        why=why,
        what_to_do="Raise the temperature, or deduplicate before spending tries." if share > 0.2 else "Nothing.",
        method="bootstrap over groups" + (f"; one group in {step} was read" if step > 1 else ""),
        importance=0.05 + 0.5 * share,
    )


def _no_counts(evidence: Evidence) -> str:
    if evidence.log.coverage.survivors_only:
        return "the log holds only groups that survived filtering: prompts never or always solved left no trace"
    return "" if evidence.judged and not evidence.counts.is_empty() else UNJUDGED


def _agreeing(evidence: Evidence) -> tuple[list[tuple[Value, ...]], str]:
    """(prompt, k, n, share agreeing, their answer, reference, chance), least by chance first; why there can be none.

    Models also err in one voice: agreement alone proves nothing. The control is how the wrong answers agree on prompts
    that are solved more than a quarter of the time, whose reference is thereby confirmed.
    """
    log = evidence.log
    if log.kind == "rates":
        return [], "rates hold no answers"
    if not log.has("parsed_answer"):
        return [], log.why_missing("parsed_answer")
    votes = _votes(evidence)
    hard = pl.col("k") * 4 <= pl.col("n")
    controls = votes.filter(~hard)
    suspects = votes.filter(hard & (pl.col("votes") >= AGREEMENT * pl.col("wrong")) & pl.col("said").is_not_null())
    if suspects.is_empty():
        return [], ""
    if len(controls) < FEWEST_CONTROLS:
        return [], (
            f"only {len(controls)} prompts that are sometimes solved have {FEWEST_WRONG} wrong answers, too few to "
            "tell how often wrong answers agree anyway"
        )
    chance = agreement_by_chance(*_pair(suspects), _pair(controls))
    tried = int(votes.select(hard.sum()).item())  # those that do not agree were looked at too
    kept = suspects.with_columns(chance=chance).filter(discoveries(chance, FALSE_DISCOVERIES, tried)).sort(
        ["chance", "votes", "prompt_id"], descending=[False, True, False]
    )  # fmt: skip
    columns = ("prompt_id", "k", "n", "votes", "wrong", "said", "answer", "chance")
    rows: list[tuple[Value, ...]] = [
        (key, k, n, round(v / w, 3), _short(said), _short(reference), float(f"{p:.2g}"))
        for key, k, n, v, w, said, reference, p in kept.select(columns).iter_rows()
    ]
    return rows, ""


def _pair(votes: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return votes.get_column("votes").to_numpy(), votes.get_column("wrong").to_numpy()


def _votes(evidence: Evidence) -> pl.DataFrame:
    """Per prompt with enough wrong answers: the one given most often (`said`, null if none was parsed), its votes, all
    wrong answers, k and n. Rollouts without a parsed answer count among the wrong ones and agree on nothing."""
    log = evidence.log
    key = pl.col("prompt_id" if log.has("prompt_id") else "group_id").cast(pl.String).alias("prompt_id")
    wrong = log.frame.filter(reward_of().is_not_null() & ~right_of(log, evidence.marks).fill_null(True))
    text = pl.col("parsed_answer").str.strip_chars()
    counts = evidence.counts.filter(pl.col("n") - pl.col("k") >= FEWEST_WRONG).lazy().select("prompt_id", "k", "n")
    return (
        wrong.select(key, pl.when(text != "").then(pl.col("parsed_answer")).alias("said"), "answer")
        .join(counts, on="prompt_id")
        .group_by("prompt_id", "said")
        .agg(pl.len().cast(pl.Int64).alias("votes"), pl.col("answer", "k", "n").first())
        .with_columns(pl.col("votes").sum().over("prompt_id").alias("wrong"))
        .with_columns(votes=pl.when(pl.col("said").is_not_null()).then(pl.col("votes")).otherwise(0))
        .filter(pl.col("wrong") >= FEWEST_WRONG)
        .sort(["votes", "said"], descending=[True, False], nulls_last=True)
        .group_by("prompt_id", maintain_order=True)
        .first()
        .collect(engine="streaming")
    )


def agreement_by_chance(
    votes: NDArray[np.int64], wrong: NDArray[np.int64], controls: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[np.float64]:
    """P(`votes` or more of `wrong` answers agree) on a control prompt, (S,); `controls` are their votes and wrong ones.

    A beta-binomial fitted to the controls by maximum likelihood gives the tail beyond what so few can show; it is never
    taken below the share of controls that agree as much: as many answers drawn from a control without replacement
    (hypergeometric), or all of one with fewer.
    """
    top, size = (values.astype(np.float64) for values in controls)

    def loss(x: NDArray[np.float64]) -> float:
        return -float(betabinom.logpmf(top, size, *np.exp(np.clip(x, -6, 8))).sum())

    a, b = np.exp(np.clip(minimize(loss, np.zeros(2), method="Nelder-Mead").x, -6, 8))
    pairs, where = np.unique(np.stack([votes, wrong], axis=1), axis=0, return_inverse=True)
    chance = np.empty(len(pairs))
    for i, (v, w) in enumerate(pairs):
        seen = np.where(size >= w, hypergeom.sf(v - 1, size, top, np.minimum(w, size)), top * w >= v * size)
        chance[i] = max(float(betabinom.sf(v - 1, w, a, b)), float(seen.mean()))
    return np.asarray(chance[where.reshape(-1)])


def _unlikely(evidence: Evidence) -> list[tuple[Value, ...]]:
    """(prompt, n, its peers' source and level, chance of no success among peers), least likely first."""
    table = evidence.counts.with_columns(
        pl.concat_str([pl.col("source").fill_null(""), pl.col("level").fill_null("")], separator=" ").alias("peers")
    )
    found: list[tuple[Value, ...]] = []
    for peers, part in table.group_by("peers"):
        if len(part) < 30:
            continue
        zero = part.filter(pl.col("k") == 0)
        if zero.is_empty():
            continue
        chance = _chance_of_zero(part, zero.get_column("n").to_numpy())
        limit = 1e-3 / len(table)
        found += [
            (key, int(n), str(peers[0]).strip(), float(f"{c:.2g}"))
            for key, n, c in zip(zero.get_column("prompt_id"), zero.get_column("n"), chance, strict=True)
            if c < limit
        ]
    return sorted(found, key=lambda row: float(row[3] or 0.0))


def _chance_of_zero(peers: pl.DataFrame, tries: NDArray[np.int64]) -> NDArray[np.float64]:
    """P(0 right of n) for a prompt drawn like those peers that were solved at least once.

    Peers that were never solved are left out: otherwise broken prompts would explain each other.
    """
    solved = peers.filter(pl.col("k") > 0)
    if len(solved) < 20:
        return np.ones(len(tries))
    rates = ((solved.get_column("k") - 0.5).clip(0) / solved.get_column("n")).to_numpy()
    sizes, where = np.unique(tries, return_inverse=True)
    by_size = np.array([float(np.mean((1 - rates) ** n)) for n in sizes])
    return np.asarray(by_size[where.reshape(-1)])


def _short(text: str | None, limit: int = 80) -> str:
    text = "" if text is None else text
    return text if len(text) <= limit else text[: limit - 1] + "…"
