"""Draws docs/images/architecture-{light,dark}.svg: `python tools/diagram.py`.

Boxes are folders of src/onedial, arrows are what passes between them. `tests/test_documents.py` checks that every
folder is drawn.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH, HEIGHT = 920, 610
COLOURS = {
    "light": {"text": "#1c2430", "soft": "#5b6675", "line": "#7a8594", "panel": "#f4f6f9", "box": "#ffffff",
              "edge": "#c3cad4", "file": "#fff6df", "file_edge": "#d9b865", "accent": "#2f5bbd"},
    "dark": {"text": "#e6e9ef", "soft": "#a3adbb", "line": "#8d98a8", "panel": "#262b35", "box": "#30363f",
             "edge": "#4b5463", "file": "#3d3725", "file_edge": "#8f7a43", "accent": "#8fb1ff"},
}  # fmt: skip

Box = tuple[int, int, int, int, str, str, str]  # x, y, width, height, kind, title, what it holds

CORE = "types · errors · algorithm table · settings · files of a run; imports nothing from above"
BOXES: list[Box] = [
    (20, 20, 880, 40, "panel", "cli", "by command: train · eval · inspect · plan · report · algorithms · bench"),
    (20, 100, 330, 370, "panel", "analysis", "no torch"),
    (40, 150, 290, 54, "box", "logs", "readers of every format → one table"),
    (40, 236, 290, 54, "box", "findings", "groups, prompts, figures with intervals"),
    (40, 322, 290, 54, "box", "page", "terminal, JSON, one HTML page"),
    (40, 400, 290, 54, "box", "planning", "which prompts, how many rollouts"),
    (380, 150, 130, 60, "file", "rollout logs", "of any trainer"),
    (380, 236, 130, 60, "file", "run directory", "rollouts, metrics"),
    (380, 397, 130, 60, "file", "plan file", "prompts, tries"),
    (540, 100, 360, 370, "panel", "training", "torch"),
    (560, 142, 150, 54, "box", "tasks", "prompts, answers"),
    (730, 142, 150, 54, "box", "budget", "allocators"),
    (560, 222, 150, 54, "box", "lm", "the language model"),
    (730, 222, 150, 54, "box", "rollout", "engine, collector"),
    (730, 302, 150, 54, "box", "verify", "verdicts, sandbox"),
    (560, 382, 320, 60, "box", "trainer", "pack → advantages → save → update → log"),
    (20, 494, 660, 96, "panel", "core", CORE),
    (40, 530, 300, 52, "box", "maths", "one implementation per formula"),
    (360, 530, 300, 52, "box", "tables", "jsonl, json, csv, parquet, arrow"),
    (700, 494, 200, 42, "panel", "evidence", "explain · reproduce · bench"),
    (700, 548, 200, 42, "panel", "integrations", "in other trainers"),
]  # fmt: skip

ARROWS: list[tuple[tuple[int, int], ...]] = [
    ((185, 204), (185, 236)),
    ((185, 290), (185, 322)),
    ((380, 180), (330, 180)),
    ((380, 260), (355, 260), (355, 190), (330, 190)),
    ((330, 427), (380, 427)),
    ((510, 427), (526, 427), (526, 90), (805, 90), (805, 142)),
    ((710, 169), (730, 169)),
    ((805, 196), (805, 222)),
    ((710, 249), (730, 249)),
    ((805, 276), (805, 302)),
    ((805, 356), (805, 382)),
    ((560, 412), (534, 412), (534, 266), (510, 266)),
    ((635, 382), (635, 276)),
    ((40, 263), (30, 263), (30, 427), (40, 427)),
]
LABELS = [(642, 332, "new weights")]


def draw(colours: dict[str, str]) -> str:
    """The picture as SVG text."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif">',
        "<title>The folders of onedial and what passes between them</title>",
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{colours["line"]}"/></marker></defs>',
    ]
    parts += [_box(box, colours) for box in BOXES]
    for points in ARROWS:
        path = " ".join(f"{x},{y}" for x, y in points)
        style = f'fill="none" stroke="{colours["line"]}" stroke-width="1.5" marker-end="url(#tip)"'
        parts.append(f'<polyline points="{path}" {style}/>')
    parts += [_text(x, y, 12, colours["soft"], label) for x, y, label in LABELS]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _box(box: Box, colours: dict[str, str]) -> str:
    x, y, width, height, kind, title, text = box
    fill = colours[{"panel": "panel", "box": "box", "file": "file"}[kind]]
    edge = colours["file_edge" if kind == "file" else "edge"]
    colour = colours["accent" if kind == "panel" else "text"]
    lines = [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{edge}"/>',
        _text(x + 12, y + 22, 15 if kind == "panel" else 13, colour, title, bold=True),
    ]
    if kind == "panel":
        return "\n".join([*lines, _text(x + 22 + 9 * len(title), y + 22, 12, colours["soft"], text)])
    for number, line in enumerate(text.split("\n")):
        lines.append(_text(x + 12, y + 41 + 17 * number, 12, colours["soft"], line))
    return "\n".join(lines)


def _text(x: int, y: int, size: int, colour: str, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}"{weight}>{escape(text)}</text>'


def main() -> None:
    """Writes both pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for scheme, colours in COLOURS.items():
        (IMAGES / f"architecture-{scheme}.svg").write_text(draw(colours), encoding="utf-8")


if __name__ == "__main__":
    main()
