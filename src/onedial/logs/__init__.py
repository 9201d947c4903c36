"""Rollout logs and rate tables of every known writer, read into one columnar schema.

    log = onedial.logs.read("runs/x")            # a file or a folder; the format is detected
    log.frame                                    # polars LazyFrame, one row per rollout (schema.py)
    log.coverage.notes                           # what this log cannot show, in words
"""

from __future__ import annotations
