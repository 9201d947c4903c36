"""What the user may say about a log (`--map`, `--outcome`, `--tries`), and the errors for options that do not apply.

Each format declares the options it takes (`Format.maps`, `Format.options`). An option that would have no effect, or
that names a column or a reward component which the log does not have, is an error that names the nearest match.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onedial.analysis.logs.schema import RATE_COLUMNS, REWARD_PART, ROLLOUT_COLUMNS
from onedial.core.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    from onedial.analysis.logs.formats import Format

MAX_TRIES = 10**6
SHOWN = 40  # names listed in one message
NOT_TAKEN = {
    "map": "the format fixes its columns; to name columns yourself, read it as a plain table with --format table",
    "outcome": "the format logs one reward per rollout and no components to choose from",
    "tries": "only a table of solve rates needs the number of rollouts behind each rate",
}


@dataclass(frozen=True)
class Options:
    """What the user may say about a log.

    columns  our column name → the file's column name (`--map prompt=question`)
    outcome  the reward component to take as outcome (`--outcome accuracy_reward`), or "total"
    tries    rollouts behind each solve rate, where the table does not say (`--tries 64`)
    text     whether prompts and completions are kept (figures alone do not need them)

    Raises ConfigError for a number of tries that is no whole number from 1 to 1,000,000.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    outcome: str | None = None
    tries: int | None = None
    text: bool = True

    def __post_init__(self) -> None:
        tries = self.tries
        if tries is not None and (isinstance(tries, bool) or not isinstance(tries, int) or not 0 < tries <= MAX_TRIES):
            raise ConfigError(f"--tries {tries}: must be a whole number from 1 to {MAX_TRIES:,}")


def check_reader_options(options: Options, form: Format, columns: Collection[str]) -> None:
    """Raises DataError for an option that `form` does not take, or a `--map` of names that do not exist.

    `columns` are the column names of the log's files. Names of reward components are checked where a reader finds
    them (see `choose_component`).
    """
    given = {
        "map": ",".join(f"{ours}={theirs}" for ours, theirs in options.columns.items()),
        "outcome": options.outcome or "",
        "tries": "" if options.tries is None else str(options.tries),
    }
    for option, value in given.items():
        taken = form.maps if option == "map" else option in form.options
        if value and not taken:
            raise DataError(
                f"--{option} {value}: does not apply to {form.title}: {NOT_TAKEN[option]}. {describe_options(form)}"
            )
    for ours, theirs in options.columns.items():
        _check_pair(ours, theirs, form, columns)


def describe_options(form: Format) -> str:
    """One sentence: which options a format takes."""
    names = [*(["--map OURS=THEIRS"] if form.maps else []), *(f"--{name} {name[0].upper()}" for name in form.options)]
    names = [name.replace("--outcome O", "--outcome NAME").replace("--tries T", "--tries N") for name in names]
    return f"This format takes {' and '.join(names) if names else 'none of --map, --outcome and --tries'}."


def _check_pair(ours: str, theirs: str, form: Format, columns: Collection[str]) -> None:
    known = {*ROLLOUT_COLUMNS, *RATE_COLUMNS}
    part = ours.startswith(REWARD_PART) and REWARD_PART in form.maps
    if ours not in known and not part:
        raise DataError(
            f"--map {ours}={theirs}: {ours!r} is not a column of onedial{suggest(ours, form.maps)}; "
            f"{form.title} takes: {list_names(form.maps)}"
        )
    if ours not in form.maps and not part:
        raise DataError(
            f"--map {ours}={theirs}: {form.title} has no use for {ours!r}{suggest(ours, form.maps)}; "
            f"it takes: {list_names(form.maps)}"
        )
    if theirs not in columns:
        raise DataError(
            f"--map {ours}={theirs}: the file has no column {theirs!r}{suggest(theirs, columns)}; "
            f"it has: {list_names(columns) or 'no columns'}"
        )


def list_names(names: Iterable[str]) -> str:
    """Names in order, as many as a message can hold."""
    ordered = sorted({f"{name}NAME" if name == REWARD_PART else name for name in names})
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return ", ".join(ordered[:SHOWN]) + more
