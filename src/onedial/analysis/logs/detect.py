"""From a path to a `Log`: which files, which format, which reader. The table of formats is `FORMATS`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from onedial.analysis.logs.file_samples import take_sample
from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.grouping import SILENT_KINDS, group_rollouts
from onedial.analysis.logs.log_files import find_data_files
from onedial.analysis.logs.reader_options import Options, check_reader_options
from onedial.analysis.logs.readers import (
    code,
    lists,
    nemo,
    onedial_run,
    open_instruct,
    plain_table,
    rates,
    swift,
    tinker,
    traces,
    trl,
    verifiers_results,
    verl,
)  # fmt: skip
from onedial.analysis.logs.readers.common import format_count, join_names
from onedial.analysis.logs.readers.onedial_run import without_rollouts
from onedial.analysis.logs.schema import RATE_COLUMNS, ROLLOUT_COLUMNS, Log
from onedial.core.errors import DataError, suggest
from onedial.core.tables.arrow_parts import DAMAGE
from onedial.core.tables.file_bytes import describe_failure
from onedial.core.tables.read_errors import ReadErrors

T = TypeVar("T")

FORMATS: Mapping[str, Format] = {
    form.name: form
    for form in (
        onedial_run.FORMAT,
        traces.FORMAT,
        verifiers_results.FORMAT,
        open_instruct.FORMAT,
        tinker.FORMAT,
        nemo.FORMAT,
        swift.FORMAT,
        trl.FORMAT,
        verl.FORMAT,
        code.FORMATS["lm-eval"],
        code.FORMATS["evalplus"],
        lists.FORMAT,
        code.FORMATS["humaneval"],
        rates.FORMAT,
        plain_table.FORMAT,
    )
}
"""In the order in which they are tried: the most particular first."""

ALIASES = {
    "prime-rl": "traces",
    "verifiers-v1": "traces",
    "verifiers-legacy": "verifiers",
    "livecodebench": "sample-lists",
    "cruxeval": "sample-lists",
    "bigcodebench": "evalplus",
    "plain": "table",
    "swift": "ms-swift",
    "nemo": "nemo-rl",
}

NO_LOG = {
    "openrlhf": "OpenRLHF 0.11 writes no rollout log: it sends one sample per step to wandb or TensorBoard and "
    "nothing to disk. Dump prompt, completion and reward per rollout from your reward function as JSON lines; onedial "
    "reads that as a plain table",
}

CHANCE_TO_TELL = 0.05  # at most this likely by chance, a log without silent groups is taken for a filtered one
COMPANIONS = re.compile(r"^(metrics|eval|manifest)\.jsonl$|^(metadata|config|plan|sandbox)\.json$|_metadata\.jsonl$")
"""Files that stand beside a log as a rule; nobody misses their rows."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""What lies beside these (a tokenizer, a configuration, a trainer's state) describes a model."""


def read(
    path: str | Path,
    format: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    outcome: str | None = None,
    tries: int | None = None,
    text: bool = True,
    repair: bool = False,
) -> Log:
    """Read a rollout log or a rate table: a file, or a folder of files.

    `format` is a name of `FORMATS`, detected when None. `columns` maps our names to the file's
    ({"prompt": "question"}); `outcome` names the reward component to take as outcome, or "total"; `tries` is the
    number of rollouts behind each solve rate; `text=False` leaves prompts and completions out; `repair` reads parquet
    and arrow files part by part and leaves damaged parts out (`with_log` does so where it is needed).
    Raises DataError when nothing there can be read as a log; broken lines are counted in the result instead.
    """
    options, errors = Options(dict(columns or {}), outcome, tries, text), ReadErrors()
    path = Path(path)
    if why := without_rollouts(path):
        raise DataError(f"{why} (onedial report {path} draws its curves)")
    files = find_data_files(path, errors)
    form, samples, unread = choose_format(path, files, format, options, errors)
    check_reader_options(options, form, set().union(*(sample.columns for sample in samples)))
    log = form.read([replace(sample, repair=repair) for sample in samples], options, errors)
    if format and not any(map(form.detect, samples)) and log.frame.head(1).collect().is_empty():
        raise DataError(
            f"--format {format}: no line of {path} can be read as {form.title}; leave --format out to have it detected"
        )
    notes = log.coverage.notes
    models = {folder for folder in {file.parent for file in unread} if any(any(folder.glob(w)) for w in WEIGHTS)}
    unread = [file for file in unread if not COMPANIONS.search(file.name) and file.parent not in models]
    if unread:
        number, names = len(unread), join_names([file.name for file in unread], 4)
        verbs = ("is", "was") if number == 1 else ("are", "were")
        notes += (f"{format_count(number, 'file')} here {verbs[0]} not of this log and {verbs[1]} not read: {names}.",)
    log = replace(
        log,
        broken=tuple(errors.places),
        broken_lines=errors.count,
        coverage=replace(log.coverage, notes=notes),
    )
    return _tell_survivors(log)


def with_log(then: Callable[[Log], T], path: str | Path, format: str | None = None, **options: Any) -> T:
    """The result of `then`, called with the log at `path`; `format` and `options` as in `read`.

    Columns of parquet and arrow files are read when they are needed. If one turns out to be damaged only then,
    everything is repeated without the damaged parts, which are counted. Raises DataError if that does not help either.
    """
    try:
        return then(read(path, format, **options))
    except DAMAGE:
        try:
            return then(read(path, format, repair=True, **options))
        except DAMAGE as problem:
            raise DataError(f"{path}: cannot be read: {describe_failure(problem)}") from problem


def choose_format(
    path: Path, files: Sequence[Path], format: str | None, options: Options, errors: ReadErrors
) -> tuple[Format, list[Sample], list[Path]]:
    """(format, samples of its files, files left unread)."""
    form = get_format(format) if format else None
    seen: dict[str, list[Sample]] = {}
    unread: list[Path] = []
    samples: list[Sample] = []
    for file in files:
        sample = take_sample(file, errors, path)
        if sample is None:
            unread.append(file)
            continue
        samples.append(sample)
        name = next((name for name, known in FORMATS.items() if known.detect(sample)), None)
        if name:
            seen.setdefault(name, []).append(sample)
    if form is None:
        form = next((known for name, known in FORMATS.items() if name in seen), None)
        mapped = _mapped_format(form, options) if samples else None
        if mapped is not None:
            chosen = seen.get(form.name if form else "", samples)
            return mapped, chosen, unread + _files_without(samples, chosen)
    if form is None:
        raise DataError(_not_recognized(path, samples, errors))
    chosen = seen.get(form.name) or (samples if format else [])
    if not chosen:
        raise DataError(f"{path}: nothing in it can be read as {form.title}. {_not_recognized(path, samples, errors)}")
    return form, chosen, unread + _files_without(samples, chosen)


def _files_without(samples: Sequence[Sample], chosen: Sequence[Sample]) -> list[Path]:
    taken = {sample.file for sample in chosen}
    return [sample.file for sample in samples if sample.file not in taken]


def _mapped_format(detected: Format | None, options: Options) -> Format | None:
    """Rates or rollouts, if `--map` shows it: by columns that only one of the two kinds of table has.

    None if it does not show it, and for formats whose columns are fixed.
    """
    if not options.columns or (detected is not None and not detected.maps):
        return None
    only_rates = set(options.columns) & (set(RATE_COLUMNS) - set(ROLLOUT_COLUMNS))
    if only_rates:
        return FORMATS["rates"]
    for_rollouts = not set(options.columns) <= set(FORMATS["rates"].maps)
    if detected is None or (detected.name == "rates" and for_rollouts):
        return FORMATS["table"]
    return None


def get_format(name: str) -> Format:
    """The format of that name or alias; DataError names the nearest."""
    name = name.lower()
    if name in NO_LOG:
        raise DataError(f"--format {name}: {NO_LOG[name]}")
    name = ALIASES.get(name, name)
    if name not in FORMATS:
        raise DataError(
            f"--format {name}: not a known format{suggest(name, [*FORMATS, *ALIASES])}; "
            f"allowed: {', '.join(FORMATS)} (onedial inspect --formats says what each is)"
        )
    return FORMATS[name]


def _not_recognized(path: Path, samples: Sequence[Sample], errors: ReadErrors) -> str:
    if not samples:
        why = f" ({errors.places[0].reason})" if errors.places else ""
        return (
            f"{path}: there is no readable data in it{why}. onedial reads .jsonl, .json, .csv, .tsv, .parquet, .arrow "
            "and .feather files, compressed or not, and folders of them"
        )
    first = samples[0]
    where = path if path.is_file() else path.parent / first.place  # not a decompressed copy
    columns = join_names(sorted(map(repr, sorted(first.columns)[:30])), 30) if first.columns else "none"
    if first.columns and not first.rows:
        return f"{where}: a header and no rows: there is nothing to look at. Columns seen: {columns}"
    return (
        f"{where}: not recognized as a rollout log or a rate table. Columns seen: {columns}. Needed: a prompt (an "
        "id or text) and, per row, correct / passed / reward / score, or per prompt a solve rate. Name your columns "
        "with --map, e.g. --map prompt=question,correct=is_ok, or the format with --format (onedial inspect --formats)"
    )


def _tell_survivors(log: Log) -> Log:
    """If the format allows a filter before logging, decides from the groups whether it was on."""
    if log.kind != "rollouts" or log.coverage.survivors_only is not None or not log.has("group_id"):
        return log
    groups = group_rollouts(log).select("kind", "c", "n").collect(engine="streaming")
    mixed = groups.filter(pl.col("kind") == "mixed")
    if groups.get_column("kind").is_in(SILENT_KINDS).any():
        return replace(log, coverage=replace(log.coverage, survivors_only=False))
    if chance_of_no_silence(mixed.get_column("c").to_numpy(), mixed.get_column("n").to_numpy()) > CHANCE_TO_TELL:
        note = (
            "Whether silent groups were dropped before logging cannot be seen from "
            f"{format_count(len(mixed), 'mixed group')}."
        )
        return replace(log, coverage=replace(log.coverage, notes=(*log.coverage.notes, note)))
    note = (
        f"Not one of {len(mixed):,} groups is silent, where by chance some would be: they were dropped before the log "
        "was written. The log holds survivors only; silent shares, solve rates and pass@k of the run cannot be had "
        "from it."
    )
    return replace(log, coverage=replace(log.coverage, survivors_only=True, notes=(note, *log.coverage.notes)))


def chance_of_no_silence(right: np.ndarray, tries: np.ndarray) -> float:
    """The chance that none of these groups is silent, if each is drawn at its own share of right answers (one entry per
    group).

    1 for a group that is mixed by graded rewards, because graded rewards are hardly ever equal.
    """
    if ((right <= 0) | (right >= tries)).any():
        return 1.0
    p = right / tries
    return float(np.prod(1 - p**tries - (1 - p) ** tries))
