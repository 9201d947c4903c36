"""Page data as one self-contained HTML text: styles, scripts and data inside, no network.

Text of a log must be treated as hostile: models write HTML, scripts, terminal escapes and right-to-left overrides. It
enters the page in a JSON block in which `<`, `>` and `&` are escaped, it reaches the screen only through text nodes
(script/dom.js), and the content security policy allows no script or style except the two whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from onedial.core.palette import GROUP_KINDS
from onedial.core.text_safety import escape_control

# Joined in this order into one style and one script element; each file says at its top what is in it.
STYLES = ("base", "cards", "plots", "groups", "print")
SCRIPTS = ("dom", "format", "tip", "axes", "bars", "lines", "dial", "plot", "table", "findings", "groups", "main")
BEGIN = '"use strict";\nconst DATA = JSON.parse(document.getElementById("data").textContent);\n'


def render(data: Mapping[str, Any]) -> str:
    """Returns the HTML text of `make_page_data`."""
    style, script = _style(), BEGIN + _joined("script", SCRIPTS, "js")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_title(str(data['title']))}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<script type="application/json" id="data">{_json(data)}</script>\n'
        "<noscript>This page draws its plots with the script inside it; allow scripts for this file.</noscript>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _style() -> str:
    """The style sheet; the colors of the kinds of groups come from the palette that the terminal uses too."""
    light = "".join(f"--{kind}: {style.light}; " for kind, style in GROUP_KINDS.items())
    dark = "".join(f"--{kind}: {style.dark}; " for kind, style in GROUP_KINDS.items())
    kinds = (
        f':root {{ {light}}}\n:root[data-theme="dark"] {{ {dark}}}\n'
        f'@media print {{ :root, :root[data-theme="dark"] {{ {light}}} }}\n'
    )
    return kinds + _joined("style", STYLES, "css")


def _joined(folder: str, names: tuple[str, ...], ending: str) -> str:
    place = files("onedial.analysis.page") / folder
    return "\n".join((place / f"{name}.{ending}").read_text(encoding="utf-8") for name in names)


def _json(data: Mapping[str, Any]) -> str:
    text = json.dumps(_escape_all(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _escape_all(value: Any) -> Any:
    """`value` with every text in it, keys included, made safe by `escape_control`."""
    if isinstance(value, str):
        return escape_control(value)
    if isinstance(value, Mapping):
        return {escape_control(str(key)): _escape_all(item) for key, item in value.items()}
    return [_escape_all(item) for item in value] if isinstance(value, list | tuple) else value


def _title(text: str) -> str:
    text = escape_control(text).replace("\n", " ")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
