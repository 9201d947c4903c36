"""ms-swift: completions.jsonl, one object of lists per flush (its Ray trainer writes lists of rows).

The lists come from queues that hold one generation batch. Therefore only the last batch before a flush is in the log, a
batch may be written twice, and columns may have been cut to the length of the shortest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.common import find_split, format_count, make_log
from onedial.analysis.logs.readers.group_order import BY_ORDER, BY_TEXT, number_blocks
from onedial.analysis.logs.readers.messages import flatten_text, hash_content
from onedial.analysis.logs.readers.reward_choice import choose_component
from onedial.analysis.logs.readers.rows import as_float, read_whole
from onedial.analysis.logs.readers.trl import measure_overlap
from onedial.analysis.logs.schema import REWARD_PART, Coverage, Log
from onedial.analysis.logs.store import store_records
from onedial.core.tables.file_kinds import kind_of_name
from onedial.core.tables.json_records import read_json_values
from onedial.core.tables.read_errors import ReadErrors

KNOWN = ("step", "gen_step", "prompt", "completion", "advantages", "advantage", "entropy", "image", "images")


def detect(sample: Sample) -> bool:
    if sample.kind != "jsonl" or not sample.rows:
        lone = sample.kind == "json" and kind_of_name(sample.file) == "jsonl" and isinstance(sample.document, list)
        return lone and sample.has("prompt", "completion", "gen_step")  # a single flush, which is one array
    first = next((row for row in sample.rows if isinstance(row, dict)), None)
    if first is not None:
        lists = isinstance(first.get("prompt"), list) and isinstance(first.get("completion"), list)
        return lists and ("step" in first or "gen_step" in first or "advantages" in first) and "example_id" not in first
    rows = next((row for row in sample.rows if isinstance(row, list) and row), None)
    return rows is not None and isinstance(rows[0], dict) and {"prompt", "completion", "gen_step"} <= set(rows[0])


def read(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    parts = _components(samples)
    outcome, reward_is = choose_component(parts, options) if parts or options.outcome else (None, "")
    counts = {"repeated": 0, "cut": 0, "split": 0}
    frame = store_records(_rows(samples, options, errors, parts, outcome, counts))
    notes = [
        "Only the last generation batch before each flush is in the log: shares describe that sample of the run, and "
        "totals such as tokens are not the run's.",
    ]
    if counts["split"]:
        notes.append(
            "The log names no groups: equal blocks of neighboring rows with one prompt are taken as groups. "
            f"{format_count(counts['split'], 'group')} would be merged with another by the prompt text alone, because "
            "the prompt was drawn more than once."
        )
    else:
        notes.append("The log names no groups: rows of one flush with the same prompt are taken as one group.")
    if len(parts) > 1:
        notes.append(f"Several reward columns: outcome is {reward_is}. Choose another with --outcome NAME or total.")
    if counts["repeated"]:
        notes.append(f"Counted once, since they repeat the flush before: {format_count(counts['repeated'], 'row')}.")
    if counts["cut"]:
        notes.append(f"Left out, since they are cut off in some column: {format_count(counts['cut'], 'row')}.")
    return make_log(
        "ms-swift",
        "ms-swift",
        frame,
        samples=samples,
        coverage=Coverage(
            last_batch_only=True,
            evaluation_mixed_in=None,
            group_identity=BY_ORDER if counts["split"] else BY_TEXT,
            reward_is=reward_is,
            notes=tuple(notes),
        ),
        why=dict.fromkeys(
            ("completion_tokens", "prompt_tokens", "truncated", "finish_reason"), "ms-swift logs text, no token counts"
        ),
    )


def _components(samples: Sequence[Sample]) -> list[str]:
    """The columns of the reward functions: numbers, with names that are not ms-swift's own."""
    names: dict[str, None] = {}
    for row in (row for sample in samples for row in sample.rows):
        for table in _tables(row):
            for name, values in table.items():
                known = [value for value in values if value is not None]
                if name not in KNOWN and known and all(as_float(value) is not None for value in known):
                    names[name] = None
    return list(names)


def _tables(row: Any) -> list[dict[str, list[Any]]]:
    """A flush as a dict of lists; nothing if the line is not a flush."""
    if isinstance(row, dict) and isinstance(row.get("prompt"), list):
        return [{name: values for name, values in row.items() if isinstance(values, list)}]
    if isinstance(row, list) and row and all(isinstance(item, dict) for item in row):
        return [{name: [item.get(name) for item in row] for name in dict.fromkeys(n for item in row for n in item)}]
    if isinstance(row, dict) and isinstance(row.get("prompt"), str):
        return [{name: [value] for name, value in row.items()}]
    return []


def _rows(
    samples: Sequence[Sample],
    options: Options,
    errors: ReadErrors,
    parts: list[str],
    outcome: str | None,
    counts: dict[str, int],
) -> Iterator[dict[str, Any]]:
    for sample in samples:
        before: list[int] = []
        for line, value in read_json_values(sample.file, errors):
            tables = _tables(value)
            if not tables:
                errors.add(sample.file, line, "no flush of completions: prompt is not a list")
                continue
            table = tables[0]
            used = [name for name in ("prompt", "completion", *parts) if name in table]
            size = min(len(table[name]) for name in used)
            counts["cut"] += max(len(table[name]) for name in used) - size
            hashes = [hash(hash_content([table[name][i] for name in used])) for i in range(size)]
            prompts = [hash_content(prompt) for prompt in table["prompt"][:size]]
            blocks = number_blocks(prompts)
            repeated = measure_overlap(before, hashes, prompts)
            named = set(zip(prompts[repeated:], blocks[repeated:], strict=True))
            counts["split"] += len(named) - len(set(prompts[repeated:]))
            counts["repeated"] += repeated
            before = hashes
            for i in range(repeated, size):
                row = _row(sample, line, table, i, parts, outcome, options)
                yield {**row, "group_id": f"{row['group_id']}/{blocks[i]}"}


def _row(
    sample: Sample,
    line: int,
    table: dict[str, list[Any]],
    i: int,
    parts: list[str],
    outcome: str | None,
    options: Options,
) -> dict[str, Any]:
    def at(name: str) -> Any:
        values = table.get(name, [])
        return values[i] if i < len(values) else None

    prompt, completion = flatten_text(at("prompt")) or "", flatten_text(at("completion"))
    rewards = {name: as_float(at(name)) for name in parts}
    known = [value for value in rewards.values() if value is not None]
    step = at("step") if at("step") is not None else at("gen_step")
    credit = at("advantages") if at("advantages") is not None else at("advantage")
    row: dict[str, Any] = {
        "split": find_split(sample.place.name),
        "iteration": read_whole(step),
        "prompt_id": hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()[:16],
        "group_id": "",
        "outcome_reward": rewards.get(outcome) if outcome else (sum(known) if known else None),
        "advantage": as_float(credit),
        "entropy": as_float(at("entropy")),
        "completion_chars": None if completion is None else len(completion),
    }
    row["group_id"] = f"{sample.name}/{line}/{row['prompt_id']}"
    if len(parts) > 1:
        row |= {REWARD_PART + name: value for name, value in rewards.items()}
        row["shaped_reward"] = sum(known) if known else None
    if options.text:
        row |= {"prompt": prompt, "completion": completion}
    return row


FORMAT = Format(
    name="ms-swift",
    title="ms-swift completions",
    where="OUTPUT_DIR/completions.jsonl",
    shows="rewards per function, advantages, entropy where logged, text",
    cannot="token counts, truncation; batches between flushes; evaluation is unmarked",
    detect=detect,
    read=read,
    options=("outcome",),
)
