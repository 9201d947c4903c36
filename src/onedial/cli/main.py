"""The command line: `onedial COMMAND …`.

A command is a module `onedial.cli.NAME` with `HELP` (text whose first line is the summary),
`configure(parser)` and `run(args) -> exit code`. Only the chosen one is imported, so that help comes at once.

Exit codes: 0 done, 2 a mistake that the person can mend (one message on stderr), 130 interrupted, 141 reader gone.
Set ONEDIAL_TRACEBACK=1 to see where a message came from.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from onedial import __version__
from onedial.core.errors import ConfigError, OnedialError, nearest
from onedial.core.text_safety import escape_control

# Every command there may be, in the order a newcomer meets them; those whose module is absent are not shown.
COMMANDS = (
    "train", "eval", "compare", "inspect", "plan", "report", "reproduce", "algorithms", "explain", "bench", "doctor",
)  # fmt: skip
PROG = "onedial"
WIDTH = 80
EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_PIPE = 2, 130, 141


def available() -> dict[str, str]:
    """The commands of this installation with their one-line summaries, in display order."""
    return {name: _summary(path) for name in COMMANDS if (path := _module_file(name)) is not None}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code; a mistake of the user is one message, never a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except OnedialError as error:
        if os.environ.get("ONEDIAL_TRACEBACK"):
            raise
        print(f"{PROG}: {escape_control(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `onedial … | head` closed the pipe; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        if words[1:]:
            return _dispatch([words[1], "--help"])
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"{PROG} {__version__}")
        return 0
    name = words[0]
    commands = available()
    if name not in commands:
        kind = "option" if name.startswith("-") else "command"
        message = f"unknown {kind} {name!r}{nearest(name, commands)}"
        print(f"{PROG}: {escape_control(message)}\n{PROG}: commands: {', '.join(commands)}", file=sys.stderr)
        return EXIT_USER_ERROR
    module = importlib.import_module(f"onedial.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"{PROG} {name}",
        description=fitted(module.HELP.strip(), min(WIDTH, shutil.get_terminal_size().columns)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    rest, settings = _dotted(words[1:], getattr(module, "DOTTED", ()))
    args, unknown = parser.parse_known_args(rest)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        message = f"unknown argument {unknown[0]!r}{nearest(unknown[0].partition('=')[0], flags)}"
        print(f"{PROG} {name}: {escape_control(message)} ({PROG} {name} --help lists all)", file=sys.stderr)
        return EXIT_USER_ERROR
    args.dotted = settings
    code: int = module.run(args)
    return code


def _dotted(words: Sequence[str], sections: Sequence[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Takes `--SECTION.NAME VALUE` and `--SECTION.NAME=VALUE` out of the words, for the sections a command declares.

    Which names exist depends on the values of other options (the task, the row), so they are not flags of argparse.
    """
    rest: list[str] = []
    settings: dict[str, dict[str, str]] = {}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        section, _, name = key.partition(".")
        if not word.startswith("--") or not name or section not in sections:
            rest.append(word)
            continue
        if not equals:
            if not queue or queue[0].startswith("--"):  # the next option is not its value
                raise ConfigError(f"{word} needs a value, as in {word}=VALUE")
            value = queue.pop(0)
        settings.setdefault(section, {})[name] = value
    return rest, settings


def overview() -> str:
    """The text of `onedial --help`, at most WIDTH columns wide."""
    commands = available()
    width = max((len(name) for name in commands), default=0)
    lines = [
        f"{PROG} {__version__}: post-train language models with verifiable rewards",
        "",
        f"usage: {PROG} COMMAND [options]",
        "",
        *(f"  {name:<{width}}  {summary}" for name, summary in commands.items()),
        "",
        f"More on one command: {PROG} COMMAND --help",
    ]
    return fitted("\n".join(lines), WIDTH)


def fitted(text: str, width: int) -> str:
    """`text` with lines longer than `width` broken; the rest hangs under the line's second column, if it has one."""
    lines = []
    for line in text.splitlines():
        column = re.match(r" *\S.*? {2,}(?=\S)", line)
        hang = len(column[0]) if column is not None and len(column[0]) < width * 2 // 3 else 0
        lines += textwrap.wrap(line, width, subsequent_indent=" " * hang, break_on_hyphens=False) or [""]
    return "\n".join(lines)


def _module_file(name: str) -> Path | None:
    """Where the command's module lies, without importing it."""
    spec = importlib.util.find_spec(f"onedial.cli.{name}")
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _summary(path: Path) -> str:
    """First line of the module's HELP constant, read from the source: importing it could load torch."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "HELP" for target in targets):
            text: str = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            return text.strip().splitlines()[0].rstrip(".")
    return ""


if __name__ == "__main__":
    sys.exit(main())
