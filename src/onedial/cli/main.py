"""The command line: `onedial COMMAND …`.

A command is a module `onedial.cli.NAME` with `HELP` (what follows its summary in `--help`), `configure(parser)` and
`run(args) -> exit code`. Only the chosen module is imported, so that help is shown at once.

Flags are written with hyphens (`--group-size`); underscores are accepted everywhere. Exit codes: 0 done, 1 a check
failed (conformance, doctor), 2 a mistake that the user can fix (one message on stderr), 3 no signal (inspect --follow),
130 interrupted, 141 the reader of a pipe has closed it. Set ONEDIAL_TRACEBACK=1 to see where a message came from.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Sequence
from typing import NoReturn

from onedial import __version__
from onedial.core.errors import ConfigError, OnedialError, explain_missing_extra, suggest
from onedial.core.text_safety import cut_long_words, escape_control

COMMANDS = {
    "train": "Train a model with verifiable rewards, or resume a run",
    "eval": "Measure accuracy on held-out prompts: avg@k, pass@k, maj@k",
    "compare": "Train rows on the same seeds at equal generated tokens; intervals of their differences",
    "inspect": "See which groups of a rollout log gave a gradient, and what silent ones cost",
    "plan": "Group size, tries and weight per prompt for a budget, from a log or a table of solve rates",
    "report": "One self-contained HTML page: findings, curves, and sample groups to read",
    "algorithms": "Show the table of algorithms with their papers",
    "allocators": "Show the table of allocators: which prompts are sampled, and how often",
    "explain": "Write a page of sliders that shows what GRPO, Dr. GRPO and DAPO do",
    "reproduce": "Measure a published claim again, with a verdict; --list shows all",
    "doctor": "See what is installed here, what a run will use of it, and why",
    "conformance": "Check a trainer's advantage and loss functions for known bugs and identities",
    "bench": "Speed and memory beside transformers, TRL, vLLM and the machine's own ceiling",
}
"""Every command with its summary, in the order a newcomer meets them."""
PROG = "onedial"
WIDTH = 80
EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_PIPE = 2, 130, 141


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one message, like all other errors."""

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError instead of printing the usage and leaving."""
        raise ConfigError(f"{self.prog.removeprefix(PROG).strip()}: {message} ({self.prog} --help lists all options)")


class Interrupt(KeyboardInterrupt):
    """Ctrl-C. After a plain KeyboardInterrupt in code that is compiled from text, as a dataclass is, Python ends by the
    signal even where it was caught, and not with our exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; a mistake of the user is one message, never a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _listen_for_interrupts()
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _tell_interrupted()
    except BrokenPipeError:
        # `onedial … | head` closed the pipe; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except (OnedialError, OSError, ModuleNotFoundError) as error:
        message = explain_error(error)
        if message is None or os.environ.get("ONEDIAL_TRACEBACK"):
            raise
        print(f"{PROG}: {cut_long_words(escape_control(message))}", file=sys.stderr)
        return EXIT_USER_ERROR


def _listen_for_interrupts() -> None:
    """Makes Ctrl-C raise Interrupt, unless whoever called has other plans for it."""
    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raise_interrupt)


def _raise_interrupt(number: int, frame: object) -> NoReturn:
    raise Interrupt


def _tell_interrupted() -> int:
    """Prints the line and returns the exit code; from here on one more Ctrl-C ends the process at once."""
    try:
        if signal.getsignal(signal.SIGINT) is _raise_interrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:  # polars raises one of its own, and the same Ctrl-C once more when it is left
        return _tell_interrupted()
    print(f"{PROG}: interrupted", file=sys.stderr)
    return EXIT_INTERRUPTED


def explain_error(error: Exception) -> str | None:
    """The message for an error that the user can fix; None for a fault of the program."""
    if isinstance(error, OnedialError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        missing = explain_missing_extra(error)
        return None if missing is None else str(missing)
    if isinstance(error, OSError):  # the disk is full, a folder may not be written, a file has just been removed …
        return str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
    return None


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        if words[1:]:
            return _dispatch([words[1], "--help"])
        print(format_overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"{PROG} {__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        raise ConfigError(f"unknown {kind} {name!r}{suggest(name, COMMANDS)}\n{PROG}: commands: {', '.join(COMMANDS)}")
    return _run(name, words[1:])


def _run(name: str, words: list[str]) -> int:
    """Parses the words after a command and runs it."""
    module = importlib.import_module(f"onedial.cli.{name}")
    parser = Parser(
        prog=f"{PROG} {name}",
        description=wrap_help(
            f"{COMMANDS[name]}\n\n{module.HELP.strip(chr(10))}", min(WIDTH, shutil.get_terminal_size().columns)
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    check_words(name, words, empty=hasattr(module, "DOTTED"))
    rest, settings = _split_dotted(words, getattr(module, "DOTTED", ()))
    args, unknown = parser.parse_known_args([hyphenate_flag(word) for word in rest])
    if unknown:
        typed = next((word for word in rest if hyphenate_flag(word) == unknown[0]), unknown[0])
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ConfigError(
            f"{name}: unknown argument {typed!r}{suggest(unknown[0].partition('=')[0], flags)} "
            f"({PROG} {name} --help lists all)"
        )
    args.dotted = settings
    code: int = module.run(args)
    return code


def check_words(name: str, words: Sequence[str], *, empty: bool) -> None:
    """Raises ConfigError for a null character, and for an empty word unless `empty`: a setting may be an empty text."""
    for word in words:
        if "\0" in word:
            raise ConfigError(f"{name}: {word!r} holds a null character, which no path and no value can")
        if not empty and (not word.strip() or (word.startswith("--") and word.endswith("="))):
            raise ConfigError(f"{name}: the argument {word!r} holds no value; write one, or leave the option out")


def hyphenate_flag(word: str) -> str:
    """A flag in its canonical spelling: --group_size=8 → --group-size=8. Any other word is returned as it is."""
    if not re.match(r"--[A-Za-z]", word):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def _split_dotted(words: Sequence[str], sections: Sequence[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
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
        settings.setdefault(section, {})[name.replace("-", "_")] = value
    return rest, settings


def format_overview() -> str:
    """The text of `onedial --help`, at most WIDTH columns wide."""
    width = max(len(name) for name in COMMANDS)
    lines = [
        f"{PROG} {__version__}: post-train language models with verifiable rewards",
        "",
        f"usage: {PROG} COMMAND [options]",
        "",
        *(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()),
        "",
        f"More on one command: {PROG} COMMAND --help",
    ]
    return wrap_help("\n".join(lines), WIDTH)


def wrap_help(text: str, width: int) -> str:
    """`text` with lines longer than `width` broken; the rest hangs under the line's second column, if it has one."""
    lines = []
    for line in text.splitlines():
        column = re.match(r" *\S.*? {2,}(?=\S)", line)
        hang = len(column[0]) if column is not None and len(column[0]) < width * 2 // 3 else 0
        lines += textwrap.wrap(line, width, subsequent_indent=" " * hang, break_on_hyphens=False) or [""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
