"""One record per prompt with a list of verdicts or rewards: LiveCodeBench, CRUXEval, OpenR1 and others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.lines import to_float
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.common import format_count, make_log
from onedial.analysis.logs.readers.messages import flatten_text, hash_content
from onedial.analysis.logs.readers.names import LENGTH_LISTS, MARK_LISTS, TEXT_LISTS, find, map_names, normalize
from onedial.analysis.logs.readers.plain_table import find_identity
from onedial.analysis.logs.readers.rows import iterate_objects
from onedial.analysis.logs.schema import Coverage, Log
from onedial.analysis.logs.store import store_records
from onedial.core.errors import DataError
from onedial.core.tables.read_errors import ReadErrors

MAPS = (
    "correct", "outcome_reward", "prompt", "prompt_id", "answer", "completion", "completion_tokens", "source", "level",
)  # fmt: skip
ORDER = ("graded_list", "correct", "is_correct", "passed", "acc", "success", "reward", "score")


def detect(sample: Sample) -> bool:
    return find_task_columns(sample) is not None or find_marks(sample) is not None


def parse_marks(value: Any) -> list[float | None] | None:
    """A list of verdicts as 1, 0 or a graded reward (None for a null entry); None if it is not such a list.

    An entry may be the list of a program's test results (APPS: true, false, -1 and -2 for errors): right if all are
    true.
    """
    if not isinstance(value, list) or not value:
        return None
    marks = [_all_passed(item) if isinstance(item, list) else to_float(item) for item in value]
    return marks if all(mark is not None or item is None for mark, item in zip(marks, value, strict=True)) else None


def _all_passed(tests: list[Any]) -> float | None:
    if not tests or not all(isinstance(test, bool) or test in (-1, -2) for test in tests):
        return None
    return float(all(test is True for test in tests))


def find_marks(sample: Sample) -> str | None:
    """The column that holds lists of verdicts: the one with the most specific name and, among equals, the fewest
    nulls."""
    found: dict[str, int] = {}
    for name in sorted(name for name in sample.columns if "." not in name):
        lists = [value for value in sample.values(name) if value != []]
        if lists and MARK_LISTS.search(normalize(name)) and all(parse_marks(value) is not None for value in lists):
            found[name] = len(lists)
    rank = {name: next((i for i, word in enumerate(ORDER) if word in normalize(name)), len(ORDER)) for name in found}
    return min(found, key=lambda name: (rank[name], -found[name], name)) if found else None


def find_task_columns(sample: Sample) -> tuple[str | None, str | None] | None:
    """In a JSON object: the key of {task: [verdict, …]} (None = the object itself) and of {task: [text, …]}."""
    document = sample.document
    if not isinstance(document, dict) or not document:
        return None
    if _all_lists(document, marks=True) and not any(MARK_LISTS.search(normalize(str(name))) for name in document):
        return None, None
    inner = {name: value for name, value in document.items() if isinstance(value, dict) and value}
    marks = [name for name, value in inner.items() if _all_lists(value, marks=True)]
    texts = [name for name, value in inner.items() if _all_lists(value, marks=False)]
    return (marks[0], texts[0] if texts else None) if marks else None


def _all_lists(value: dict[Any, Any], *, marks: bool) -> bool:
    if marks:
        return all(parse_marks(item) is not None for item in value.values())
    return all(isinstance(item, list) and all(isinstance(text, str) for text in item) for item in value.values())


def read(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    notes: list[str] = []
    given = [name for name in ("correct", "outcome_reward") if name in options.columns]
    if len(given) == 2:
        raise DataError("--map correct= and --map outcome_reward= both name the list of verdicts; give one of them")
    columns = sorted({options.columns[given[0]]} if given else {name for name in map(find_marks, samples) if name})
    frame = store_records(_rows(samples, options, errors, notes))
    return make_log(
        "sample-lists",
        "the table",
        frame,
        samples=samples,
        coverage=Coverage(reward_is=", ".join(columns) or "the list of verdicts", notes=tuple(dict.fromkeys(notes))),
        ignored=_unread(samples, options) - set(columns),
    )


def _unread(samples: Sequence[Sample], options: Options) -> set[str]:
    """Columns of which no value is used, apart from the lists of verdicts."""
    columns = set().union(*(sample.columns for sample in samples))
    found = map_names(columns, options.columns)
    used = {found[ours] for ours in ("prompt", "source", "level", "answer") if ours in found}
    own = options.columns.get("prompt_id") or find_identity(columns)
    more = (find(columns, TEXT_LISTS), find(columns, LENGTH_LISTS), own)
    return columns - used - set(options.columns.values()) - {name for name in more if name}


def _rows(
    samples: Sequence[Sample], options: Options, errors: ReadErrors, notes: list[str]
) -> Iterator[dict[str, Any]]:
    for sample in samples:
        names = find_task_columns(sample)
        if names is not None:
            yield from _of_tasks(sample, names, options)
            continue
        column = options.columns.get("correct") or options.columns.get("outcome_reward") or find_marks(sample)
        if column is None:
            errors.add(sample.file, 0, "no column with a list of verdicts")
            continue
        short = 0
        for _, line, record in iterate_objects([sample], errors):
            marks = parse_marks(record.get(column))
            if marks is None:
                if record.get(column) in (None, []):
                    short += 1
                else:
                    errors.add(sample.file, line, f"{column} is no list of verdicts")
                continue
            yield from _explode(sample, line, record, marks, options)
        if short:
            notes.append(f"Left out, since the list is empty or missing: {format_count(short, 'prompt')}.")


def _of_tasks(sample: Sample, names: tuple[str | None, str | None], options: Options) -> Iterator[dict[str, Any]]:
    marks = sample.document[names[0]] if names[0] else sample.document
    texts = sample.document[names[1]] if names[1] else {}
    for number, (task, values) in enumerate(marks.items(), start=1):
        record = {"task_id": task, "completions": texts.get(task)}
        yield from _explode(sample, number, record, parse_marks(values) or [], options)


def _explode(
    sample: Sample, line: int, record: dict[str, Any], marks: list[float | None], options: Options
) -> Iterator[dict[str, Any]]:
    columns = set(record)
    given = {ours: theirs for ours, theirs in options.columns.items() if theirs in columns}
    found = map_names(columns, given)
    own = options.columns.get("prompt_id") or find_identity(columns)
    prompt = flatten_text(record.get(found["prompt"])) if "prompt" in found else None
    name = str(line) if prompt is None else hash_content(prompt)
    if own and record.get(own) is not None:
        name = str(record[own])
    text_column = given.get("completion", find(columns, TEXT_LISTS))
    length_column = given.get("completion_tokens", find(columns, LENGTH_LISTS))
    texts = record.get(text_column) if text_column else None
    lengths = record.get(length_column) if length_column else None
    shared = {
        "prompt_id": name,
        "group_id": f"{sample.name}/{name}",
        "source": flatten_text(record.get(found["source"])) if "source" in found else None,
        "level": flatten_text(record.get(found["level"])) if "level" in found else None,
    }
    if "answer" in found and not isinstance(record.get(found["answer"]), list):
        shared["answer"] = flatten_text(record.get(found["answer"]))
    if options.text and prompt is not None:
        shared["prompt"] = prompt
    for index, mark in enumerate(marks):
        text = texts[index] if isinstance(texts, list) and index < len(texts) else None
        length = lengths[index] if isinstance(lengths, list) and index < len(lengths) else None
        row = {**shared, "rollout_index": index, "outcome_reward": mark, "correct": {1.0: True, 0.0: False}.get(mark)}  # type: ignore[arg-type]
        if isinstance(text, str):
            row |= {"completion_chars": len(text), **({"completion": text} if options.text else {})}
        if isinstance(length, int | float):
            row["completion_tokens"] = length
        yield row


FORMAT = Format(
    name="sample-lists",
    title="lists of verdicts per prompt",
    where="LiveCodeBench *_eval_all.json, CRUXEval scores, OpenR1-like parquet, {task: [true, false, …]}",
    shows="every judged sample of a prompt, pass@k",
    cannot="what the lists do not hold (often lengths)",
    detect=detect,
    read=read,
    maps=MAPS,
)
