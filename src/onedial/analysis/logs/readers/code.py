"""Judged programs: HumanEval results, LiveCodeBench eval_all, EvalPlus and BigCodeBench eval_results, lm-eval samples.

A program that ran out of time counts as a wrong answer, as in these benchmarks, because the time limit is part of the
task. This is different from a verifier that fails to judge, which is no answer at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.lines import to_float
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.common import format_count, make_log
from onedial.analysis.logs.readers.messages import flatten_text
from onedial.analysis.logs.readers.reward_choice import apply_outcome, find_component
from onedial.analysis.logs.readers.rows import as_float, as_list, iterate_objects
from onedial.analysis.logs.schema import REWARD_PART, Coverage, Log
from onedial.analysis.logs.store import store_records
from onedial.core.tables.read_errors import ReadErrors

PASS = ("pass", "passed", "success")


def _verdict(passed: bool) -> dict[str, Any]:
    return {"outcome": "correct" if passed else "wrong", "correct": passed, "outcome_reward": float(passed)}


def _finish(
    name: str, title: str, rows: Iterator[dict[str, Any]], samples: Sequence[Sample], *, is_: str, notes: list[str]
) -> Log:
    frame = store_records(rows)  # fills `notes` as it goes
    if len(samples) > 1:
        notes.append(f"{len(samples)} files were read; each is its own set of groups.")
    return make_log(
        name,
        title,
        frame,
        samples=samples,
        coverage=Coverage(reward_is=is_, notes=tuple(dict.fromkeys(notes))),
        why={"iteration": "an evaluation has one round", "advantage": "an evaluation trains nothing"},
    )


# HumanEval: task_id, completion, result, passed


def detect_humaneval(sample: Sample) -> bool:
    return sample.has("task_id", "passed") and not sample.has("graded_list")


def read_humaneval(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    notes: list[str] = []
    rows = _humaneval(samples, options, errors, notes)
    return _finish("humaneval", "the HumanEval results file", rows, samples, is_="passed", notes=notes)


def _humaneval(
    samples: Sequence[Sample], options: Options, errors: ReadErrors, notes: list[str]
) -> Iterator[dict[str, Any]]:
    slow = 0
    for sample, line, record in iterate_objects(samples, errors):
        passed = to_float(record.get("passed"))
        if record.get("task_id") is None or passed not in (0.0, 1.0):
            errors.add(sample.file, line, "task_id is missing, or passed is not true or false")
            continue
        slow += str(record.get("result", "")).strip().lower() in ("timed out", "timeout")
        text = flatten_text(record.get("completion", record.get("solution")))
        yield {
            "split": "eval",
            "prompt_id": str(record["task_id"]),
            "group_id": f"{sample.name}/{record['task_id']}",
            "completion_chars": None if text is None else len(text),
            **_verdict(passed == 1.0),
            **({"completion": text, "prompt": flatten_text(record.get("prompt"))} if options.text else {}),
        }
    if slow:
        notes.append(f"{format_count(slow, 'program')} ran out of time: wrong answers, as the benchmark counts them.")


# EvalPlus, BigCodeBench: {"eval": {task_id: [{…status…}, …]}}


def detect_evalplus(sample: Sample) -> bool:
    return (
        isinstance(sample.document, dict)
        and isinstance(sample.document.get("eval"), dict)
        and bool(sample.document["eval"])
    )


def read_evalplus(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    notes: list[str] = []
    rows = _evalplus(samples, options, errors, notes)
    log = _finish("evalplus", "the results file", rows, samples, is_="all tests passed", notes=notes)
    return apply_outcome(log, options)


def _evalplus(
    samples: Sequence[Sample], options: Options, errors: ReadErrors, notes: list[str]
) -> Iterator[dict[str, Any]]:
    for sample in samples:
        if not detect_evalplus(sample):
            errors.add(sample.file, 0, "no results of programs: the field eval is missing")
            continue
        for number, (task, results) in enumerate(sample.document["eval"].items(), start=1):
            for index, verdicts, text in _results(results):
                if not verdicts:
                    errors.add(sample.file, number, f"task {str(task)[:40]!r}: no status that can be read")
                    continue
                if "plus" in verdicts:
                    notes.append("Right means that the base and the plus tests passed; `reward_base` holds base alone.")
                yield {
                    "split": "eval",
                    "prompt_id": str(task),
                    "group_id": f"{sample.name}/{task}",
                    "rollout_index": index,
                    "completion_chars": None if text is None else len(text),
                    **_verdict(all(verdicts.values())),
                    **({REWARD_PART + k: float(v) for k, v in verdicts.items()} if len(verdicts) > 1 else {}),
                    **({"completion": text} if options.text else {}),
                }


def _results(results: Any) -> Iterator[tuple[int, dict[str, bool], str | None]]:
    """(index, verdicts by test set, program) of one task, in each of the forms that the tools have used."""
    if isinstance(results, dict) and isinstance(results.get("graded_list"), list):  # LiveCodeBench by task
        codes = as_list(results.get("code_list"))
        for i, mark in enumerate(results["graded_list"]):
            yield i, {"all": to_float(mark) == 1.0}, flatten_text(codes[i]) if i < len(codes) else None
    elif isinstance(results, dict) and isinstance(results.get("base"), list):  # EvalPlus before 0.2
        plus = as_list(results.get("plus"))
        for i, status in enumerate(results["base"]):
            verdicts = {"base": _status(status)}
            if i < len(plus):
                verdicts["plus"] = _status(plus[i])
            yield i, verdicts, None
    elif isinstance(results, list):
        for i, result in enumerate(results):
            yield i, _statuses(result), flatten_text(result.get("solution")) if isinstance(result, dict) else None
    else:
        yield 0, _statuses(results), None


def _status(value: Any) -> bool:
    value = value[0] if isinstance(value, list) and value else value
    return str(value).lower() in PASS


def _statuses(result: Any) -> dict[str, bool]:
    if isinstance(result, bool):
        return {"all": result}
    if not isinstance(result, dict):
        return {}
    names = {"base_status": "base", "plus_status": "plus", "status": "all"}
    found = {ours: _status(result[name]) for name, ours in names.items() if result.get(name) is not None}
    if found or result.get("passed") is None:
        return found
    return {"all": to_float(result["passed"]) == 1.0}


# lm-evaluation-harness: samples_TASK_DATE.jsonl


def detect_lm_eval(sample: Sample) -> bool:
    return sample.has("doc_id", "doc") and bool(sample.columns & {"resps", "filtered_resps"})


def read_lm_eval(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    notes: list[str] = []
    if options.outcome:
        names = sorted(set().union(*(sample.columns for sample in samples)) - {"doc_id"})
        numeric = [name for name in names if any(as_float(v) is not None for s in samples for v in s.values(name))]
        options = replace(options, outcome=find_component(options.outcome, numeric))
    rows = _lm_eval(samples, options, errors, notes)
    return _finish("lm-eval", "lm-eval's sample file", rows, samples, is_="the task's first metric", notes=notes)


METRICS = (
    "exact_match",
    "acc",
    "acc_norm",
    "pass@1",
    "pass_at_1",
    "prompt_level_strict_acc",
    "math_verify",
    "em",
    "score",
)


def _lm_eval(
    samples: Sequence[Sample], options: Options, errors: ReadErrors, notes: list[str]
) -> Iterator[dict[str, Any]]:
    filters: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for sample, line, record in iterate_objects(samples, errors):
        named = record.get("metrics") if isinstance(record.get("metrics"), list) else []
        known = (*METRICS, *(name for name in as_list(named) if isinstance(name, str)))
        metric = next((m for m in known if as_float(record.get(m)) is not None), None)
        if options.outcome:
            metric = options.outcome if as_float(record.get(options.outcome)) is not None else None
        if record.get("doc_id") is None or metric is None:
            errors.add(sample.file, line, "doc_id or a number metric is missing")
            continue
        rule = str(record.get("filter", ""))
        if filters.setdefault(sample.name, rule) != rule:
            seen[rule] += 1
            continue
        answers = record.get("filtered_resps")
        text = flatten_text(answers[0] if isinstance(answers, list) and len(answers) == 1 else answers)
        yield {
            "split": "eval",
            "prompt_id": str(record["doc_id"]),
            "group_id": f"{sample.name}/{record['doc_id']}",
            "outcome_reward": as_float(record[metric]),
            "answer": flatten_text(record.get("target"))
            if not isinstance(record.get("target"), int)
            else str(record["target"]),
            "completion_chars": None if text is None else len(text),
            **({"completion": text} if options.text else {}),
        }
        notes.append(f"The metric read is {metric}.")
    if seen:
        notes.append(
            f"Left out, since they judge the same answers by another filter: {format_count(sum(seen.values()), 'row')}."
        )


FORMATS: Mapping[str, Format] = {
    "humaneval": Format(
        name="humaneval",
        title="HumanEval results",
        where="samples.jsonl_results.jsonl",
        shows="verdicts per program, pass@k",
        cannot="token counts, training fields",
        detect=detect_humaneval,
        read=read_humaneval,
    ),
    "evalplus": Format(
        name="evalplus",
        title="EvalPlus / BigCodeBench results",
        where="*_eval_results.json",
        shows="verdicts per program on base and plus tests, pass@k",
        cannot="token counts, training fields",
        detect=detect_evalplus,
        read=read_evalplus,
        options=("outcome",),
    ),
    "lm-eval": Format(
        name="lm-eval",
        title="lm-evaluation-harness samples",
        where="samples_TASK_*.jsonl",
        shows="one judged answer per document",
        cannot="groups (one answer a document, as a rule), token counts",
        detect=detect_lm_eval,
        read=read_lm_eval,
        options=("outcome",),
    ),
}
