"""Renews the command outputs and the code that documents show: `python tools/outputs.py`.

A document marks them by a comment before a block, with the command as a user types it, or a file and a function in it:

    <!-- output: onedial inspect examples/rollouts.jsonl.gz | head -20 -->
    <!-- code: examples/own_loop.py backward -->

The command runs in the checkout, 80 columns wide. `| head -N` keeps its first lines, `| grep -E "A|B"` those that
match. `tests/test_reference_pages.py` compares what the documents show
with what the commands print.
"""

from __future__ import annotations

import ast
import io
import os
import re
import shlex
from contextlib import chdir, redirect_stdout
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"(<!-- output: (?P<command>.+?) -->\n+```text\n)(?P<shown>(?:(?!```)[^\n]*\n)*?)(```)")
COPY = re.compile(r"(<!-- code: (?P<file>\S+) (?P<name>\w+) -->\n+```python\n)(?:(?!```)[^\n]*\n)*?(```)")


def code_of(file: str, name: str) -> str:
    """The source of a function, or of the assignment to a name, at the top of a file."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        names = {getattr(node, "name", None), *(getattr(target, "id", None) for target in getattr(node, "targets", ()))}
        if name in names:
            return ast.get_source_segment(text, node) or ""
    raise SystemExit(f"outputs: {file} has no {name}")


@cache
def printed_by(words: str) -> str:
    """Everything that a command prints; a page may show several parts of it."""
    from onedial.cli.main import main

    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with chdir(ROOT), redirect_stdout(screen):
        code = main(shlex.split(words)[1:])
    if code:
        raise SystemExit(f"outputs: {words!r} ends with exit code {code}")
    screen.seek(0)
    return screen.read()


def output_of(command: str) -> str:
    """What the command prints on a terminal of 80 columns without colours; of that what the filters behind it keep."""
    words, *filters = command.split(" | ")
    lines = printed_by(words).rstrip().splitlines()
    for words_of_filter in map(shlex.split, filters):
        match words_of_filter:
            case ["head", number]:
                lines = lines[: int(number.removeprefix("-"))]
            case ["grep", "-E", pattern]:
                lines = [line for line in lines if re.search(pattern, line)]
            case _:
                raise SystemExit(f"outputs: {command!r}: only head -N and grep -E PATTERN filter")
    return "\n".join(line.rstrip() for line in lines)


def renewed(text: str) -> str:
    """The document with every marked output as its command prints it now, and marked code as it stands in its file."""
    text = COPY.sub(lambda found: f"{found[1]}{code_of(found['file'], found['name'])}\n{found[4]}", text)
    return MARK.sub(lambda found: f"{found[1]}{output_of(found['command'])}\n{found[4]}", text)


def main() -> None:
    """Rewrites the documents that show an output."""
    os.environ.update(COLUMNS="80", NO_COLOR="1")
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if (new := renewed(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(f"renewed: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
