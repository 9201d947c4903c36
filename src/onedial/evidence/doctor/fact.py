"""One line of `onedial doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MachineFact:
    """What was found, and what follows from it for a run; `problem` where something will not work as installed."""

    area: str
    name: str
    found: str
    follows: str = ""
    problem: bool = False


def format_gb(count: float) -> str:
    """Bytes as GB: `16.8 GB`."""
    return f"{count / 1e9:.1f} GB"
