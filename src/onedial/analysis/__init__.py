"""The analysis wing: readers of rollout logs, figures and findings, the planner and the page. It needs no torch.

from onedial.analysis import analyze, read
analysis = analyze(read("runs/x"))
analysis.figures["silent_share"], [finding.headline for finding in analysis.findings]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onedial.analysis.logs import read
    from onedial.analysis.result import Analysis, analyze

__all__ = ["Analysis", "analyze", "read"]

_HOMES = {"Analysis": "result", "analyze": "result", "read": "logs"}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that `import onedial.analysis` loads no data library."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
