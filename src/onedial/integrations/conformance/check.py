"""A check, what it measured, and the verdict that follows: passed, convention, failed or not applicable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from onedial.integrations.conformance.judged import Judged, NotApplicable, WrongAnswer

PASSED, CONVENTION, FAILED, NOT_APPLICABLE = "passed", "convention", "failed", "not applicable"
VERDICTS = (PASSED, CONVENTION, FAILED, NOT_APPLICABLE)


@dataclass(frozen=True)
class Measured:
    """How far an answer lies from what it should be, and what was found.

    found: which of several right answers it is. convention: the known answer that it is instead of the right one.
    """

    deviation: float
    tolerance: float
    found: str = ""
    convention: str = ""

    @property
    def verdict(self) -> str:
        """A deviation that is no number has failed."""
        if not self.deviation <= self.tolerance:
            return FAILED
        return CONVENTION if self.convention else PASSED


@dataclass(frozen=True)
class ConformanceCheck:
    """says: what holds of a trainer that passes. seen: where a bug of this kind was reported."""

    name: str
    function: str
    says: str
    measure: Callable[[Judged], Measured]
    seen: str = ""


@dataclass(frozen=True)
class Judgement:
    """One line of the table; `measured` is None where nothing was, or where it is no number."""

    check: str
    function: str
    says: str
    seen: str
    verdict: str
    measured: float | None
    tolerance: float | None
    note: str


def run_checks(trainer: Judged, checks: Iterable[ConformanceCheck]) -> list[Judgement]:
    """What each check says of the trainer. An error inside one of its functions fails the check and is quoted."""
    return [_judge_one(trainer, check) for check in checks]


def _judge_one(trainer: Judged, check: ConformanceCheck) -> Judgement:
    measured, remark = None, trainer.notes.get(check.name, "")
    try:
        measured = check.measure(trainer)
        verdict, note = measured.verdict, _note_of(measured)
    except NotApplicable as error:
        verdict, note = NOT_APPLICABLE, str(error)
    except WrongAnswer as error:
        verdict, note = FAILED, str(error)
    except Exception as error:  # of the trainer's own code, whatever it is
        verdict, note = FAILED, f"raised {type(error).__name__}: {str(error).strip() or 'no message'}"
    if remark and verdict != PASSED:
        note = f"{note}; {remark}" if note else remark
    return Judgement(
        check.name, check.function, check.says, check.seen, verdict,
        measured.deviation if measured and math.isfinite(measured.deviation) else None,
        measured.tolerance if measured else None, note,
    )  # fmt: skip


def _note_of(measured: Measured) -> str:
    return measured.convention if measured.verdict == CONVENTION else measured.found


def distance(got: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a share of the largest wanted value where that is above 0; NaN where there is a NaN."""
    scale = float(wanted.abs().max())
    return float((got - wanted).abs().max()) / (scale if scale > 0 else 1.0)


def match(
    got: Tensor, right: Mapping[str, Tensor], conventions: Mapping[str, Tensor] | None = None, *, tolerance: float
) -> Measured:
    """The first answer within the tolerance, the right ones before the conventions; else the nearest right one."""
    for name, wanted in right.items():
        if distance(got, wanted) <= tolerance:
            return Measured(distance(got, wanted), tolerance, found=name)
    for name, wanted in (conventions or {}).items():
        if distance(got, wanted) <= tolerance:
            return Measured(distance(got, wanted), tolerance, convention=name)
    distances = [distance(got, wanted) for wanted in right.values()]
    return Measured(min(distances) if all(map(math.isfinite, distances)) else math.nan, tolerance)


def worst(results: Mapping[str, Measured]) -> Measured:
    """The worst of several results of one check, told with the names of those that share its verdict."""
    rank = (PASSED, CONVENTION, FAILED)
    lowest = max((result.verdict for result in results.values()), key=rank.index)
    names = [name for name, result in results.items() if result.verdict == lowest]
    chosen = [results[name] for name in names]
    nan = any(math.isnan(result.deviation) for result in chosen)
    deviation = math.nan if nan else max(result.deviation for result in chosen)
    which = ", ".join(names) if lowest != PASSED and len(names) < len(results) else ""
    told = ": ".join(filter(None, [which, chosen[0].convention]))
    return Measured(deviation, chosen[0].tolerance, found=told, convention=told if lowest == CONVENTION else "")
