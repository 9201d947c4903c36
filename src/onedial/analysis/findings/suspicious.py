"""Prompts whose reference answer may be wrong."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import minimize

from onedial.analysis.findings.finding import Measurement, Spec, Table, Value, measures
from onedial.analysis.findings.intervals import discoveries
from onedial.analysis.findings.log_tables import LogTables, read_prompt_texts
from onedial.analysis.findings.prompts import LISTED, why_no_counts
from onedial.analysis.logs.grouping import finite_reward, is_right

AGREEMENT = 0.7  # share of the wrong answers that give one and the same answer; above ½, so that only one answer can
FEWEST_WRONG = 4
FEWEST_CONTROLS = 20  # prompts with a trusted reference needed to say how often wrong answers agree anyway
FALSE_DISCOVERIES = 0.1

SUSPICIOUS = Spec(
    name="suspicious_prompts",
    title="Prompts with a suspicious reference answer",
    unit="prompts",
    definition=(
        f"Prompts solved at most a quarter of the time, if at least {100 * AGREEMENT:.0f} % of their wrong answers "
        f"(and {FEWEST_WRONG} or more) are the same answer, which is more than on prompts that are solved more "
        f"often: {100 * FALSE_DISCOVERIES:.0f} % of those named are expected to be there by chance. Also prompts never "
        "solved, if prompts of their source and level are solved so often that the chance of this is below 1 in 1,000 "
        "after counting all prompts tried."
    ),
    why=(
        "A wrong reference rewards the policy for errors. Errors differ from each other; answers that agree are often "
        "right."
    ),
)


@measures(SUSPICIOUS)
def suspicious(tables: LogTables) -> Measurement | str:
    """Prompts whose reference answer may be wrong: their wrong answers agree, or nobody solves them while similar
    prompts are solved."""
    if reason := why_no_counts(tables):
        return reason
    (agreeing, lacks), unlikely = _agreeing(tables), _unlikely(tables)
    names = list(dict.fromkeys([*(row[0] for row in agreeing), *(row[0] for row in unlikely)]))
    text = read_prompt_texts(tables.log, [str(n) for n in names[: 2 * LISTED]], limit=160)
    shown = []
    if agreeing:
        body = tuple((*row, text.get(str(row[0]), "")) for row in agreeing[:LISTED])
        columns = ("prompt", "right", "judged", "wrong answers agreeing", "they say", "reference", "chance", "text")
        shown.append(Table("Wrong answers that agree with each other", columns, body))
    if unlikely:
        body = tuple((*row, text.get(str(row[0]), "")) for row in unlikely[:LISTED])
        shown.append(Table("Never solved among solved peers", ("prompt", "judged", "peers", "chance", "text"), body))
    chance = FALSE_DISCOVERIES * len(agreeing)
    by_chance = f" About {chance:.1g} of them would by chance." if agreeing else ""
    return Measurement(
        value=float(len(names)),
        headline=f"{len(names):,} of {len(tables.counts):,} prompts look wrongly labeled."
        + by_chance
        + (f" Agreement of answers could not be checked: {lacks}." if lacks else ""),
        advice="Read these by hand first: one mislabeled prompt costs every epoch." if names else "",
        method="agreement against that of prompts solved more often, false discoveries held at 10 % (Benjamini and "
        "Hochberg 1995); peers by Bonferroni",
        importance=0.1 + min(0.4, 2 * len(names) / len(tables.counts)),
        tables=tuple(shown),
    )


def _agreeing(tables: LogTables) -> tuple[list[tuple[Value, ...]], str]:
    """(prompt, k, n, share agreeing, their answer, reference, chance), least likely first; or the reason why there can
    be none.

    Models may also make the same mistake many times, so agreement alone proves nothing. The comparison is with the
    agreement of wrong answers on prompts that are solved more than a quarter of the time, whose reference is confirmed
    by that.
    """
    log = tables.log
    if log.kind == "rates":
        return [], "rates hold no answers"
    if not log.has("parsed_answer"):
        return [], log.why_missing("parsed_answer")
    votes = _votes(tables)
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


def _votes(tables: LogTables) -> pl.DataFrame:
    """Per prompt with enough wrong answers: the most frequent one (`said`, null if none was parsed), its votes, the
    number of wrong answers, k and n. Rollouts without a parsed answer count as wrong and agree with no other."""
    log = tables.log
    key = pl.col("prompt_id" if log.has("prompt_id") else "group_id").cast(pl.String).alias("prompt_id")
    wrong = log.frame.filter(finite_reward().is_not_null() & ~is_right(log, tables.marks).fill_null(True))
    text = pl.col("parsed_answer").str.strip_chars()
    counts = tables.counts.filter(pl.col("n") - pl.col("k") >= FEWEST_WRONG).lazy().select("prompt_id", "k", "n")
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
    """P(`votes` or more of `wrong` answers agree) on a control prompt, (S,); `controls` are the votes and wrong answers
    of the control prompts.

    A beta-binomial distribution fitted to the controls by maximum likelihood gives the tail, which so few controls
    cannot show themselves. The result is never below the share of controls that agree as much, measured on as many
    answers drawn from a control without replacement (hypergeometric), or on all of its answers if it has fewer.
    """
    from scipy.stats import betabinom, hypergeom  # takes longer to load than the rest of the package

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


def _unlikely(tables: LogTables) -> list[tuple[Value, ...]]:
    """(prompt, n, source and level of its peers, chance of no success among peers), least likely first."""
    table = tables.counts.with_columns(
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
    """P(0 right of n) for a prompt whose solve rate is drawn like that of peers which were solved at least once.

    Peers that were never solved are left out; otherwise broken prompts would explain each other.
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
