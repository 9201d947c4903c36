"""The explainer: one HTML page on which a reader moves sliders and sees what GRPO, Dr. GRPO and DAPO do.

The page needs no network and no model. Its formulas are written in JavaScript (explain_formulas.js); a browser test
compares them with `onedial.core.maths`. The algorithm rows come from the table, so a new row appears by itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from onedial import __version__
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.errors import DataError
from onedial.core.paths import write_atomically

SCRIPTS = ("explain_formulas.js", "explain_charts.js", "explain_sections.js")
FOOTER = f"onedial {__version__}. This file is complete: it loads nothing from anywhere."


def write_explainer(path: Path) -> Path:
    """Writes the page to `path` and returns it. Raises DataError when the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, render_explainer())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; choose another place with --output") from error
    return path


def render_explainer() -> str:
    """Returns the page as HTML text. Its content security policy allows the one style and the one script inside."""
    style, script = _read("explain.css"), "\n".join(_read(name) for name in SCRIPTS)
    data = json.dumps(make_explainer_data(), ensure_ascii=False).replace("<", "\\u003c").replace("&", "\\u0026")
    policy = f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}"
    parts = {"policy": policy, "style": style, "script": script, "data": data, "footer": FOOTER}
    page = _read("explain.html")
    for name, text in parts.items():
        page = page.replace(f"{{{name}}}", text)
    return page


def make_explainer_data() -> dict[str, Any]:
    """Returns what the page's scripts read: the rows with group advantages, and one group of a real training run."""
    group = json.loads(_read("explain_group.json"))
    rows = [_cells(row, group["budget"]) for row in ALGORITHMS.values() if _compares_a_group(row)]
    return {"rows": rows, "group": group}


def _compares_a_group(row: Algorithm) -> bool:
    """Whether a row's advantages follow from the rewards and lengths of one group alone."""
    judged, apart = row.reward in ("task", "signed"), row.pass_k == 1 and row.listwise == "none"
    alone = isinstance(row.baseline, str) and not row.needs_critic and not row.needs_belief
    return row.source == "policy" and judged and apart and alone


def _cells(row: Algorithm, budget: int) -> dict[str, Any]:
    names = ("name", "baseline", "dial", "ddof", "eps", "aggregate", "keep")
    shaping = {"signed": row.reward == "signed", "buffer": row.penalty_buffer(budget)}
    return {name: getattr(row, name) for name in names} | shaping


def _read(name: str) -> str:
    return (files("onedial.evidence") / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
