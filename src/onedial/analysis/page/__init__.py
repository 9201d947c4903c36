"""Findings as one self-contained HTML file: `write_html(path, log)`, and `write_run` for onedial's own runs."""

from __future__ import annotations

from onedial.analysis.page.page import page_data, render, write_curves, write_html

__all__ = ["page_data", "render", "write_curves", "write_html"]
