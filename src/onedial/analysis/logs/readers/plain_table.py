"""Any table with one row per rollout: a prompt (id or text) and whether, or how well, it was answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from onedial.analysis.logs.columns import FILE, cast_boolean, cast_integer, cast_number, cast_text, read_raw
from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.common import column_per_file, find_split, find_step, make_log
from onedial.analysis.logs.readers.names import STRONG_IDS, WEAK_IDS, find, map_names
from onedial.analysis.logs.readers.reward_choice import find_component
from onedial.analysis.logs.schema import REWARD_PART, Coverage, GroupIdentity, Log
from onedial.core.errors import DataError
from onedial.core.tables.read_errors import ReadErrors

NUMBERS = ("outcome_reward", "shaped_reward", "mean_logp", "entropy", "advantage")
WHOLES = ("completion_tokens", "prompt_tokens", "rollout_index", "iteration", "policy_version")
WORDS = ("answer", "parsed_answer", "finish_reason", "source", "level")
MARKS = ("correct", "outcome_reward", "outcome")


def detect(sample: Sample) -> bool:
    found = map_names(sample.columns, {})
    marked = any(name in found and _is_mark(sample, found[name]) for name in MARKS)
    return marked and ("prompt" in found or "group_id" in found or find_identity(sample.columns) is not None)


def _is_mark(sample: Sample, column: str) -> bool:
    """Whether a column's values look like verdicts or rewards (and not, say, like sentences)."""
    from onedial.analysis.logs.lines import to_float

    values = sample.values(column)
    if not values:
        return column in sample.schema and getattr(sample.schema[column], "is_numeric", lambda: False)()
    return sum(to_float(value) is not None for value in values) * 2 >= len(values) or _outcomes(values)


def _outcomes(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) and value.strip().lower() in OUTCOMES for value in values)


OUTCOMES = ("correct", "wrong", "unparseable", "timeout", "error")


def find_identity(columns: set[str]) -> str | None:
    """The column whose name says that it identifies prompts, if there is one."""
    return find(columns, STRONG_IDS) or find(columns, WEAK_IDS)


def read(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    columns = set().union(*(sample.columns for sample in samples))
    found = map_names(columns, options.columns)
    if options.outcome:
        found["outcome_reward"] = _chosen_outcome(samples, columns, options)
        found.pop("correct", None)
    _choose_identity(found, columns, options)
    if not any(name in found for name in MARKS):
        raise DataError(f"{samples[0].file}: {list_needed(columns)}")
    if not options.text:
        found.pop("completion", None)
    wanted = _types(samples, found)
    essential = tuple(found[name] for name in (*MARKS, "prompt_id", "prompt", "group_id") if name in found)
    keep_text = options.text or "prompt" not in found
    raw = read_raw(samples, wanted, essential, errors, hashed=() if keep_text else (found["prompt"],))
    found = {ours: theirs for ours, theirs in found.items() if theirs in raw.collect_schema()}
    _note_unreadable(raw, found, errors)
    notes: list[str] = []
    frame, group_identity = _frame(raw, found, samples, options, notes)
    return make_log(
        "table",
        "the table",
        frame,
        samples=samples,
        coverage=Coverage(group_identity=group_identity, reward_is=_reward_is(found), notes=tuple(notes)),
        ignored=columns - set(found.values()),
    )


def _chosen_outcome(samples: Sequence[Sample], columns: set[str], options: Options) -> str:
    """The column that `--outcome` names. Raises DataError unless it holds verdicts or numbers, or if `--map` also names
    one."""
    mapped = [name for name in ("correct", "outcome_reward") if name in options.columns]
    if mapped:
        raise DataError(
            f"--outcome {options.outcome} and --map {mapped[0]}={options.columns[mapped[0]]} both name the outcome; "
            "give one of them"
        )
    numeric = [name for name in sorted(columns) if any(_is_mark(sample, name) for sample in samples)]
    return find_component(str(options.outcome), numeric)


def list_needed(columns: set[str]) -> str:
    """Says which columns a table must have, and which this one has."""
    return (
        f"no column says whether an answer is right. Columns seen: {', '.join(sorted(columns)[:40]) or 'none'}. "
        "Needed: one of correct, is_correct, passed, acc, reward, score … and a prompt id or prompt text. "
        "Name yours with --map, e.g. --map prompt=question,correct=is_ok"
    )


def _choose_identity(found: dict[str, str], columns: set[str], options: Options) -> None:
    """A column named like an id of prompts; a column named just `id` only if there is no prompt text."""
    if "prompt_id" in found:
        return
    free = columns - set(found.values())
    strong, weak = find(free, STRONG_IDS), find(free, WEAK_IDS)
    if strong is not None and "prompt" not in options.columns:
        found["prompt_id"] = strong
    elif weak is not None and "prompt" not in found and "group_id" not in found:
        found["prompt_id"] = weak


def _types(samples: Sequence[Sample], found: dict[str, str]) -> dict[str, pl.DataType]:
    """Types for text formats: numbers or booleans where every sampled value is one, else text."""
    types: dict[str, pl.DataType] = {}
    for ours, theirs in found.items():
        values = [_value(value, sample) for sample in samples for value in sample.values(theirs) if value != ""]
        marks = bool(values) and all(isinstance(v, bool) for v in values)
        numeric = bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        asked = ours in (*NUMBERS, *WHOLES, "correct", "truncated") or ours.startswith(REWARD_PART)
        types[theirs] = pl.Float64() if numeric and asked else pl.Boolean() if marks and asked else pl.String()
        if values and all(isinstance(value, list) for value in values) and ours == "completion_tokens":
            types[theirs] = pl.List(pl.Int64())
    return types


def _value(value: Any, sample: Sample) -> Any:
    """A sampled value; of a csv file, where all is text, the number or boolean that the text spells."""
    if sample.kind not in ("csv", "tsv") or not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return float(value)
    except ValueError:
        return value


def _note_unreadable(raw: pl.LazyFrame, found: dict[str, str], errors: ReadErrors) -> None:
    """Notes verdicts and rewards that cannot be read as such."""
    have = raw.collect_schema()
    for ours in ("correct", "outcome_reward"):
        if ours not in found or have[found[ours]] != pl.String:
            continue
        bad = pl.col(found[ours]).is_not_null() & cast_number(found[ours], pl.String()).is_null()
        rows = raw.with_columns(__row=pl.int_range(1, pl.len() + 1).over(FILE)).filter(bad)
        for file, row, value in rows.select(FILE, "__row", found[ours]).collect().iter_rows():
            errors.add(
                file, row, f"row {row}: {found[ours]} is {value[:40]!r}, which says neither right nor wrong; left empty"
            )


def _frame(
    raw: pl.LazyFrame, found: dict[str, str], samples: Sequence[Sample], options: Options, notes: list[str]
) -> tuple[pl.LazyFrame, GroupIdentity]:
    have = raw.collect_schema()
    out: dict[str, pl.Expr] = {}
    for ours, theirs in found.items():
        dtype = have[theirs]
        if ours in NUMBERS or ours.startswith(REWARD_PART):
            out[ours] = cast_number(theirs, dtype)
        elif ours in WHOLES:
            out[ours] = cast_integer(theirs, dtype)
        elif ours in WORDS:
            out[ours] = cast_text(theirs, dtype)
        elif ours == "truncated":
            out[ours] = cast_boolean(theirs, dtype)
    if "iteration" not in out and any(find_step(s.file.name) is not None for s in samples) and len(samples) > 1:
        by_file = {s.name: find_step(s.file.name) for s in samples}
        out["iteration"] = column_per_file(samples, by_file, pl.Int64())
        notes.append("The iteration of a row is the number in its file's name.")
    if "split" in found:
        word = cast_text(found["split"], have[found["split"]]).str.to_lowercase()
        out["split"] = (
            pl.when(word.str.starts_with("train")).then(pl.lit("train")).when(word.is_not_null()).then(pl.lit("eval"))
        )
    elif any(find_split(s.place) for s in samples):
        out["split"] = column_per_file(samples, {s.name: find_split(s.place) for s in samples}, pl.String())
    _rewards(out, found, have)
    if "finish_reason" in out and "truncated" not in out:
        out["truncated"] = pl.col(found["finish_reason"]).cast(pl.String).is_in(["length", "max_tokens", "max_length"])
    for ours in ("prompt", "completion"):
        if ours in found and options.text:
            out[ours] = cast_text(found[ours], have[found[ours]])
    if "completion" in found:
        out["completion_chars"] = (
            cast_text(found["completion"], have[found["completion"]]).str.len_chars().cast(pl.Int64)
        )
    identity_words = _groups(samples, found, have, out, notes)
    return raw.select(**out), identity_words


def _rewards(out: dict[str, pl.Expr], found: dict[str, str], have: pl.Schema) -> None:
    """The outcome: a verdict if there is one, and then the reward beside it is the one that trained."""
    if "outcome" in found:
        word = cast_text(found["outcome"], have[found["outcome"]]).str.strip_chars().str.to_lowercase()
        known = pl.when(word.is_in(OUTCOMES)).then(word)
        out["outcome"] = known
        judged = pl.when(known.is_in(["wrong", "unparseable"])).then(False).when(known == "correct").then(True)
        if "correct" not in found and "outcome_reward" not in found:
            passed = pl.when(word.str.starts_with("pass")).then(True).when(word.str.starts_with("fail")).then(False)
            out["correct"] = pl.coalesce(judged, passed)
            out["outcome_reward"] = out["correct"].cast(pl.Float64)
    if "correct" in found:
        theirs, dtype = found["correct"], have[found["correct"]]
        verdict = cast_number(theirs, dtype)
        if "outcome_reward" in found:
            out.setdefault("shaped_reward", out["outcome_reward"])
        out["outcome_reward"], out["correct"] = verdict, cast_boolean(theirs, dtype)


def _reward_is(found: dict[str, str]) -> str:
    if "correct" in found:
        return f"the column {found['correct']}"
    return f"the column {found.get('outcome_reward', found.get('outcome', ''))}"


def _groups(
    samples: Sequence[Sample], found: dict[str, str], have: pl.Schema, out: dict[str, pl.Expr], notes: list[str]
) -> GroupIdentity:
    """Adds prompt_id and group_id to `out`; returns how groups are known."""
    words: GroupIdentity
    prompt_id: pl.Expr | None
    if "prompt_id" in found:
        dtype = have[found["prompt_id"]]
        prompt_id = pl.col(found["prompt_id"]) if dtype.is_integer() else cast_text(found["prompt_id"], dtype)
        words = "given"
    elif "prompt" in found:
        dtype = have[found["prompt"]]
        text = cast_text(found["prompt"], dtype)
        prompt_id = pl.col(found["prompt"]) if dtype == pl.UInt64 else pl.when(text.is_not_null()).then(text.hash())
        words = "inferred from the prompt text"
    else:
        prompt_id, words = None, "given"
    within = [out[name] for name in ("split", "iteration") if name in out]
    if prompt_id is not None:
        out["prompt_id"] = prompt_id
    if "group_id" in found:
        own = cast_text(found["group_id"], have[found["group_id"]])
        words = "given"
    elif prompt_id is not None:
        own = prompt_id
    else:
        notes.append("No column shows which rows answer the same prompt: everything about groups is withheld.")
        return "none"
    if within:
        whole = pl.struct(*(expr.alias(f"k{i}") for i, expr in enumerate([*within, own]))).hash()
        out["group_id"] = pl.when(own.is_not_null()).then(whole)
    else:
        out["group_id"] = own
    if words != "given":
        several = f", whichever of the {len(samples)} files they stand in" if len(samples) > 1 and not within else ""
        notes.append(f"The table names no groups: rows with the same prompt text are taken as one group{several}.")
    return words


FORMAT = Format(
    name="table",
    title="plain table of rollouts",
    where="*.jsonl, *.json, *.csv, *.tsv, *.parquet, *.arrow, *.feather",
    shows="whatever its columns say: a prompt (id or text) and correct, passed, acc, reward or score per row",
    cannot="what no column says",
    detect=detect,
    read=read,
    maps=(
        *NUMBERS,
        *WHOLES,
        *WORDS,
        *MARKS,
        "truncated",
        "split",
        "prompt",
        "completion",
        "prompt_id",
        "group_id",
        REWARD_PART,
    ),
    options=("outcome",),
)
