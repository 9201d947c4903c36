"""A log, or an onedial run with its curves, as one self-contained HTML file.

page.py          what the page shows (`write_html` for a log, `write_curves` for a run without rollouts)
samples.py       groups to read
curves.py        metrics.jsonl and, in accuracy.py, eval.jsonl as plots; run_records.py reads both, and
                 group_intervals.py adds the intervals that need the rollouts
render.py        the HTML text: style/*.css and script/*.js put inside
"""

from __future__ import annotations

from onedial.analysis.page.page import make_page_data, write_curves, write_html
from onedial.analysis.page.render import render

__all__ = ["make_page_data", "render", "write_curves", "write_html"]
