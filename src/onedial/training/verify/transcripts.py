"""Rewards of a transcript against its reference: plain word error rate, and one that still ranks failed transcripts.

`wer` is max(0, 1 − WER). On badly degraded speech every try scores 0 and the group is silent. `wgpo` is the
dispersion-gated reward of DG-WGPO (formulas as published for Mega-ASR, whose training code is not released):

    R = 0.4·R_rep·max(0, 1 − WER) + 0.6·R_dyn
    R_dyn = 0.75·R_fine + 0.25·R_struc if WER < τ, else 0.25·R_fine + 0.75·R_struc
    R_fine = n_C / (n_C + n_hard + 0.4·n_soft + 1e-8)
    R_struc = ½·LCS/|R| + ½·max(0, 1 − ||H| − |R||/|R|)

n_C counts hits of the word alignment, n_soft substitutions whose characters agree by half or more, n_hard all other
errors; LCS is the longest common subsequence of words; |R| and |H| are the words of reference and hypothesis. The
source leaves open, and here is settled: 1 − WER stops at 0 (a long hallucination has a WER far above 1); insertions and
deletions are hard errors; R_rep is 0 where a phrase of one to four words comes more than four times in a row and more
often than in the reference. τ is 0.3 in its text and 0.5 in its table of settings: an option, 0.3 by default.
An empty hypothesis gets 0. An empty reference has no error rate: only an empty hypothesis is right, with reward 1.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from onedial.core.errors import ConfigError, MissingExtra
from onedial.training.verify.verdict import Fields, PromptLike

MOST_REPEATS, LONGEST_PHRASE = 4, 4
SOFT_WEIGHT, SOFT_FROM, TINY = 0.4, 0.5, 1e-8
UNITS = ("word", "character")


@dataclass(frozen=True)
class Errors:
    """How a hypothesis differs from its reference, in units (words or characters)."""

    hits: int
    soft: int
    hard: int
    reference: int
    hypothesis: int

    @property
    def rate(self) -> float:
        """WER (or CER): errors per unit of the reference; of an empty reference 0 or 1."""
        if not self.reference:
            return float(self.hypothesis > 0)
        return (self.soft + self.hard) / self.reference


@dataclass(frozen=True)
class Transcript:
    """A reward function (prompt, completion) → verdict fields; correct when not one unit is wrong."""

    gated: bool
    tau: float = 0.3
    unit: str = "word"

    def __call__(self, prompt: PromptLike, completion: str) -> Fields:
        """Ignores case, punctuation and spacing."""
        reference, hypothesis = (split_units(str(text), self.unit) for text in (prompt.answer or "", completion))
        errors = align(reference, hypothesis)
        plain = max(0.0, 1.0 - errors.rate)
        parts = {"wer": errors.rate}
        reward = plain
        if self.gated and reference:
            parts |= {"fine": score_words(errors), "structure": score_structure(reference, hypothesis)}
            parts["repeats"] = float(count_repeats(hypothesis) > max(MOST_REPEATS, count_repeats(reference)))
            close, far = (0.75, 0.25) if errors.rate < self.tau else (0.25, 0.75)
            reward = 0.4 * (1 - parts["repeats"]) * plain + 0.6 * (close * parts["fine"] + far * parts["structure"])
        right = errors.rate == 0
        outcome = "correct" if right else "wrong"
        return {"reward": reward, "correct": right, "answer": completion, "outcome": outcome, "parts": parts}


def wer(unit: str = "word") -> Transcript:
    """max(0, 1 − WER); with unit='character' the character error rate."""
    return _check_options(Transcript(gated=False, unit=unit))


def wgpo(tau: float = 0.3, unit: str = "word") -> Transcript:
    """The dispersion-gated reward, see above."""
    return _check_options(Transcript(gated=True, tau=float(tau), unit=unit))


def _check_options(reward: Transcript) -> Transcript:
    if reward.unit not in UNITS:
        raise ConfigError(f"unit={reward.unit!r}: must be one of {', '.join(UNITS)}")
    if not 0 <= reward.tau <= 1:
        raise ConfigError(f"tau={reward.tau}: must lie in [0, 1], an error rate; 0.3 and 0.5 are the source's")
    if importlib.util.find_spec("rapidfuzz") is None:  # now, not in the middle of a run
        raise MissingExtra("rapidfuzz", "transcripts", "a reward of transcripts")
    return reward


def split_units(text: str, unit: str = "word") -> list[str]:
    """Words in lower case without punctuation, or the characters of those words."""
    words = re.findall(r"[\w']+", text.casefold())
    return words if unit == "word" else list("".join(words))


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> Errors:
    """The errors of the cheapest alignment; if one side is empty, every unit of the other is a hard error."""
    if not reference or not hypothesis:
        return Errors(0, 0, len(reference) + len(hypothesis), len(reference), len(hypothesis))
    from rapidfuzz.distance import Levenshtein

    hits = soft = hard = 0
    for step in Levenshtein.opcodes(reference, hypothesis):
        if step.tag == "equal":
            hits += step.src_end - step.src_start
        elif step.tag == "replace":
            pairs = zip(
                reference[step.src_start : step.src_end], hypothesis[step.dest_start : step.dest_end], strict=True
            )
            close = [compare_words(written, heard) >= SOFT_FROM for written, heard in pairs]
            soft, hard = soft + sum(close), hard + len(close) - sum(close)
        else:
            hard += max(step.src_end - step.src_start, step.dest_end - step.dest_start)
    return Errors(hits, soft, hard, len(reference), len(hypothesis))


def compare_words(first: str, second: str) -> float:
    """1 − edit distance over the longer word's length, in [0, 1]."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_similarity(first, second))


def score_words(errors: Errors) -> float:
    """R_fine: hits over hits and weighted errors."""
    return errors.hits / (errors.hits + errors.hard + SOFT_WEIGHT * errors.soft + TINY)


def score_structure(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """R_struc: order kept, and length kept."""
    length = len(reference)
    kept = max(0.0, 1.0 - abs(len(hypothesis) - length) / length)
    return 0.5 * measure_common(reference, hypothesis) / length + 0.5 * kept


def measure_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    from rapidfuzz.distance import LCSseq

    return int(LCSseq.similarity(first, second))


def count_repeats(units: Sequence[str]) -> int:
    """How often the most repeated phrase of one to four units occurs in a row."""
    most = 1
    for size in range(1, LONGEST_PHRASE + 1):
        for start in range(size):
            phrases = [tuple(units[n : n + size]) for n in range(start, len(units) - size + 1, size)]
            run = 1
            for before, after in pairwise(phrases):
                run = run + 1 if before == after else 1
                most = max(most, run)
    return most
