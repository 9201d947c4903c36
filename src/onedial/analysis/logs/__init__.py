"""Rollout logs and rate tables of every known writer, read into one columnar schema.

log = onedial.analysis.logs.read("runs/x")            # a file or a folder; the format is detected
log.frame                                    # polars LazyFrame, one row per rollout (schema.py)
log.coverage.notes                           # what this log cannot show, in words
"""

from __future__ import annotations

from onedial.analysis.logs.detect import ALIASES, FORMATS, read, with_log
from onedial.analysis.logs.formats import Format
from onedial.analysis.logs.grouping import Scale, find_scale, group_rollouts, is_right
from onedial.analysis.logs.readers.onedial_run import without_rollouts
from onedial.analysis.logs.schema import RATE_COLUMNS, ROLLOUT_COLUMNS, Coverage, Log
from onedial.core.tables.read_errors import Broken

__all__ = [
    "ALIASES",
    "FORMATS",
    "RATE_COLUMNS",
    "ROLLOUT_COLUMNS",
    "Broken",
    "Coverage",
    "Format",
    "Log",
    "Scale",
    "find_scale",
    "group_rollouts",
    "is_right",
    "read",
    "with_log",
    "without_rollouts",
]
